"""The monitor's decisions over a recorded run, read back from its metrics."""

from collections.abc import Iterable, Mapping

from critic.monitor.decide import check
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import Health, MonitorState
from data.errors import UserError


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
        UserError: a row's signals are not a table of numbers.
    """
    settings = settings or MonitorSettings()
    checks: list[tuple[object, dict[str, float | None]]] = []
    for number, row in enumerate(lines, start=1):
        if row.get("monitor/signals") is None:
            continue
        round_ = row.get("round")
        if isinstance(round_, int):
            checks = [c for c in checks if not (isinstance(c[0], int) and c[0] >= round_)]
        checks.append((round_, _read_signals(row["monitor/signals"], number)))
    state, verdicts = MonitorState(), []
    for _, signals in checks:
        state, health = check(state, signals, settings)
        verdicts.append(health)
    return verdicts


def _read_signals(table: object, number: int) -> dict[str, float | None]:
    if not isinstance(table, Mapping):
        raise UserError(f'row {number}: "monitor/signals" must be a table, got {table!r}')
    signals: dict[str, float | None] = {}
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise UserError(f"row {number}: signal {name!r} must be a number, got {value!r}")
        signals[str(name)] = value
    return signals
