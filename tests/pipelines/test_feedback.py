"""What of a run's records its learner imitates, what never, and what is noted of it.

The learner is a recorder: what it is given is what these tests are about.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_cases import CONFIG
from pointing_cases import CHAIN, RIGHT, TASK, WRONG, sum_task

from data.corpus import Corpus
from data.records import Record, SampledWith, Task, split_of
from data.sealed import make_record, seal
from pipelines.errors import UserError
from pipelines.game.admitted import choose, verified
from pipelines.game.bout import RoundPlan, Start
from pipelines.game.feedback import Feedback
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt
from pipelines.settings.load import load_settings
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

CORRECT, INCORRECT = Verdict("correct", "exact", "0", 1.0), Verdict("incorrect", "exact", "0", 0.0)
BATCH = 8
ON = ("feedback.steps=2",)
TRAIN = [t for n in range(60) if (t := sum_task(n % 9 + 1, n // 9 + 1, n % 7)).split == "train"]


class Recorder:
    """A learner that keeps what it is to imitate; likely replies are those that it has imitated."""

    name, num_steps, process_index = "learner", 0, 0

    def __init__(self) -> None:
        self.lessons: list[tuple[list[Prompt], list[str], str, float]] = []

    def imitate(
        self, prompts: Sequence[Prompt], replies: Sequence[str], purpose: str, rate_factor: float
    ) -> None:
        assert prompts and len(prompts) == len(replies) and len(prompts) % BATCH == 0
        self.lessons.append(([*prompts], [*replies], purpose, rate_factor))

    def replies_per_block(self, steps: int) -> int:
        return steps * BATCH

    def score(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        return [[-1.0 / (1 + len(self.lessons))] * len(reply) for reply in replies]


@pytest.fixture
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(5.0)) as found:
        yield found


def _feedback(verifiers: Verifiers, *overrides: str, held_out: Sequence[str] = ()) -> Feedback:
    referee = Referee(load_settings(CONFIG, [*ON, *overrides]), verifiers)
    return Feedback(referee, Recorder(), held_out)  # type: ignore[arg-type]


def _record(
    task: Task,
    round_: int = 0,
    rate: float = 0.5,
    right: bool = True,
    seed: int = 0,
    **more: object,
) -> Record:
    solution = CHAIN.write_solution(task, random.Random(seed), 0.0)
    made = make_record(
        task, solution=solution, answer=task.reference,
        verdict=CORRECT if right else INCORRECT,
        sampling=SampledWith(temperature=1.0, top_p=1.0, seed=seed), learner_hash="x",
        round=round_, pass_rate=rate, reject_reason="" if right else "verifier: incorrect",
    )  # fmt: skip
    return seal(replace(made, **more)) if more else made


def _plan(round_: int, fed_rounds: tuple[int, ...] | None = None) -> RoundPlan:
    return RoundPlan(round_, critic_points=True, fed_rounds=fed_rounds)


def _lessons(feedback: Feedback) -> list[tuple[list[Prompt], list[str], str, float]]:
    learner = feedback.learner
    assert isinstance(learner, Recorder)
    return learner.lessons


# -- what is never imitated -----------------------------------------------------------------------


def test_no_record_that_a_verifier_refused_and_none_of_a_split_that_measures(
    verifiers: Verifiers,
) -> None:
    """Whatever a record calls itself: refused ones, other splits, held-out tasks, contaminated."""
    others = {
        split: next(t for n in range(1, 999) if (t := sum_task(n, 1)).split == split)
        for split in ("audit", "probe", "test")
    }
    assert all(split_of(task.id) == split for split, task in others.items())
    held_out = TRAIN[7]  # of the split for training, but drawn to measure: a list's own test rows
    refused = [
        *(_record(task) for task in others.values()),
        _record(held_out),
        _record(TRAIN[0], right=False),
        _record(TRAIN[1], right=False, accepted=True, reject_reason=""),
        _record(TRAIN[2], accepted=False, reject_reason="critic: confirmed flaw"),
        _record(TRAIN[3], contamination="overlaps with a test task"),
    ]
    assert verified(refused, 0, {held_out.id}) == []
    kept = [_record(task) for task in TRAIN[4:7]]
    feedback = _feedback(verifiers, held_out=[held_out.id])
    feedback.train([*refused, *kept], refused, _plan(1))
    ((prompts, replies, _, _),) = _lessons(feedback)
    assert {str(prompt) for prompt in prompts} == {
        str(feedback.referee.problem(task)) for task in TRAIN[4:7]
    }
    assert set(replies) == {record.solution for record in kept}
    ungated = _feedback(verifiers, "feedback.gate=none", held_out=[held_out.id])
    ungated.train([*refused, *kept], [], _plan(1))
    ((prompts, _, _, _),) = _lessons(ungated)
    measuring = {str(ungated.referee.problem(task)) for task in (*others.values(), held_out)}
    assert measuring.isdisjoint(map(str, prompts)), "not even without a gate"


def test_a_record_that_was_edited_is_named(verifiers: Verifiers, tmp_path: Path) -> None:
    corpus, record = Corpus(tmp_path / "corpus"), _record(TRAIN[0])
    corpus.admit([record])
    edited = replace(record, solution=record.solution + " ")
    feedback = _feedback(verifiers)
    with pytest.raises(UserError, match=f"record {record.id} of round 0 does not match its sha256"):
        feedback.train([], [edited], _plan(1))
    feedback.train([], corpus.records(), _plan(1))
    assert len(_lessons(feedback)) == 1


# -- which are ------------------------------------------------------------------------------------


def test_a_block_holds_a_share_of_failed_tasks_and_no_record_too_often() -> None:
    easy = [_record(task, rate=1.0) for task in TRAIN[:10]]
    hard = [_record(task, rate=0.1) for task in TRAIN[10:13]]
    failed = {record.task_id for record in hard}
    chosen = choose([*easy, *hard], failed, 24, 0.5, 4, random.Random(0))
    assert sum(one.is_replayed for one in chosen) == 12 and len(chosen) == 24
    assert all(one.record.task_id in failed for one in chosen if one.is_replayed)
    assert max(Counter(one.record.id for one in chosen).values()) <= 4
    few = choose([*easy, *hard], failed, 30, 0.9, 4, random.Random(0))
    assert sum(one.is_replayed for one in few) == 12, "three of them, four times each"
    assert len(choose(easy, (), 99, 0.5, 4, random.Random(0))) == 40, "all there is"


def test_tasks_take_turns() -> None:
    """A task that was solved eight times is no more worth than one that was solved once."""
    often = [_record(TRAIN[0], seed=n) for n in range(8)]
    once = [_record(task) for task in TRAIN[1:4]]
    chosen = choose([*often, *once], (), 8, 0.0, 8, random.Random(0))
    assert set(Counter(one.record.task_id for one in chosen).values()) == {2}


def test_records_grow_too_old_and_too_few(verifiers: Verifiers) -> None:
    """Two records may fill a batch of eight four times over, and one step then, not two."""
    feedback = _feedback(verifiers, "feedback.max_age_rounds=3", "feedback.max_copies=4")
    earlier = [_record(task, round_=n) for n, task in enumerate(TRAIN[:4])]
    feedback.train([], earlier, _plan(5))
    ((prompts, _, purpose, _),) = _lessons(feedback)
    assert purpose == "round 5/feedback" and len(prompts) == 8
    assert feedback.row["feedback/steps"] == 1 and feedback.row["feedback/pool"] == 2
    assert feedback.row["feedback/mean_age"] == 2.5, "of rounds 2 and 3"
    remarks: list[str] = []
    feedback.remark = remarks.append
    feedback.train([], earlier, _plan(6))
    assert len(_lessons(feedback)) == 1 and feedback.fed_accuracy is None
    assert remarks == ["nothing is fed back: 1 records are too few for a step"]


def test_without_the_table_nothing_happens(verifiers: Verifiers) -> None:
    feedback = _feedback(verifiers, "feedback.steps=0")
    feedback.train([_record(task) for task in TRAIN], [], _plan(0))
    starts = [Start(task) for task in TRAIN]
    assert not _lessons(feedback) and feedback.row == {}
    assert feedback.revisit(starts, [], _plan(1)) == starts


def test_a_restricted_block_takes_verified_records_of_clean_rounds(verifiers: Verifiers) -> None:
    """Also where the gate was open; the round's own are not judged yet."""
    for gate in ("none", "verified"):
        feedback = _feedback(verifiers, f"feedback.gate={gate}")
        earlier = [_record(task, round_=n) for n, task in enumerate(TRAIN[:4])]
        records = [_record(TRAIN[5], 4), _record(TRAIN[6], 4, right=False)]
        feedback.train(records, earlier, _plan(4, fed_rounds=(0, 2)))
        ((_, replies, _, _),) = _lessons(feedback)
        assert set(replies) == {earlier[0].solution, earlier[2].solution}
        assert feedback.row["feedback/rounds"] == [0, 2]
        feedback.train(records, earlier, _plan(4, fed_rounds=()))
        assert len(_lessons(feedback)) == 1, "suspended: no round was clean"


