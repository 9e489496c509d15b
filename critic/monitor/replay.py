"""The monitor's decisions over a recorded run, read back from its metrics."""

from collections.abc import Iterable, Mapping

from critic.monitor.decide import begin, check
from critic.monitor.readings import Reading
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import Health, MonitorState
from data.errors import UserError

COLD_START = "cold_start"  # the kind of the row before the first round


def replay(
    lines: Iterable[Mapping[str, object]], settings: MonitorSettings | None = None
) -> list[Health]:
    """Reproduce every decision of a run from the rows of its `metrics.jsonl`.

    Rows without "monitor/signals" are skipped. A round that was killed and run again replaces its
    earlier row and everything after it, as the resumed run did.

    Args:
        lines: parsed rows, in the order they were written.
        settings: the run's own settings; the defaults when None.

    Returns:
        One verdict per check.

    Raises:
        UserError: a row's readings are not tables of numbers, or have no standard errors.
    """
    return replayed(lines, settings or MonitorSettings())[1]


def replayed(
    lines: Iterable[Mapping[str, object]], settings: MonitorSettings
) -> tuple[MonitorState, list[Health]]:
    """The state after a run's rows, from which it can go on, and its verdicts, as `replay` says."""
    state = MonitorState()
    checks: list[tuple[object, dict[str, Reading | None]]] = []
    for number, row in enumerate(lines, start=1):
        if row.get("monitor/signals") is None:
            continue
        readings = read_readings(row, number)
        if row.get("kind") == COLD_START:
            state, checks = begin(readings, settings), []
            continue
        round_ = row.get("round")
        if isinstance(round_, int):
            checks = [c for c in checks if not (isinstance(c[0], int) and c[0] >= round_)]
        checks.append((round_, readings))
    verdicts = []
    for _, readings in checks:
        state, health = check(state, readings, settings)
        verdicts.append(health)
    return state, verdicts


def readings_row(readings: Mapping[str, Reading | None]) -> dict[str, object]:
    """The metrics of some readings; `read_readings` gives exactly them back."""
    return {
        "monitor/signals": {name: one and one.value for name, one in readings.items()},
        "monitor/errors": {name: one and one.error for name, one in readings.items()},
    }


def first_row(first: Mapping[str, Reading | None]) -> dict[str, object]:
    """The metrics of readings that were taken again, which decide nothing any more."""
    table = {
        name: [one.value, one.error] if one is not None and one.is_readable else None
        for name, one in first.items()
    }
    return {"monitor/first": table} if table else {}


def read_readings(row: Mapping[str, object], number: int) -> dict[str, Reading | None]:
    """The readings of a row of the metrics.

    Raises:
        UserError: they are not tables of numbers, or there are no standard errors.
    """
    if "monitor/errors" not in row:
        raise UserError(
            f'row {number} has "monitor/signals" without "monitor/errors": an earlier version '
            "wrote it, without the standard errors that this one judges by; replay the run with "
            "the commit in its versions.json"
        )
    values, errors = (_numbers(row, f"monitor/{key}", number) for key in ("signals", "errors"))
    if set(values) != set(errors):
        raise UserError(f"row {number}: each of the monitor's signals needs its standard error")
    return {
        name: None
        if value is None or (error := errors[name]) is None
        else Reading(value=value, error=error)
        for name, value in values.items()
    }


def _numbers(row: Mapping[str, object], key: str, number: int) -> dict[str, float | None]:
    table = row[key]
    if not isinstance(table, Mapping):
        raise UserError(f'row {number}: "{key}" must be a table, got {table!r}')
    found: dict[str, float | None] = {}
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise UserError(f"row {number}: {key} of {name!r} must be a number, got {value!r}")
        found[str(name)] = value
    return found
