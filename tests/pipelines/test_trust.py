"""When a critic's word counts that no test could decide."""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from pointing_cases import (
    CHAIN,
    PLAN,
    TASK,
    WITHHELD,
    WRONG,
    Judge,
    Solver,
    block_of,
    bouts_judged_by,
    referee_of,
    samples_of,
    sum_task,
)

from critic.measured import MeasuredCritique
from critic.value_drop import Tally
from pipelines.game.bout import Bout, Pointing, Source, Start, Status
from pipelines.game.critic import CriticGame
from pipelines.game.lessons import Lessons
from pipelines.game.trust import Trust
from pipelines.rollouts.sample import Sample
from rewards.verdict import Verdict
from rewards.verifiers import Verifiers

WRONG_WORD = "a4=40.b1=50.c7=20.d6=80.>22.~9"  # names the answer, which holds given what was stated


@pytest.fixture(scope="module")
def verifiers() -> Iterator[Verifiers]:
    with closing(Verifiers(timeout_seconds=20)) as verifiers:
        yield verifiers


def _measured(named: str | None, first_bad: str | None, task: int = 0) -> MeasuredCritique:
    kind = None if first_bad is None else "off_by_one"
    return MeasuredCritique(str(task), "text", first_bad is None, 0.5, named, first_bad, kind, True)


def _bouts(source: Source, status: Status, num: int) -> list[Bout]:
    """Failures of so many tasks, each pointed at."""
    return [
        Bout(
            sum_task(4, 1, 7, term), Sample(WRONG, [1], [-0.1], False),
            CHAIN.parse_solution(WRONG, truncated=False),
            Verdict("incorrect", "exact", "1", 0.0, ""), None, 0.0, Pointing(2, source, status),
        )
        for term in range(num)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("passed", "tried", "low", "high"),
    [(0, 0, 0.0, 1.0), (45, 50, 0.786, 0.957), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0)],
)
def test_an_interval_of_a_share(passed: int, tried: int, low: float, high: float) -> None:
    """Wilson's, as R's prop.test(correct = FALSE) prints it."""
    assert Tally(passed, tried).interval() == pytest.approx((low, high), abs=1e-3)


def test_only_pointings_at_known_flaws_count() -> None:
    """Silence is not wrong, and a sound solution or one found by others was not planted in."""
    found = replace(_measured("c", "c"), kind=None)
    planted = [_measured("c", "c"), _measured("d", "c"), _measured(None, "c")]
    for other in (_measured("a", None), found):
        trust = Trust(0.8)
        trust.audit([*planted, other])
        assert trust.planted == (0.5, 1), "of one task"


@pytest.mark.parametrize(
    ("right", "made", "holds"), [(48, 48, True), (43, 48, False), (6, 6, False), (0, 0, False)]
)
def test_few_or_wrong_pointings_earn_no_trust(right: int, made: int, holds: bool) -> None:
    trust = Trust(0.8)
    trust.audit([_measured("c" if place < right else "d", "c", place) for place in range(made)])
    assert trust.holds == holds


def test_the_last_audits_count_together() -> None:
    """One audit is too short to tell; what an earlier critic said is forgotten."""
    trust = Trust(0.8)
    held = []
    for right in (20, 18, 18, 2, 2, 2):
        trust.audit([_measured("c" if place < right else "d", "c", place) for place in range(20)])
        held.append(trust.holds)
    assert held == [True, True, True, False, False, False]
    assert trust.planted == (6, 60)


@pytest.mark.parametrize(
    ("refuted", "confirmed", "holds"), [(0, 0, True), (4, 0, False), (5, 5, True), (20, 5, False)]
)
def test_trust_ends_where_continuations_refute_it(
    refuted: int, confirmed: int, holds: bool
) -> None:
    """What chance or code pointed at says nothing of the critic."""
    trust = Trust(0.8)
    trust.audit([_measured("c", "c", task) for task in range(48)] * 2)
    bouts = _bouts("critic", "confirmed", confirmed + refuted)[refuted:]
    bouts += _bouts("critic", "refuted", refuted)
    other_end = CHAIN.parse_solution(WRONG.replace("80", "90"), truncated=False)
    copies = [*bouts, *(replace(bout, solution=other_end) for bout in bouts)]
    trust.count([*bouts, *copies, *_bouts("chance", "refuted", 50)])
    assert trust.tested == Tally(confirmed, confirmed + refuted), "copies are one claim"
    assert trust.holds == holds
    trust.count([])
    assert trust.holds == holds, "a round in which nothing was decided says nothing"
    again = Trust(0.8)
    again.load_state_dict(trust.state_dict())
    assert (again.holds, again.row()) == (trust.holds, trust.row())


