"""The incident record: what a halted run leaves for the person who has to understand it.

A plain JSON-able dict, and the same as Markdown. Left out: writing files, rolling back and
quarantining (the loop does), plots (`pipelines/report/write.py`).
"""

import math
import re
from collections.abc import Mapping, Sequence

from critic.monitor.remember import SignalState
from critic.monitor.settings import MonitorSettings
from critic.monitor.state import Health, MonitorState

MAX_SAMPLES = 20
MAX_TABLE_CHECKS = 12
EMPTY = ("-", "(empty)")
# Nothing in it that Markdown reads: no emphasis, no link.
PLAIN = r"(?!www\.)(?:[A-Za-z0-9.+-]|(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])){1,40}"


def incident_record(
    health: Health,
    state: MonitorState,
    history: Sequence[Mapping[str, float | None]],
    samples: Sequence[Mapping[str, object]],
    settings: MonitorSettings,
) -> dict[str, object]:
    """Gather an incident: decision, thresholds, every signal so far, offending samples.

    Args:
        health: the verdict that led here.
        state: the monitor's state after that verdict.
        history: signals of each check, the first check first.
        samples: the samples to show, worst first; at most 20 are kept, and all are counted.
        settings: the run's thresholds.

    Returns:
        A dict that `json.dumps(..., allow_nan=False)` accepts; what is not finite becomes its name.
    """
    clean = state.last_clean_check
    record: dict[str, object] = {
        "health": health.model_dump(mode="json"),
        "last_clean_check": clean,
        "quarantined_checks": list(range(0 if clean is None else clean + 1, state.num_checks)),
        "num_actions": dict(state.num_actions),
        "signals": [_signal_row(name, state, settings) for name in settings.active],
        "history": [dict(signals) for signals in history],
        "num_samples": len(samples),
        "samples": [dict(sample) for sample in samples[:MAX_SAMPLES]],
        "settings": settings.model_dump(mode="json"),
    }
    cleaned = _jsonable(record)
    assert isinstance(cleaned, dict), "a dict stays a dict"
    return cleaned


def incident_markdown(record: Mapping[str, object]) -> str:
    """Render what `incident_record` returned as a Markdown page."""
    health = Health.model_validate(record["health"])
    clean = record["last_clean_check"]
    lines = [
        f"# Incident: {health.state} at check {health.check}",
        "",
        *(f"- {reason}" for reason in health.reasons),
        "",
        f"Alarming signals: {', '.join(health.alarms) or 'none'}. "
        f"Alarming channels: {', '.join(health.channels) or 'none'}.",
        "",
        "No check was clean: go back to the start of the run."
        if clean is None
        else f"Last clean check: {clean}. Go back to its checkpoint.",
        f"Quarantined checks: {_listed(record['quarantined_checks'])}.",
        "",
        "## Signals",
        "",
        *_table(_rows(record["signals"])),
        "",
        f"## History (last {MAX_TABLE_CHECKS} checks)",
        "",
        *_table(_numbered(_rows(record["history"]))[-MAX_TABLE_CHECKS:]),
        "",
        f"## Samples ({len(_rows(record['samples']))} of {record['num_samples']})",
        "",
    ]
    for number, sample in enumerate(_rows(record["samples"]), 1):
        lines += [f"### {number}", "", *_sample_lines(sample), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _signal_row(name: str, state: MonitorState, settings: MonitorSettings) -> dict[str, object]:
    rule = settings.rules[name]
    row: dict[str, object] = {"signal": name, "channel": rule.channel, "bad": rule.bad}
    signal = state.signals.get(name, SignalState())
    for column, found in (("start", signal.start), ("best", signal.best), ("last", signal.last)):
        row |= {column: found and found.value, f"{column} ±": found and found.error}
    return row


def _jsonable(value: object) -> object:
    """The value in JSON's own types: no NaN, string keys, anything else as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return str(value)


def _rows(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        raise ValueError(f"an incident's tables are lists, got {type(value).__name__}")
    return [dict(row) for row in value]


def _numbered(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{"check": number, **row} for number, row in enumerate(rows)]


def _listed(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) and value else "none"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _table(rows: list[dict[str, object]]) -> list[str]:
    """A Markdown table with a column for every key that any row has."""
    if not rows:
        return ["(nothing recorded)"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _sample_lines(sample: Mapping[str, object]) -> list[str]:
    """A sample's plain short fields on one line, and its texts as they are."""
    shown = {key: _field(value) for key, value in sample.items()}
    plain = [key for key, text in shown.items() if text in EMPTY or re.fullmatch(PLAIN, text)]
    lines = [" · ".join(f"{key}: {shown[key]}" for key in plain)] if plain else []
    for key, text in shown.items():
        if key not in plain:
            lines += ["", f"**{key}**", "", *_fenced(text)]
    return lines


def _field(value: object) -> str:
    if value == "":
        return EMPTY[1]
    if value in (None, [], {}):
        return EMPTY[0]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _fenced(text: str) -> list[str]:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, text, fence]
