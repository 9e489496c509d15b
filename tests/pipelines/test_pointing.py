"""Who points, and what confirms it.

The learner that continues is a procedural solver with a known chance of a slip: what is true of
each step is known, and so is what a test of it should find.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest
from pointing_cases import RIGHT, WITHHELD, WRONG, Solver, attempt_of, referee_of, sum_task

from critic.value_drop import NOTHING, Decision, Tally
from pipelines.errors import UserError
from pipelines.game.bout import Pointing
from pipelines.game.confirmation import Confirmation, add_siblings, claims_of
from pipelines.game.pointing import Attempt, Pointer
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Prompt, Sample
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield verifiers


# -- who points -----------------------------------------------------------------------------------


def _point(referee: Referee, attempt: Attempt, critic_points: bool = True) -> Pointing | None:
    return Pointer(referee, random.Random(0)).point([attempt], critic_points)[0]


def test_code_points_where_it_may_check_steps(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers)
    assert _point(referee, attempt_of(referee, WRONG)) == Pointing(2, "code", "confirmed")
    assert _point(referee, attempt_of(referee, RIGHT)) is None, "nothing to point at"
    assert _point(referee, attempt_of(referee, "a4=40\nb")) is None, "not a readable solution"


@pytest.mark.parametrize(
    ("critique", "pointing"),
    [
        ("a4=40.b1=50.c7=21.~9", Pointing(2, "critic", "confirmed")),
        ("a4=40.b1=60.~9", Pointing(1, "critic", "refuted")),
        ("a4=40.b1=50.c7=20.d6=80.>80.~9", None),  # it finds nothing wrong
        ("a4=40.b1=50.c7=2.~9", None),  # nobody can read it
        (None, None),  # it was not asked
    ],
)
def test_the_critic_points_and_code_confirms(
    verifiers: Verifiers, critique: str | None, pointing: Pointing | None
) -> None:
    referee = referee_of(verifiers, "pointing.source=critic")
    attempt = attempt_of(referee, WRONG, critique=critique)
    assert _point(referee, attempt) == pointing
    assert _point(referee, attempt, critic_points=False) is None, "it is not to point yet"


def test_code_says_nothing_where_step_checks_are_withheld(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD, "pointing.chance_share=0")
    attempt = attempt_of(referee, WRONG, critique="a4=40.b1=50.c7=21.~9")
    assert _point(referee, attempt) == Pointing(2, "critic", "unknown")
    believing = referee_of(verifiers, WITHHELD, "pointing.chance_share=0", "pointing.confirm=false")
    assert _point(believing, attempt) == Pointing(2, "critic", "confirmed")


def test_a_share_is_left_to_chance(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD, "pointing.chance_share=0.25")
    attempts = [attempt_of(referee, WRONG, critique="a4=40.b1=50.c7=21.~9")] * 400
    found = Pointer(referee, random.Random(0)).point(attempts, critic_points=True)
    by_chance = [p for p in found if p is not None and p.source == "chance"]
    assert len(found) / 5 < len(by_chance) < len(found) / 3
    assert {p.index for p in by_chance} == {0, 1, 2, 3, 4}, "every step may be chosen"


def test_chance_points_where_the_critic_is_blind(verifiers: Verifiers) -> None:
    """A failure has a flaw: what the critic calls sound, or faults elsewhere, is unexplained."""
    blind = "a4=40.b1=50.c7=20.d6=80.>80.~9"
    elsewhere = "a4=50.~9"  # in the beginning, which passed from there
    prefix = WRONG[: WRONG.index("b1")]
    referee = referee_of(verifiers, WITHHELD, "pointing.chance_share=0.001")
    for critique, begun, steps in ((blind, "", {0, 1, 2, 3, 4}), (elsewhere, prefix, {1, 2, 3, 4})):
        attempts = [attempt_of(referee, WRONG, prefix=begun, critique=critique)] * 200
        found = Pointer(referee, random.Random(0)).point(attempts, critic_points=True)
        assert {(p.source, p.status) for p in found if p is not None} == {("chance", "unknown")}
        assert {p.index for p in found if p is not None} == steps
    unread = attempt_of(referee, WRONG, critique="a4=40.b1=50.c7=2.~9")
    assert _point(referee, unread) is None, "a parse failure of the critic changes nothing"
    without = referee_of(verifiers, WITHHELD, "pointing.chance_share=0")
    assert _point(without, attempt_of(without, WRONG, critique=blind)) is None


def test_nobody_points_into_a_given_beginning(verifiers: Verifiers) -> None:
    """The flaw stands in the prefix, which this completion did not write."""
    prefix = WRONG[: WRONG.index("d6")]
    referee = referee_of(verifiers)
    assert _point(referee, attempt_of(referee, WRONG, prefix=prefix)) is None
    blind = referee_of(verifiers, WITHHELD, "pointing.source=chance")
    attempts = [attempt_of(blind, WRONG, prefix=prefix)] * 50
    found = Pointer(blind, random.Random(0)).point(attempts, critic_points=True)
    assert {p.index for p in found if p is not None} == {3, 4}


def test_settings_that_contradict_each_other_are_refused(verifiers: Verifiers) -> None:
    with pytest.raises(UserError, match="withholds what code points with"):
        referee_of(verifiers, WITHHELD, "pointing.source=code")


# -- confirmation by continuations ----------------------------------------------------------------


def _confirm(
    verifiers: Verifiers, index: int, slip_rate: float, *overrides: str, times: int = 1
) -> tuple[list[Pointing | None], Confirmation]:
    referee = referee_of(verifiers, WITHHELD, *overrides)
    confirmation = Confirmation(referee, Solver(slip_rate), random.Random(0))
    attempt = attempt_of(referee, WRONG)
    found = confirmation.confirm([attempt] * times, [Pointing(index, "critic")] * times, "test", 20)
    return found, confirmation


@pytest.mark.parametrize(
    ("index", "status"), [(0, "unknown"), (1, "unknown"), (2, "confirmed"), (3, "unknown")]
)
def test_only_the_fatal_step_is_confirmed(verifiers: Verifiers, index: int, status: str) -> None:
    """At a sound step no other one passes; after the fatal one nothing does."""
    found, _ = _confirm(verifiers, index, slip_rate=0.15)
    (pointing,) = found
    assert pointing is not None
    assert pointing.status == status
    if status == "confirmed":
        assert pointing.right_step == "c7=21", "the lesson that a continuation taught"
        assert pointing.value_before is not None and pointing.value_before > 0.35


def test_where_nothing_ever_passes_nothing_is_known(verifiers: Verifiers) -> None:
    found, confirmation = _confirm(verifiers, 2, slip_rate=1.0)
    assert found[0] is not None and found[0].status == "unknown"
    assert confirmation.num_tokens > 0


def test_copies_of_a_claim_are_tested_once(verifiers: Verifiers) -> None:
    found, confirmation = _confirm(verifiers, 2, slip_rate=0.15, times=8)
    assert confirmation.num_tested == 1
    assert len(set(found)) == 1 and found[0] is not None and found[0].status == "confirmed"


@pytest.mark.parametrize(("budget", "spends"), [(0.0, False), (0.5, True), (2.0, True)])
def test_continuations_keep_to_their_budget(
    verifiers: Verifiers, budget: float, spends: bool
) -> None:
    """The order of the claims costs a little more than was estimated, or less, never much."""
    referee = referee_of(verifiers, WITHHELD)
    solver = Solver(0.2)
    confirmation = Confirmation(referee, solver, random.Random(0))
    tasks = [sum_task(4, 1, 7, 6, term) for term in range(10)]
    texts = [f"a4=40\nb1=50\nc7=20\nd6=80\ne{t}={f'{8 + t:02d}'[::-1]}>{f'{8 + t:02d}'[::-1]}"
             for t in range(10)]  # fmt: skip
    attempts = [attempt_of(referee, text, task) for text, task in zip(texts, tasks, strict=True)]
    pointings = [Pointing(2, "critic")] * len(attempts)
    confirmation.confirm(attempts, pointings, "test", budget)
    allowed = budget * sum(attempt.num_tokens for attempt in attempts)
    assert confirmation.num_tokens <= 1.1 * allowed
    assert (confirmation.num_tokens > 0) == spends


def test_siblings_are_evidence_that_costs_nothing(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD)
    texts = [WRONG, RIGHT, RIGHT, WRONG.replace("80", "90"), "a4=50\nb1=60>60"]
    attempts = [attempt_of(referee, text) for text in texts]
    (claim,) = claims_of(attempts, [Pointing(2, "critic"), None, None, None, None])
    add_siblings(claim, attempts)
    assert (claim.others.passed, claim.others.tried) == (2, 2)
    assert (claim.same.passed, claim.same.tried) == (0, 1), "it took the same step and failed"
    assert claim.right_step == "c7=21"


def test_only_what_passed_shows_what_is_right(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD)
    texts = [WRONG, "a4=40\nb1=50\nc7=31\nd6=91>91", RIGHT]
    attempts = [attempt_of(referee, text) for text in texts]
    attempts[2:] = [replace(attempts[2], group="another"), attempts[2]]
    (claim,) = claims_of(attempts, [Pointing(2, "critic"), None, None, None])
    add_siblings(claim, attempts)
    assert (claim.others.passed, claim.others.tried) == (1, 2), "another group begins elsewhere"
    assert claim.right_step == "c7=21"


@pytest.mark.parametrize("passed", [0, 2, 4, 6])
def test_a_places_value_counts_the_failures_that_it_is_claimed_of(
    verifiers: Verifiers, passed: int
) -> None:
    """No evidence for the claim, and all the evidence there is of how often success follows."""
    referee = referee_of(verifiers, WITHHELD)
    attempts = [attempt_of(referee, RIGHT)] * passed + [attempt_of(referee, WRONG)] * (8 - passed)
    pointings = [None] * passed + [Pointing(2, "critic")] * (8 - passed)
    confirmation = Confirmation(referee, Solver(), random.Random(0))
    found = confirmation.confirm(attempts, pointings, "test", 0.0)[-1]
    assert found is not None and found.value_before == passed / 8


def test_what_follows_the_step_says_nothing_of_the_place_before_it(verifiers: Verifiers) -> None:
    """Of four from before the step all pass; the attempt itself did not."""
    found, _ = _confirm(verifiers, 2, slip_rate=0.0)
    assert found[0] is not None
    assert (found[0].status, found[0].value_before) == ("confirmed", 4 / 5)


def test_a_continuation_without_a_verdict_is_no_evidence(verifiers: Verifiers) -> None:
    """A verifier that ran out of time said nothing of either side, nor of the place before."""
    attempts = [attempt_of(referee_of(verifiers, WITHHELD), text) for text in (WRONG, RIGHT)]
    timeout = Verdict("timeout", "exact", "1", None)
    unjudged = [replace(attempt, verdict=timeout) for attempt in attempts]
    (claim,) = claims_of(attempts[:1], [Pointing(2, "critic")])
    add_siblings(claim, [attempts[0], *unjudged])
    assert (claim.others, claim.same, claim.before) == (NOTHING, NOTHING, Tally(0, 1))


def test_a_step_is_not_tried_where_no_other_passes(verifiers: Verifiers) -> None:
    solver = Solver(1.0)
    confirmation = Confirmation(referee_of(verifiers, WITHHELD), solver, random.Random(0))
    confirmation.confirm([attempt_of(confirmation.referee, WRONG)], [Pointing(2, "critic")], "t", 9)
    assert solver.num_asked == 4, "one look from before it"


def test_only_the_last_look_is_lenient(
    verifiers: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    lenient: list[bool] = []

    def undecided(others: Tally, same: Tally, is_last_look: bool) -> Decision:
        lenient.append(is_last_look)
        return "unknown"

    monkeypatch.setattr("pipelines.game.confirmation.decide", undecided)
    _confirm(verifiers, 2, slip_rate=0.0)
    assert lenient == [False, False, True]


def test_claims_of_different_steps_are_different_claims(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD)
    attempts = [attempt_of(referee, text) for text in (WRONG, WRONG.replace("c7=20", "c7=22"))]
    assert len(claims_of(attempts, [Pointing(2, "critic")] * 2)) == 2


@pytest.mark.parametrize(("index", "asked"), [(0, 0), (2, 8)])
def test_what_has_no_hope_is_not_tried(verifiers: Verifiers, index: int, asked: int) -> None:
    """Where one in 65 passes at best: nothing from the start, one in some ten from half way."""
    referee, solver = referee_of(verifiers, WITHHELD), Solver()
    attempts = [attempt_of(referee, WRONG)] * 32
    confirmation = Confirmation(referee, solver, random.Random(0))
    confirmation.confirm(attempts, [Pointing(index, "critic")] * 32, "test", 20)
    assert solver.num_asked == asked


def test_what_the_context_cannot_hold_is_not_tried(verifiers: Verifiers) -> None:
    class Long(Solver):
        def prompt_length(self, prompt: Prompt) -> int:
            return 10_000

    referee, solver = referee_of(verifiers, WITHHELD), Long()
    confirmation = Confirmation(referee, solver, random.Random(0))
    found = confirmation.confirm(
        [attempt_of(referee, WRONG)], [Pointing(2, "critic")], "test", budget=20
    )
    assert solver.num_asked == 0 and found[0] == Pointing(2, "critic")


def test_cheap_and_likely_claims_are_preferred(verifiers: Verifiers) -> None:
    """Of ten early claims and ten late ones a small budget tries late ones above all."""
    referee = referee_of(verifiers, WITHHELD)
    tried: list[str] = []

    class Noting(Solver):
        def sample(self, prompts: Sequence[Prompt], *given: object) -> list[list[Sample]]:
            tried.extend(map(str, prompts))
            return super().sample(prompts, *given)  # type: ignore[arg-type]

    tasks = [sum_task(4, 1, 7, 6, term) for term in range(10)] * 2
    texts = [f"a4=40\nb1=50\nc7=20\nd6=80\ne{t}={f'{8 + t:02d}'[::-1]}>{f'{8 + t:02d}'[::-1]}"
             for t in range(10)] * 2  # fmt: skip
    attempts = [attempt_of(referee, text, task) for text, task in zip(texts, tasks, strict=True)]
    pointings = [Pointing(1, "critic")] * 10 + [Pointing(4, "critic")] * 10
    Confirmation(referee, Noting(1.0), random.Random(0)).confirm(attempts, pointings, "test", 1.0)
    late = sum("d6=80" in prompt for prompt in tried)
    assert late > 2 * (len(tried) - late)