@pytest.mark.parametrize("is_trusted", [True, False])
def test_an_undecided_pointing_counts_where_the_critic_is_trusted(
    verifiers: Verifiers, is_trusted: bool
) -> None:
    """It gives credit, right or wrong, and teaches the critic nothing."""
    referee = referee_of(verifiers, WITHHELD, "pointing.chance_share=0")
    critic = Solver(writes=WRONG_WORD)
    block = block_of(referee, critic, [Start(TASK)])
    block.plan = replace(PLAN, critic_is_trusted=is_trusted)
    (scored,) = block([0], samples_of(WRONG))
    (bout,) = block.bouts
    assert bout.pointing is not None and bout.located is None
    assert bout.pointing.status == ("trusted" if is_trusted else "unknown")
    assert scored.flaw == ((len(WRONG) - 3, len(WRONG)) if is_trusted else None)
    assert scored.reward == 0.0
    assert referee.lesson(bout).first_bad is None
    known = Lessons(referee, critic).for_trial(block.bouts, 4, random.Random(0))
    assert WRONG not in {item.solution.text for item in known}


@pytest.mark.parametrize("right", [True, False])
def test_an_untrained_critic_earns_trust_too(verifiers: Verifiers, right: bool) -> None:
    still = ("critic.steps_per_round=0", "critic.imitation_steps=0")
    referee = referee_of(verifiers, WITHHELD, "pointing.trust=0.2", *still)
    critic = Judge(right, right)
    game = CriticGame(referee, critic)
    game.train(bouts_judged_by(referee, critic), PLAN)
    assert game.trust.holds == right
    assert game.trust.planted[1] > 0


@pytest.mark.parametrize("right", [True, False])
def test_a_good_critic_is_trusted_from_the_first_round(verifiers: Verifiers, right: bool) -> None:
    """One audit before it is enough; a flaw that the answer does not show says nothing."""
    referee = referee_of(verifiers, WITHHELD)
    game = CriticGame(referee, Judge(right, right))
    game.audit_before([sum_task(4, 1, 7, term) for term in range(1, 25)], PLAN)
    assert game.trust.holds == right
    assert 18 <= game.trust.planted[1] <= 24
    assert game.spent["trials"] > 0


def test_only_a_critic_that_points_untested_asks_for_trust(verifiers: Verifiers) -> None:
    critic = Judge(True, True)

    def asks(*overrides: str) -> bool:
        return CriticGame(referee_of(verifiers, *overrides), critic).asks_trust

    assert asks(WITHHELD) and asks("pointing.source=critic")
    assert not asks(), "code points"
    for override in ("pointing.source=chance", "pointing.confirm=false", "pointing.trust=1"):
        assert not asks(WITHHELD, override)
    assert not asks(WITHHELD, "tasks.dialect=tagged"), "nothing can be planted there"
    game = CriticGame(referee_of(verifiers, "critic.steps_per_round=0"), critic)
    game.train(bouts_judged_by(game.referee, critic), PLAN)
    assert not game.trust.audits


def test_a_trial_plants_flaws_whatever_the_critic_is_taught(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD, "critic.balance_classes=false")
    critic = Judge(True, True)
    bouts, lessons = bouts_judged_by(referee, critic), Lessons(referee, critic)
    trial = lessons.for_trial(bouts, 48, random.Random(0))
    assert len({item.task.id for item in trial if item.planted}) >= 10, "of a dozen tasks"
    assert not any(item.planted for item in lessons.items(bouts, 12, random.Random(0)))


def test_trusted_pointings_are_still_watched_at_less_cost(verifiers: Verifiers) -> None:
    spent = {}
    for is_trusted in (True, False):
        referee = referee_of(verifiers, WITHHELD, "pointing.continuation_budget=4")
        block = block_of(referee, Solver(writes="a4=40.b1=50.c7=21.~9"), [Start(TASK)] * 8)
        block.plan = replace(PLAN, critic_is_trusted=is_trusted)
        texts = [f"a4=40\nb1=50\nc7=20\nd6=80>{value}" for value in range(10, 18)]
        block(list(range(8)), samples_of(*texts))
        spent[is_trusted] = block.spent["continuations"]
    assert 0 < spent[True] <= spent[False] / 2


def test_old_tests_are_forgotten() -> None:
    trust = Trust(0.5)
    trust.count(_bouts("critic", "refuted", 9))
    for _ in range(3):
        trust.count(_bouts("critic", "confirmed", 2))
    assert trust.tested == Tally(6, 6)


def test_what_is_known_of_a_critic_survives_a_resume(verifiers: Verifiers) -> None:
    referee = referee_of(verifiers, WITHHELD, "critic.steps_per_round=0")
    critic = Judge(True, True)
    game = CriticGame(referee, critic)
    game.train(bouts_judged_by(referee, critic), PLAN)
    again = CriticGame(referee, critic)
    again.load_state_dict(json.loads(json.dumps(game.state_dict())))
    assert again.trust.row() == game.trust.row() and again.trust.planted[1] > 0
