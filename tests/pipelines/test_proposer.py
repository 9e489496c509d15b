"""The proposer is paid for new, valid tasks that are solved about half the time alone."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pointing_cases import CONFIG, PLAN, Solver, block_of, referee_of, samples_of, sum_task

from data.contamination import Contamination
from data.dedup import DuplicateIndex
from data.records import Task
from pipelines.errors import UserError
from pipelines.game.bout import Start
from pipelines.game.curriculum import Curriculum, build_source
from pipelines.game.gate import Gate
from pipelines.game.proposer import Judged, ProposalBlock, Proposer, agreed, pay, proposed_task
from pipelines.rollouts.sample import Prompt, Scorer
from pipelines.settings.load import load_settings
from rewards.dialect import dialect
from rewards.proposals import read_proposal
from rewards.verifiers import Verifiers

CHAIN = dialect("chain")


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(20)) as made:
        yield made


class Writer(Solver):
    """A learner that proposes what it is told, and solves as `Solver` does."""

    def __init__(self, slip_rate: float, *proposals: str) -> None:
        super().__init__(slip_rate)
        self.proposals, self.blocks = proposals, list[str]()

    def prompts_per_block(self, steps: int) -> int:
        return steps

    def play(
        self, prompts: Sequence[Prompt], scorer: Scorer, purpose: str, block: str = ""
    ) -> None:
        self.blocks.append(block)
        samples = samples_of(*self.proposals)
        self.scores = scorer([0] * len(samples), samples)


def task_of(text: str) -> Task:
    question = read_proposal(CHAIN, text)
    assert question is not None
    return proposed_task(Judged(question, "0", "", None, ""), CHAIN, by_rule=True)


EVERY = [f"a{a}b{b}c7d9" for a in range(1, 9) for b in range(1, 9)]
WRITTEN = [text for text in EVERY if task_of(text).split == "train"]


def proposer_of(
    verifiers: Verifiers, learner: Solver, *overrides: str, held_out: Sequence[Task] = ()
) -> Proposer:
    referee = referee_of(verifiers, "proposer.steps=1", *overrides)
    curriculum = Curriculum(build_source(referee.settings), 0)
    return Proposer(referee, learner, curriculum, held_out)


def rewards(learner: Writer) -> list[float | None]:
    return [score.reward for score in learner.scores]


def test_pay_is_highest_in_the_middle() -> None:
    assert [pay(rate) for rate in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.5, 0]


def test_easy_unreadable_and_invalid_proposals_earn_nothing(verifiers: Verifiers) -> None:
    learner = Writer(0.0, WRITTEN[0], "hello", "a5")
    proposer = proposer_of(verifiers, learner)
    proposer.train(PLAN)
    assert rewards(learner) == [0, 0, 0] and proposer.waiting == []
    assert learner.blocks == ["proposals"]
    shares = {name: proposer.row[f"proposer/{name}"] for name in ("good", "unreadable", "invalid")}
    assert shares == pytest.approx({"good": 1 / 3, "unreadable": 1 / 3, "invalid": 1 / 3})
    assert proposer.row["proposer/pass_rate"] == 1


def test_what_is_solved_now_and_then_is_paid_and_waits(verifiers: Verifiers) -> None:
    learner = Writer(0.15, *WRITTEN[:12])
    proposer = proposer_of(verifiers, learner)
    proposer.train(PLAN)
    rates = {one.question: one.rate for one in proposer.waiting}
    paid = {read_proposal(CHAIN, w): r for w, r in zip(WRITTEN, rewards(learner), strict=False)}
    assert len(rates) >= 6
    for question, rate in rates.items():
        assert rate is not None and 0.1 <= rate <= 0.9
        assert paid[question] == pytest.approx(pay(rate))
    again = Writer(0.15, *WRITTEN[:12])
    proposer.learner = again
    proposer.train(PLAN)
    assert rewards(again) == [0] * 12, "they are known by now"


def test_copies_share_what_one_would_earn(verifiers: Verifiers) -> None:
    alone, copied = Writer(0.15, WRITTEN[3]), Writer(0.15, *[WRITTEN[3]] * 4)
    for learner in (alone, copied):
        proposer_of(verifiers, learner).train(PLAN)
    (whole,), parts = rewards(alone), rewards(copied)
    assert whole and parts == pytest.approx([whole / 4] * 4)
    assert copied.num_asked == alone.num_asked, "one is solved for all"


def test_the_group_is_taught_the_other_task_and_not_the_copied_one(verifiers: Verifiers) -> None:
    """Of advantages, which are what is optimised: seven copies of a task beside another one."""
    alone = Writer(0.15, *WRITTEN[:12])
    proposer_of(verifiers, alone).train(PLAN)
    paid = sorted(
        (reward or 0.0, text) for reward, text in zip(rewards(alone), WRITTEN, strict=False)
    )
    copied, other = paid[-1][1], next(text for reward, text in paid if reward > 0.4)
    assert copied != other
    learner = Writer(0.15, *[copied] * 7, other)
    proposer_of(verifiers, learner).train(PLAN)
    group = [reward or 0.0 for reward in rewards(learner)]
    advantages = [reward - sum(group) / len(group) for reward in group]
    assert advantages[-1] > 0 and max(advantages[:-1]) < 0


def test_what_proposing_costs_is_counted(verifiers: Verifiers) -> None:
    proposer = proposer_of(verifiers, Writer(0.15, *WRITTEN[:3]))
    proposer.train(PLAN)
    assert proposer.spent["proposals"] == sum(map(len, WRITTEN[:3]))
    assert proposer.spent["solvers"] >= 3 * 8 * len("a4=40\nb1=50")


def test_no_held_out_task_is_proposed(verifiers: Verifiers) -> None:
    elsewhere = [text for text in EVERY if text not in WRITTEN]
    learner = Writer(0.15, *elsewhere[:6], WRITTEN[0])
    proposer = proposer_of(verifiers, learner, held_out=[task_of(WRITTEN[0])])
    proposer.train(PLAN)
    assert rewards(learner) == [0] * 7 and learner.num_asked == 0
    assert proposer.row["proposer/known"] == 1


def test_what_waits_longest_takes_the_place_of_fresh_tasks(verifiers: Verifiers) -> None:
    learner = Writer(0.15, *WRITTEN[:12])
    proposer = proposer_of(verifiers, learner, "proposer.share=0.5")
    proposer.train(PLAN)
    waited = [one.question for one in proposer.waiting]
    starts = [Start(sum_task(n, 1)) for n in range(5)] + [Start(sum_task(9, 9), "a9=90\n")]
    placed = proposer.place(starts)
    own = [start.task.question for start in placed if start.task.family == "proposed"]
    assert own == waited[:3] and placed[-1] == starts[-1]
    assert [one.question for one in proposer.waiting] == waited[3:]
    assert all(proposer.is_known(start.task.question) for start in placed)
    task = next(start.task for start in placed if start.task.family == "proposed")
    assert task.reference == str(sum(map(int, task.question[10:-1].split(" + "))))


def test_it_goes_on_where_it_was_saved(verifiers: Verifiers) -> None:
    proposer = proposer_of(verifiers, Writer(0.15, *WRITTEN[:12]))
    proposer.train(PLAN)
    other = proposer_of(verifiers, Writer(0.15))
    other.load_state_dict(proposer.state_dict())
    assert (other.waiting, other.seen) == (proposer.waiting, proposer.seen) and other.waiting


def test_solvers_that_agree_give_the_answer_and_the_record_says_so(verifiers: Verifiers) -> None:
    assert agreed(["3", " 3", "4", None]) == ("3", 0.5) and agreed([None, ""]) == ("", 0.0)
    learner = Writer(0.1, *WRITTEN[:8])
    proposer = proposer_of(verifiers, learner, "proposer.validity=agreement")
    proposer.train(PLAN)
    assert proposer.waiting
    assert all(0.5 <= (one.rate or 0) <= 0.9 and one.answer for one in proposer.waiting)
    block = block_of(proposer.referee, None, [Start(proposer.task(proposer.waiting[0]))])
    block([0], samples_of("a1=10>10"))
    (record,) = Gate(Contamination([]))(block.bouts, DuplicateIndex([]), 0)
    assert record.label_source == "consensus" and record.generator_name == "proposer (agreement)"


def test_settings_that_leave_no_proposal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too easy to be played"):
        load_settings(CONFIG, ["proposer.validity=agreement", "proposer.agreement=0.95"])


def test_a_completion_that_was_cut_off_proposes_nothing(verifiers: Verifiers) -> None:
    proposer = proposer_of(verifiers, Writer(0.15))
    (sample,) = samples_of(WRITTEN[0])
    (score,) = ProposalBlock(proposer, PLAN)([0], [replace(sample, truncated=True)])
    assert score.reward == 0


@pytest.mark.parametrize("text", ["*a0b9999999999999999", "a9999999999999999b9999999999999999"])
@pytest.mark.parametrize("validity", ["rule", "agreement"])
def test_what_the_dialect_cannot_pose_is_invalid(
    verifiers: Verifiers, validity: str, text: str
) -> None:
    learner = Writer(0.1, text)
    proposer = proposer_of(verifiers, learner, f"proposer.validity={validity}")
    proposer.train(PLAN)
    assert rewards(learner) == [0] and proposer.row["proposer/invalid"] == 1


def test_a_task_is_paid_once_in_a_block(verifiers: Verifiers) -> None:
    block = ProposalBlock(proposer_of(verifiers, Writer(0.15)), PLAN)
    first, second = (block([0], samples_of(WRITTEN[3]))[0].reward for _ in range(2))
    assert first and second == 0


def test_answers_of_one_value_agree() -> None:
    assert agreed(["7", "7.0", "$7", "8"]) == ("7", 0.75)