# -- what is noted of it --------------------------------------------------------------------------


def test_the_row_says_what_was_fed_and_what_it_did(verifiers: Verifiers) -> None:
    feedback = _feedback(verifiers, "feedback.replay_share=0.5", "feedback.rate_factor=0.25")
    hard, easy = _record(TRAIN[0], 1, rate=0.125), _record(TRAIN[1], 2, rate=1.0)
    feedback.train([easy], [hard], _plan(2))
    assert _lessons(feedback)[0][3] == 0.25
    row = feedback.row
    assert {name: row[f"feedback/{name}"] for name in ("steps", "replies", "records", "tasks")} == {
        "steps": 2, "replies": 16, "records": 2, "tasks": 2,
    }  # fmt: skip
    assert row["feedback/replayed_share"] == 0.5 and row["feedback/mean_age"] == 0.5
    assert row["feedback/nll_before"] == 1.0 and row["feedback/nll_after"] == 0.5
    assert row["feedback/accuracy"] == 1.0 and feedback.fed_accuracy is not None
    assert feedback.waiting == {hard.task_id: 0.125}
    json.dumps(row)


def test_the_audit_sees_wrong_answers_and_wrong_steps(verifiers: Verifiers) -> None:
    """An open gate feeds wrong answers; a verifier's pass may hide two slips that cancel."""
    right = make_record(
        TASK, solution=RIGHT, answer="18", verdict=CORRECT, learner_hash="x", round=0,
        sampling=SampledWith(temperature=1.0, top_p=1.0, seed=0), pass_rate=0.5,
    )  # fmt: skip
    two_slips = seal(replace(right, id="two slips", solution="a4=40\nb1=40\nc7=21\nd6=81>81"))
    wrong = seal(replace(right, id="wrong", solution=WRONG, verdict_outcome="incorrect"))
    feedback = _feedback(verifiers, "feedback.gate=none")
    feedback.train([right, two_slips, wrong], [], _plan(0))
    assert feedback.fed_accuracy is not None
    assert feedback.fed_accuracy.value == pytest.approx(1 / 3) and feedback.fed_accuracy.error > 0.2


