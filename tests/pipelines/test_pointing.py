"""Who points, what confirms it, what it costs, and where a later group begins.

The learner that continues is a procedural solver with a known chance of a slip: what is true of
each step is known, and so is what a test of it should find.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest
from pipeline_cases import CONFIG

from critic.format import critique_dialect, true_critique
from data.records import Generator, Task, make_task
from pipelines.errors import UserError
from pipelines.game.bout import Bout, Pointing, RoundPlan, Start
from pipelines.game.confirmation import Confirmation, add_siblings, claims_of
from pipelines.game.coverage import coverage
from pipelines.game.learner import LearnerBlock
from pipelines.game.lessons import Lessons
from pipelines.game.pointing import Attempt, Pointer
from pipelines.game.referee import Referee
from pipelines.game.resets import Resets
from pipelines.rollouts.sample import Prompt, Sample
from pipelines.rollouts.stage_seconds import StageSeconds
from pipelines.settings.load import load_settings
from rewards.chain import ChainDialect
from rewards.verifiers import Verifiers

CHAIN = ChainDialect()
WITHHELD = "pointing.step_checks=false"
RIGHT = "a4=40\nb1=50\nc7=21\nd6=81>81"
WRONG = "a4=40\nb1=50\nc7=20\nd6=80>80"  # the carry of step c is forgotten: index 2
PLAN = RoundPlan(0, critic_points=True, audit_share=1.0)


def _task(*terms: int) -> Task:
    return make_task(
        family="basic_arithmetic", question=f"Calculate {' + '.join(map(str, terms))}.",
        reference=str(sum(terms)), verifier="exact",
        generator=Generator(name="test", version="0", seed=0, difficulty=""),
    )  # fmt: skip


TASK = _task(4, 1, 7, 6)


class Solver:
    """Continues a chain as a solver that slips at some steps does; a `Player` that only samples.

    Args:
        slip_rate: of each step that it writes.
        writes: what it says of every prompt instead, where given.
    """

    name, num_steps, process_index = "learner", 0, 0

    def __init__(self, slip_rate: float = 0.0, writes: str | None = None) -> None:
        self.slip_rate, self.writes, self.num_asked = slip_rate, writes, 0
        self.seconds = StageSeconds()

    def sample(
        self,
        prompts: Sequence[Prompt],
        purpose: str,
        num: int = 1,
        temperature: float | None = None,
    ) -> list[list[Sample]]:
        self.num_asked += len(prompts) * num
        rng = random.Random(purpose)
        return [[self._continue(str(prompt), rng) for _ in range(num)] for prompt in prompts]

    def _continue(self, prompt: str, rng: random.Random) -> Sample:
        text = self.writes
        if text is None:
            problem, _, begun = prompt.partition("\n")
            operands = [int(term) for term in _terms(problem)]
            steps = CHAIN.parse_solution(begun, truncated=False).steps
            value = int(steps[-1].text.partition("=")[2][::-1]) if steps else 0
            rest = _task(*operands[len(steps) :]) if len(operands) > len(steps) else None
            text = _rest(rest, value, len(steps), self.slip_rate, rng)
        return Sample(text, [1] * len(text), [0.0] * len(text), False)

    def timed(self, stage: str):  # type: ignore[no-untyped-def]
        return self.seconds.timed(stage)


def _terms(problem: str) -> list[str]:
    return "".join(" " if c.isalpha() else c for c in problem).split()


def _rest(rest: Task | None, value: int, done: int, slip_rate: float, rng: random.Random) -> str:
    lines = []
    for index, term in enumerate(_terms(rest.question.replace("+", " ")[10:-1]) if rest else []):
        value += int(term) + (10 if rng.random() < slip_rate else 0)
        lines.append(f"{'abcdefghij'[done + index]}{term}={f'{value:02d}'[::-1]}")
    return "\n".join(lines) + f">{f'{value:02d}'[::-1]}"


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield verifiers


def _referee(verifiers: Verifiers, *overrides: str) -> Referee:
    return Referee(load_settings(CONFIG, list(overrides)), verifiers)


def _attempt(
    referee: Referee, text: str, task: Task = TASK, prefix: str = "", critique: str | None = None
) -> Attempt:
    sample = Sample(text[len(prefix) :], [1] * (len(text) - len(prefix)), [], False)
    solution, verdict = referee.read(task, sample, prefix)
    said = None
    if critique is not None:
        said = critique_dialect("chain").parse(critique, solution, truncated=False)
    return Attempt(task.id, task, prefix, solution, verdict, len(sample.token_ids), said)


# -- who points ------------------------------------------------------------------------------------


def _point(referee: Referee, attempt: Attempt, critic_points: bool = True) -> Pointing | None:
    return Pointer(referee, random.Random(0)).point([attempt], critic_points)[0]


def test_code_points_where_it_may_check_steps(verifiers: Verifiers) -> None:
    referee = _referee(verifiers)
    assert _point(referee, _attempt(referee, WRONG)) == Pointing(2, "code", "confirmed")
    assert _point(referee, _attempt(referee, RIGHT)) is None, "nothing to point at"
    assert _point(referee, _attempt(referee, "a4=40\nb")) is None, "not a readable solution"


@pytest.mark.parametrize(
    ("critique", "pointing"),
    [
        ("a40.b50.c21x~0", Pointing(2, "critic", "confirmed")),
        ("a40.b60x~0", Pointing(1, "critic", "refuted")),
        ("a40.b50.c20.d80.>80.~9", None),  # it finds nothing wrong
        ("a40.b50.c21.~0", None),  # it contradicts itself
        (None, None),  # it was not asked
    ],
)
def test_the_critic_points_and_code_confirms(
    verifiers: Verifiers, critique: str | None, pointing: Pointing | None
) -> None:
    referee = _referee(verifiers, "pointing.source=critic")
    attempt = _attempt(referee, WRONG, critique=critique)
    assert _point(referee, attempt) == pointing
    assert _point(referee, attempt, critic_points=False) is None, "it is not to point yet"


def test_code_says_nothing_where_step_checks_are_withheld(verifiers: Verifiers) -> None:
    referee = _referee(verifiers, WITHHELD, "pointing.chance_share=0")
    attempt = _attempt(referee, WRONG, critique="a40.b50.c21x~0")
    assert _point(referee, attempt) == Pointing(2, "critic", "unknown")
    believing = _referee(verifiers, WITHHELD, "pointing.chance_share=0", "pointing.confirm=false")
    assert _point(believing, attempt) == Pointing(2, "critic", "confirmed")


def test_a_share_is_left_to_chance(verifiers: Verifiers) -> None:
    referee = _referee(verifiers, WITHHELD, "pointing.chance_share=0.25")
    attempts = [_attempt(referee, WRONG, critique="a40.b50.c21x~0")] * 400
    found = Pointer(referee, random.Random(0)).point(attempts, critic_points=True)
    by_chance = [p for p in found if p is not None and p.source == "chance"]
    assert len(found) / 5 < len(by_chance) < len(found) / 3
    assert {p.index for p in by_chance} == {0, 1, 2, 3, 4}, "every step may be chosen"


def test_nobody_points_into_a_given_beginning(verifiers: Verifiers) -> None:
    """The flaw stands in the prefix, which this completion did not write."""
    prefix = WRONG[: WRONG.index("d6")]
    referee = _referee(verifiers)
    assert _point(referee, _attempt(referee, WRONG, prefix=prefix)) is None
    blind = _referee(verifiers, WITHHELD, "pointing.source=chance")
    attempts = [_attempt(blind, WRONG, prefix=prefix)] * 50
    found = Pointer(blind, random.Random(0)).point(attempts, critic_points=True)
    assert {p.index for p in found if p is not None} == {3, 4}


def test_settings_that_contradict_each_other_are_refused(verifiers: Verifiers) -> None:
    with pytest.raises(UserError, match="withholds what code points with"):
        _referee(verifiers, WITHHELD, "pointing.source=code")


# -- confirmation by continuations -------------------------------------------------------------------


def _confirm(
    verifiers: Verifiers, index: int, slip_rate: float, *overrides: str, times: int = 1
) -> tuple[list[Pointing | None], Confirmation]:
    referee = _referee(verifiers, WITHHELD, "pointing.continuation_budget=20", *overrides)
    confirmation = Confirmation(referee, Solver(slip_rate), random.Random(0))
    attempt = _attempt(referee, WRONG)
    found = confirmation.confirm([attempt] * times, [Pointing(index, "critic")] * times, "test")
    return found, confirmation


@pytest.mark.parametrize(
    ("index", "status"), [(0, "refuted"), (1, "refuted"), (2, "confirmed"), (3, "unknown")]
)
def test_only_the_fatal_step_is_confirmed(verifiers: Verifiers, index: int, status: str) -> None:
    """Before it the same steps pass too; after it nothing does."""
    found, _ = _confirm(verifiers, index, slip_rate=0.15)
    (pointing,) = found
    assert pointing is not None
    if status == "confirmed":
        assert pointing.status == "confirmed"
        assert pointing.right_step == "c7=21", "the lesson that a continuation taught"
        assert pointing.value_before is not None and pointing.value_before > 0.2
    else:
        assert pointing.status != "confirmed"


def test_where_nothing_ever_passes_nothing_is_known(verifiers: Verifiers) -> None:
    found, confirmation = _confirm(verifiers, 2, slip_rate=1.0)
    assert found[0] is not None and found[0].status == "unknown"
    assert confirmation.num_tokens > 0


def test_copies_of_a_claim_are_tested_once(verifiers: Verifiers) -> None:
    found, confirmation = _confirm(verifiers, 2, slip_rate=0.15, times=8)
    assert confirmation.num_tested == 1
    assert len(set(found)) == 1 and found[0] is not None and found[0].status == "confirmed"


@pytest.mark.parametrize(("budget", "spends"), [("0", False), ("0.5", True), ("2", True)])
def test_continuations_keep_to_their_budget(
    verifiers: Verifiers, budget: str, spends: bool
) -> None:
    """The order of the claims costs a little more than was estimated, or less, never much."""
    referee = _referee(verifiers, WITHHELD, f"pointing.continuation_budget={budget}")
    solver = Solver(0.2)
    confirmation = Confirmation(referee, solver, random.Random(0))
    tasks = [_task(4, 1, 7, 6, term) for term in range(10)]
    texts = [f"a4=40\nb1=50\nc7=20\nd6=80\ne{t}={f'{8 + t:02d}'[::-1]}>{f'{8 + t:02d}'[::-1]}"
             for t in range(10)]  # fmt: skip
    attempts = [_attempt(referee, text, task) for text, task in zip(texts, tasks, strict=True)]
    pointings = [Pointing(2, "critic")] * len(attempts)
    confirmation.confirm(attempts, pointings, "test")
    allowed = float(budget) * sum(attempt.num_tokens for attempt in attempts)
    assert confirmation.num_tokens <= 2.2 * allowed
    assert (confirmation.num_tokens > 0) == spends


def test_siblings_are_evidence_that_costs_nothing(verifiers: Verifiers) -> None:
    referee = _referee(verifiers, WITHHELD)
    texts = [WRONG, RIGHT, RIGHT, WRONG.replace("80", "90"), "a4=50\nb1=60>60"]
    attempts = [_attempt(referee, text) for text in texts]
    (claim,) = claims_of(attempts, [Pointing(2, "critic"), None, None, None, None])
    add_siblings(claim, attempts)
    assert (claim.others.passed, claim.others.tried) == (2, 2)
    assert (claim.same.passed, claim.same.tried) == (0, 1), "it took the same step and failed"
    assert claim.right_step == "c7=21"


# -- a block of the learner ---------------------------------------------------------------------------


def _block(referee: Referee, critic: Solver | None, starts: Sequence[Start]) -> LearnerBlock:
    return LearnerBlock(referee, Solver(0.15), critic, starts, PLAN)


def _samples(*texts: str) -> list[Sample]:
    return [Sample(text, [1] * len(text), [-0.1] * len(text), False) for text in texts]


def test_the_verifier_pays_and_the_critic_points(verifiers: Verifiers) -> None:
    """The reward is the outcome's whatever the critic says; the flaw is the flawed step's span."""
    referee = _referee(verifiers, "pointing.source=critic")
    block = _block(referee, Solver(writes="a40.b50.c21x~0"), [Start(TASK)])
    right, wrong, unread = block([0, 0, 0], _samples(RIGHT, WRONG, "a4=4"))
    assert [right.reward, wrong.reward, unread.reward] == [1.0, 0.0, 0.0]
    assert right.flaw is None and unread.flaw is None
    assert wrong.flaw is not None and WRONG[slice(*wrong.flaw)] == "c7=20"
    judged = [bout.judged for bout in block.bouts]
    assert judged[0] is not None and [c.status for c in judged[0].claims] == ["refuted"]
    assert judged[1] is not None and [c.status for c in judged[1].claims] == ["confirmed"]
    assert judged[2] is None
    assert block.spent["rollouts"] == len(RIGHT) + len(WRONG) + 4
    assert block.spent["critiques"] == 2 * len("a40.b50.c21x~0")


@pytest.mark.parametrize("critique", ["a40.b50.c21.~0", "nonsense", "a40.b60x~0"])
def test_a_failed_or_refuted_critique_changes_nothing(verifiers: Verifiers, critique: str) -> None:
    asked = _referee(verifiers, "pointing.source=critic")
    silent = _referee(verifiers, "pointing.source=none")
    texts = (RIGHT, WRONG, RIGHT, WRONG)
    pointed = _block(asked, Solver(writes=critique), [Start(TASK)])([0] * 4, _samples(*texts))
    assert pointed == _block(silent, None, [Start(TASK)])([0] * 4, _samples(*texts))


def test_a_completion_is_judged_with_its_beginning(verifiers: Verifiers) -> None:
    """A reset: the span of the flaw counts from where the completion begins."""
    prefix = WRONG[: WRONG.index("c7")]
    block = _block(_referee(verifiers), None, [Start(TASK, prefix)])
    wrong, right = block([0, 0], _samples(WRONG[len(prefix) :], RIGHT[len(prefix) :]))
    assert (wrong.reward, right.reward) == (0.0, 1.0)
    assert wrong.flaw == (0, len("c7=20"))
    assert block.bouts[0].solution.text == WRONG and block.bouts[0].prefix == prefix


def test_shuffled_rewards_point_at_nothing(verifiers: Verifiers) -> None:
    block = _block(_referee(verifiers, "rewards.shuffled=true"), None, [Start(TASK)])
    scored = block([0] * 4, _samples(RIGHT, WRONG, WRONG, WRONG))
    assert sorted(one.reward for one in scored) == [0, 0, 0, 1]
    assert all(one.flaw is None for one in scored)


# -- resets -------------------------------------------------------------------------------------------


def _bouts(verifiers: Verifiers, *texts: str, overrides: Sequence[str] = ()) -> list[Bout]:
    block = _block(_referee(verifiers, *overrides), None, [Start(TASK)])
    block([0] * len(texts), _samples(*texts))
    return block.bouts


def _resets(share: float = 0.5, max_age: int = 10) -> Resets:
    overrides = [f"pointing.reset_share={share}", f"pointing.reset_max_age={max_age}"]
    return Resets(load_settings(CONFIG, overrides).pointing, 0)


def test_the_beginning_before_a_flaw_starts_a_later_group_once(verifiers: Verifiers) -> None:
    resets = _resets()
    resets.collect(_bouts(verifiers, WRONG, WRONG, RIGHT), version=3)
    tasks = [_task(1, 2, n) for n in range(4)]
    starts = resets.starts(tasks, 1, version=4)
    begun = [start for start in starts if start.prefix]
    assert begun == [Start(TASK, "a4=40\nb1=50\n", 3)]
    assert [s.task for s in starts if not s.prefix] == [t for t in tasks if t in
                                                        [s.task for s in starts]]  # fmt: skip
    assert all(not start.prefix for start in resets.starts(tasks, 2, version=5)), "used up"


def test_what_is_too_old_or_not_asked_for_starts_nothing(verifiers: Verifiers) -> None:
    tasks = [_task(1, 2, n) for n in range(4)]
    for resets, version in ((_resets(max_age=2), 6), (_resets(share=0.0), 3)):
        resets.collect(_bouts(verifiers, WRONG), version=3)
        assert resets.starts(tasks, 1, version) == [Start(task) for task in tasks]


def test_a_refuted_pointing_and_a_first_step_start_nothing(verifiers: Verifiers) -> None:
    (bout,) = _bouts(verifiers, WRONG)
    for pointing in (Pointing(2, "critic", "refuted"), Pointing(0, "code", "confirmed"), None):
        resets = _resets()
        resets.collect([replace(bout, pointing=pointing)], version=0)
        assert resets.waiting == []


def test_states_that_succeed_half_of_the_time_go_first(verifiers: Verifiers) -> None:
    (bout,) = _bouts(verifiers, WRONG)
    taken = []
    for round_ in range(200):
        resets = _resets(share=0.5)
        for value, index in ((0.5, 2), (0.02, 1)):
            pointing = Pointing(index, "critic", "confirmed", value)
            resets.collect([replace(bout, pointing=pointing)], version=0)
        (state,) = [s for s in resets.starts([_task(1, 2), _task(2, 2)], round_, 0) if s.prefix]
        taken.append(state.prefix == "a4=40\nb1=50\n")
    assert 0.8 < sum(taken) / len(taken) < 1


def test_waiting_states_survive_a_commit(verifiers: Verifiers) -> None:
    resets, again = _resets(), _resets()
    resets.collect(_bouts(verifiers, WRONG), version=3)
    again.load_state_dict(resets.state_dict())
    assert again.waiting == resets.waiting and len(again.waiting) == 1


# -- the critic's lessons -------------------------------------------------------------------------------


def test_true_critiques_of_both_classes_are_imitated(verifiers: Verifiers) -> None:
    """With and without step checks: each reply reads as a true critique of its solution."""
    for overrides in ((), (WITHHELD,)):
        referee = _referee(verifiers, *overrides)
        bouts = _bouts(verifiers, RIGHT, WRONG, overrides=overrides)
        prompts, replies = Lessons(referee).to_imitate(bouts, 40, random.Random(0))
        assert len(prompts) == len(replies) == 40
        sound = 0
        for prompt, reply in zip(prompts, replies, strict=True):
            problem, _, text = str(prompt).removesuffix("\n!").partition("\n")
            solution = CHAIN.parse_solution(text, truncated=False)
            expected = true_critique(TASK, solution, CHAIN, random.Random(0))
            assert reply.partition("~")[0] == expected.partition("~")[0]
            sound += solution.answer == TASK.reference
        assert 20 <= sound < 30, "half of them, and a few that are right by wrong steps"


def test_a_flaw_that_nobody_located_teaches_no_place(verifiers: Verifiers) -> None:
    referee = _referee(verifiers, WITHHELD)
    bouts = _bouts(verifiers, WRONG, overrides=(WITHHELD, "pointing.source=none"))
    assert Lessons(referee).to_imitate(bouts, 8, random.Random(0)) == ([], [])
    items = Lessons(referee).items(bouts, 8, random.Random(0))
    assert {(item.sound, item.first_bad) for item in items} == {(False, None)}


# -- coverage -------------------------------------------------------------------------------------------


def test_coverage_counts_by_kind_what_is_confirmed_rightly(verifiers: Verifiers) -> None:
    referee = _referee(verifiers, WITHHELD)
    bouts = _bouts(verifiers, WRONG, WRONG, RIGHT, "a4=40\nb1=60\nc7=31\nd6=91>91")
    pointings = [Pointing(2, "critic", "confirmed"), Pointing(1, "chance", "confirmed"), None, None]
    row = coverage(referee, [replace(b, pointing=p) for b, p in zip(bouts, pointings, strict=True)])
    assert row["pointing/failed"] == 3
    assert row["pointing/critic"] == row["pointing/chance"] == pytest.approx(1 / 3)
    assert row["pointing/confirmed"] == pytest.approx(2 / 3)
    assert row["pointing/precision"] == 0.5 and row["pointing/coverage"] == pytest.approx(1 / 3)
    kinds = row["pointing/kinds"]
    assert isinstance(kinds, dict)
    assert kinds["forgotten_carry"] == {"share": pytest.approx(2 / 3), "coverage": 0.5}
    assert coverage(referee, []) == {"pointing/failed": 0}
