"""How soon before or after a collapse the monitor acts, by simulation."""

import statistics

import pytest
from monitor_cases import exact, judge

from critic.monitor.calibrate import delays
from critic.monitor.power import power_line
from critic.monitor.settings import MonitorSettings

SETTINGS = MonitorSettings()


def test_a_decline_that_nothing_leads_is_halted_within_two_checks_of_a_collapse() -> None:
    """After it, not before: what was ordered may yet help, and is given two checks."""
    alone = delays(0.04, None, 30, SETTINGS)
    assert len(alone["halt"]) == 30 and statistics.median(alone["halt"]) <= 2
    assert statistics.median(alone["intervene"]) <= 0


def test_a_larger_probe_halts_a_decline_before_it_is_a_collapse() -> None:
    """With 256 tasks and readings taken again; with 64 read once it is after it."""
    settings = MonitorSettings(offers=())
    large = delays(0.06, None, 30, settings, size=0.5)["halt"]
    small = delays(0.06, None, 30, MonitorSettings(offers=(), reads_again=0, sure=1e9))["halt"]
    assert statistics.median(large) <= -1 < 0 < statistics.median(small)


def test_a_run_that_is_only_watched_promises_nothing() -> None:
    assert power_line(64, 4, MonitorSettings(threshold=1e9)).endswith(
        "no fall of gold accuracy is an alarm"
    )


@pytest.mark.parametrize(
    ("slope", "led_by"), [(0.4, None), (0.04, "novelty"), (0.08, "novelty"), (0.04, "reward")]
)
def test_a_collapse_is_halted_before_it(slope: float, led_by: str | None) -> None:
    """Where most is lost in one check, or where novelty or a hacked reward leads the fall."""
    found = delays(slope, led_by, 30, SETTINGS)  # type: ignore[arg-type]
    assert len(found["halt"]) == 30 and statistics.median(found["halt"]) <= -1


def test_where_nothing_could_help_the_learner_a_confirmed_fall_is_not_waited_on() -> None:
    """It intervenes to see what an order does: without one, two checks are lost."""
    fall = [exact()] * 4 + [exact(gold_accuracy=0.3)] * 3
    for offers in [(), ("restore_critic", "raise_temperature", "double_audit")]:
        _, verdicts = judge(fall, MonitorSettings(offers=offers))
        assert [health.state for health in verdicts[4:]] == ["halt"] * 3
        assert "no action is left that could help the learner" in verdicts[4].reasons[0]
    again = fall[:-1] + [exact()] * 6 + fall[4:]  # the critic is silent since the first fall
    _, verdicts = judge(again, MonitorSettings(offers=("silence_critic",)))
    assert [health.state for health in verdicts[12:14]] == ["warn", "halt"], "it came back before"
