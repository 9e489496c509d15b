"""What one check makes sure: gold tasks that are read again, and how far a run swings anyway."""

import math

import pytest
from monitor_cases import SETTINGS, Readings, exact
from monitor_cases import judge as judged

from critic.monitor.decide import begin, check, wants_more
from critic.monitor.readings import Reading, settled
from critic.monitor.settings import GOLD, MonitorSettings
from critic.monitor.state import Health

DULL = {"token_entropy": 0.02, "answer_entropy_within": 0.1, "distinct_ratio": 0.1}


def judge(rows: list[Readings], settings: MonitorSettings = SETTINGS) -> list[Health]:
    return judged(rows, settings)[1]


def states(verdicts: list[Health]) -> list[str]:
    return [health.state for health in verdicts]


def test_a_run_that_is_known_to_swing_may_lose_much_in_one_check() -> None:
    """Recorded runs lost 43% of their accuracy in one check, and had it again in the next.

    Of one that has come back from as deep a dip before, that is a warning; of one that never did it
    is a fall, from which it may come back.
    """
    fallen = exact(gold_accuracy=0.55 * 0.57)
    swung = [*[exact()] * 5, exact(gold_accuracy=0.37), *[exact()] * 6]
    assert states(judge([*swung, fallen, *swung]))[11:14] == ["ok", "warn", "ok"]
    assert states(judge([*swung, exact(gold_accuracy=0.26)]))[11:] == ["ok", "intervene"]
    verdicts = judge([exact()] * 12 + [fallen] + [exact()] * 10)
    assert states(verdicts)[11:15] == ["ok", "intervene", "intervene", "ok"]
    assert set(states(verdicts)[15:]) == {"ok"}


@pytest.mark.parametrize("step", [0.06, 0.5])
def test_learning_is_no_dip(step: float) -> None:
    """A run that has taken off, at once or little by little, is not thought to fall as far."""
    learning = [exact(gold_accuracy=min(0.1 + step * number, 0.6)) for number in range(14)]
    verdicts = judge([*learning, exact(gold_accuracy=0.4)])
    assert states(verdicts)[-2:] == ["ok", "intervene"]


def test_the_dip_it_is_in_is_none_that_it_came_back_from() -> None:
    slope = [exact(gold_accuracy=0.55 - 0.03 * number) for number in range(8)]
    assert "halt" in states(judge([*[exact()] * 4, *slope], MonitorSettings(offers=())))


def test_what_may_be_a_fall_is_read_again_and_only_that() -> None:
    state = begin(exact(), SETTINGS)
    for _ in range(3):
        state, _ = check(state, exact(), SETTINGS)
    for gold, again in [(0.55, False), (0.6, False), (0.48, True), (0.3, False), (0.1, False)]:
        readings = exact(gold_accuracy=gold)
        assert wants_more(state, readings, SETTINGS) == again, gold
        assert wants_more(state, readings, MonitorSettings(watch_only=True)) == again
    assert not wants_more(state, exact(gold_accuracy=None), SETTINGS)


def test_what_was_low_by_luck_counts_for_nothing_once_it_was_read_again() -> None:
    low = exact(gold_accuracy=0.45)
    fresh = [{GOLD: Reading(value=value, error=0.025)} for value in (0.54, 0.56)]
    found = settled(low, fresh)
    assert found[GOLD] is not None and found[GOLD].value == pytest.approx(0.55)
    assert found[GOLD].error == pytest.approx(0.025 / math.sqrt(2))
    assert {**found, GOLD: None} == {**low, GOLD: None}
    assert settled(low, []) == low
    unread = {**fresh[0], GOLD: None}
    assert settled(low, [unread] * 3) == low, "samples that nobody could judge take nothing back"


def test_a_fall_that_one_reading_leaves_in_doubt_is_sure_when_read_often_enough() -> None:
    """Nine points: 3.2 standard errors of one reading, and 4.6 of three."""
    once = exact(gold_accuracy=0.46)
    often = {**once, GOLD: Reading(value=0.46, error=0.025 / math.sqrt(3))}
    rows = [exact()] * 8
    assert states(judge([*rows, once]))[-1] == "ok"
    assert states(judge([*rows, often]))[-1] == "intervene"
    assert states(judge([*rows, often], MonitorSettings(offers=())))[-1] == "halt"
    assert states(judge([*rows, often], MonitorSettings(offers=(), swing=0.05)))[-1] != "halt"


@pytest.mark.parametrize(
    "bad", [{"gold_accuracy": 0.3, **DULL}, {"gold_accuracy": 0.3}, DULL, {"critic_brier": 0.6}]
)
def test_a_watched_run_is_judged_to_its_end(bad: dict[str, float]) -> None:
    """As far as a halt or the first order it is judged as any other, and it says what it would."""
    rows = [exact()] * 4 + [exact(**bad)] * 6
    acting, watched = (judge(rows, MonitorSettings(watch_only=w)) for w in (False, True))
    first = states(acting).index("intervene")
    assert states(watched)[: first + 1] == states(acting)[: first + 1]
    assert not any(health.actions or health.halted for health in watched)
    ordered = ", ".join(action.kind for action in acting[first].actions)
    assert f"only watched: it would have ordered {ordered}" in watched[first].reasons[0]
    if "halt" in states(acting):
        said = [line for health in watched for line in health.reasons]
        assert any("only watched, so that the run goes on" in line for line in said)
