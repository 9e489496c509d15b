"""Readings of a run without noise, and the monitor's verdicts on a list of them."""

from critic.monitor.calibrate import ERRORS, along
from critic.monitor.decide import begin, check
from critic.monitor.readings import Reading
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import Health, MonitorState

Readings = dict[str, Reading | None]
SETTINGS = MonitorSettings()


def exact(**changes: float | None) -> Readings:
    """The readings of a run that has learned something, without noise, but with its errors."""
    means = {**along(0.5), **changes}
    return {n: None if m is None else Reading(value=m, error=ERRORS[n]) for n, m in means.items()}


def judge(
    rows: list[Readings], monitor: MonitorSettings = SETTINGS
) -> tuple[MonitorState, list[Health]]:
    """The state after the last check, and every check's verdict."""
    state, verdicts = begin(rows[0], monitor), []
    for readings in rows:
        state, health = check(state, readings, monitor)
        verdicts.append(health)
    return state, verdicts
