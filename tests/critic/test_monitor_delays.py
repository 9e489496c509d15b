"""How soon before or after a collapse the monitor acts, by simulation."""

import statistics

import pytest

from critic.monitor.calibrate import delays
from critic.monitor.settings import MonitorSettings

SETTINGS = MonitorSettings()


def test_a_decline_that_nothing_leads_is_halted_within_three_checks_of_a_collapse() -> None:
    """After it, not before: two checks confirm and two persist."""
    alone = delays(0.04, None, 30, SETTINGS)
    assert len(alone["halt"]) == 30 and statistics.median(alone["halt"]) <= 3
    assert statistics.median(alone["intervene"]) <= 1


@pytest.mark.parametrize(
    ("slope", "led_by"), [(0.4, None), (0.04, "novelty"), (0.08, "novelty"), (0.04, "reward")]
)
def test_a_collapse_is_halted_before_it(slope: float, led_by: str | None) -> None:
    """Where most is lost in one check, or where novelty or a hacked reward leads the fall."""
    found = delays(slope, led_by, 30, SETTINGS)  # type: ignore[arg-type]
    assert len(found["halt"]) == 30 and statistics.median(found["halt"]) <= -1
