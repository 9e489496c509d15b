"""What a gold probe can see: the smallest fall that is confirmed in time, from its size alone.

Leaves out how often a healthy run is alarmed (`critic/monitor/calibrate.py`).
"""

import math

from critic.monitor.evidence import NUM_LATEST
from critic.monitor.remember import NUM_BEST
from critic.monitor.settings import GOLD, MonitorSettings

Z95 = 1.645  # one-sided


def detectable(error: float, settings: MonitorSettings) -> float:
    """The fall of a reading that is confirmed within three checks in 95% of runs.

    What may be a fall is read again, so often that the two latest readings are surer than the best.

    Args:
        error: of one reading.
    """
    num = max(settings.reads_again, 1)
    return (settings.threshold + Z95) * error * math.sqrt(1 / (NUM_LATEST * num) + 1 / NUM_BEST)


def tasks_needed(fall: float, num_samples: int, settings: MonitorSettings) -> int:
    """The gold tasks, of so many samples each, that show a fall of gold accuracy by that much.

    At an accuracy of one half in every task, where it takes most.
    """
    error = fall / detectable(1.0, settings)
    return math.ceil(0.25 / (error**2 * num_samples))


def power_line(
    num_tasks: int,
    num_samples: int,
    settings: MonitorSettings,
    tasks: str = "evaluate.num_probe_tasks",
) -> str:
    """What the configured gold probe can see, in one line for the start of a run.

    Args:
        num_tasks: gold tasks.
        num_samples: of each.
        settings: thresholds.
        tasks: what a reader has to raise for a larger probe.
    """
    fall = detectable(0.5 / math.sqrt(num_tasks * num_samples), settings)
    if fall > 1:
        return (
            f"gold probe: with monitor.threshold = {settings.threshold:g} no fall of gold accuracy "
            "is an alarm"
        )
    matters = settings.rules[GOLD].matters
    needed = tasks_needed(matters, num_samples, settings)
    line = (
        f"gold probe: {num_tasks} tasks x {num_samples} samples show a fall of "
        f"{100 * fall:.0f} points within 3 checks in 95% of runs"
    )
    if needed > num_tasks:
        line += f"; a fall of {100 * matters:.0f} points takes {tasks} = {needed}"
    if settings.rise * 0.5 * math.sqrt(2 / (NUM_LATEST * num_tasks * num_samples)) >= matters:
        line += (
            "; it cannot say that gold accuracy stood still, so that novelty, gold_nll and "
            "training_reward may alarm only where it seems to fall"
        )
    return line