def test_a_replayed_task_is_visited_again_and_its_pass_rate_is_compared(
    verifiers: Verifiers,
) -> None:
    """What the learner solves by then is no longer replayed."""
    feedback = _feedback(verifiers, "feedback.replay_share=0.5", "feedback.revisit_share=0.25")
    hard, easy = _record(TRAIN[0], rate=0.125), _record(TRAIN[1], rate=1.0)
    feedback.train([hard, easy], [], _plan(0))
    fresh = [Start(TRAIN[9], "a1=10\n"), *(Start(task) for task in TRAIN[2:9])]
    starts = feedback.revisit(fresh, [hard, easy], _plan(1))
    again = [start for start in starts if start not in fresh]
    assert [start.task.id for start in again] == [hard.task_id] and again[0].task == TRAIN[0]
    assert starts[0] == fresh[0], "what begins within a solution stays"
    visited = [_record(TRAIN[0], 1, rate=0.75, seed=1)]
    feedback.train(visited, [hard, easy], _plan(1))
    row = feedback.row
    assert row["feedback/visited_again"] == 1
    assert (row["feedback/pass_rate_before"], row["feedback/pass_rate_now"]) == (0.125, 0.75)
    assert row["feedback/pool_tasks_failed"] == 0 and row["feedback/replayed_share"] == 0.0
    assert feedback.waiting == {}
    failed = [_record(TRAIN[0], 2, rate=0.0, right=False, seed=2)]
    feedback.train(failed, [hard, easy, *visited], _plan(2))
    assert feedback.row["feedback/pool_tasks_failed"] == 1, "by its last visit, which had no record"


