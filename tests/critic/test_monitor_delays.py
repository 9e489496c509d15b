"""How soon after a collapse the monitor acts, by simulation."""

import statistics

from critic.monitor.calibrate import delays
from critic.monitor.settings import MonitorSettings

SETTINGS = MonitorSettings()


def test_a_decline_is_halted_within_three_checks_of_a_collapse_and_sooner_with_novelty() -> None:
    """After it, not before: where gold accuracy alone falls, two checks confirm and two persist."""
    alone, both = (delays(0.04, fades, 30, SETTINGS) for fades in (False, True))
    assert len(alone["halt"]) == len(both["halt"]) == 30
    assert sum(both["halt"]) < sum(alone["halt"])
    assert statistics.median(alone["halt"]) <= 3 and statistics.median(both["intervene"]) <= 0