def test_what_is_known_of_tasks_survives_a_commit(verifiers: Verifiers) -> None:
    """The same records after it, in the same order."""
    overrides = ("feedback.replay_share=0.5", "feedback.revisit_share=0.5")
    one, other = _feedback(verifiers, *overrides), _feedback(verifiers, *overrides)
    rounds = [[_record(t, n, rate=0.2 + 0.3 * (n % 2)) for t in TRAIN[4 * n : 4 * n + 4]]
              for n in range(3)]  # fmt: skip
    one.train(rounds[0], [], _plan(0))
    one.train(rounds[1], rounds[0], _plan(1))
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    earlier, starts = rounds[0] + rounds[1], [Start(task) for task in TRAIN[20:28]]
    assert one.revisit(starts, earlier, _plan(2)) == other.revisit(starts, earlier, _plan(2))
    one.train(rounds[2], earlier, _plan(2))
    other.train(rounds[2], earlier, _plan(2))
    assert _lessons(one)[-1] == _lessons(other)[-1]
    first, second = (
        {name: value for name, value in each.row.items() if "nll" not in name}
        for each in (one, other)
    )  # the recorder's likelihood counts its own lessons
    assert first == second and first["feedback/visited_again"] == 0


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["feedback.gate=none", "feedback.replay_share=0.5"], "knows no verified solution"),
        (["feedback.steps=0", "feedback.replay_share=0.5"], "takes no step"),
        (["feedback.revisit_share=0.1"], "replay_share = 0 replays none"),
        (["feedback.steps=0", 'monitor.offers=["verified_only"]'], "feeds nothing back"),
        (['monitor.offers=["raise_real_share"]'], "no data of others"),
        (["feedback.step=3"], 'did you mean "steps"'),
    ],
)
def test_settings_that_contradict_themselves_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_settings(CONFIG, [*ON, *overrides])


def test_the_monitor_watches_feedback_where_there_is_any() -> None:
    off, on = load_settings(CONFIG).monitor, load_settings(CONFIG, ON).monitor
    assert "fed_accuracy" not in off.rules and "verified_only" not in off.offers
    assert on.rules["fed_accuracy"].channel == "E"
    assert {*on.offers} == {*off.offers, "verified_only"}
    own = load_settings(
        CONFIG, [*ON, "monitor.offers=[]", "monitor.rules.fed_accuracy.matters=0.2"]
    ).monitor
    assert own.offers == () and own.rules["fed_accuracy"].matters == 0.2
    assert own.rules["fed_accuracy"].bad == "falling"
