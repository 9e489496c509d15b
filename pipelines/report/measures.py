"""The report's measurements: before and after, and the critic on fresh rollouts.

Left out: measuring and judging. What is called worse here, the run has called so in summary.json.
"""

from collections.abc import Sequence
from html import escape

from pipelines.report.cells import (
    LABELS,
    _card,
    _change,
    _count,
    _measure,
    _seconds,
    _table,
    _text,
)
from pipelines.report.read import Row, RunData, number, table

OWN_TABLES = {"before", "after", "change", "fresh", "stages", "best"}


def final_table(run: RunData) -> str:
    """Measurements before and after self-play, with their change, and seconds per stage."""
    before, after, change = (table(run.summary, key) for key in ("before", "after", "change"))
    stages = table(run.summary, "stages")
    times = _times(stages, number(run.summary, "seconds"))
    rest = [
        [escape(key), escape(_text(value))]
        for key, value in run.summary.items()
        if key not in OWN_TABLES | {"seconds"}
    ]
    rows = _rows(before, after, change)
    head = ["", "before self-play", "after self-play", "change"]
    cards = [
        _card(_worse(change) + _table(head, rows), wide=True) if rows else "",
        _card(_table(["stage", "seconds"], times)) if times else "",
        _card(_table(["also recorded", ""], rest, numeric=False)) if rest else "",
    ]
    if not any(cards):
        return ""
    return f'<h2>Result</h2>\n<div class="grid">{"".join(cards)}</div>'


def _times(stages: Row, total: float | None) -> list[list[str]]:
    """Seconds by stage, which add up to the run's; then the parts that are within the blocks."""
    outer = {name: number(stages, name) or 0.0 for name in stages if ":" not in name}
    rows = [[escape(name), _seconds(spent)] for name, spent in outer.items()]
    if total is not None and outer:
        rows.append(["other", _seconds(max(0.0, total - sum(outer.values())))])
        rows.append(["<b>in all</b>", f"<b>{_seconds(total)}</b>"])
    parts = [name for name in stages if ":" in name]
    return rows + [[f"within it: {escape(n)}", _seconds(number(stages, n))] for n in parts]


def fresh_tables(run: RunData) -> str:
    """The critic on the rollouts of the first round and of the last, and by kind of mistake."""
    fresh = table(run.summary, "fresh")
    first, last, change = (table(fresh, key) for key in ("first", "last", "change"))
    if not last:
        body = '<p class="muted">No data: needs fresh in summary.json.</p>'
        return f"<h2>Critic on fresh rollouts</h2>\n{_card(body)}"
    note = (
        '<p class="muted small">Every critique that a solution got in training, at the '
        "rollouts' own share of sound ones. The rounds' solutions differ: changes are not "
        "paired.</p>"
    )
    head = ["", "first round", "last round", "change"]
    cards = _card(note + _worse(change) + _table(head, _rows(first, last, change)), wide=True)
    kinds = _kinds(table(last, "by_kind"))
    if kinds:
        head = [
            "kind of mistake, last round",
            "share of mistakes",
            "critiques",
            "location accuracy",
        ]
        cards += _card(_table(head, kinds))
    return f'<h2>Critic on fresh rollouts</h2>\n<div class="grid">{cards}</div>'


def _rows(before: Row, after: Row, change: Row) -> list[list[str]]:
    every = [key for key in dict.fromkeys([*before, *after]) if not key.endswith("_interval")]
    keys = [key for key in every if key != "by_kind"]
    ordered = [k for k in LABELS if k in keys] + [k for k in keys if k not in LABELS]
    return [
        [
            escape(LABELS.get(key, key)),
            _measure(key, before),
            _measure(key, after),
            _change(key, before, after, table(change, key)),
        ]
        for key in ordered
    ]


def _worse(change: Row) -> str:
    """Names what got worse beyond its interval."""
    worse = [key for key in change if table(change, key).get("verdict") == "worse"]
    if not worse:
        return ""
    names = ", ".join(escape(LABELS.get(key, key)) for key in worse)
    return f'<p><b class="down">Worse beyond its interval:</b> {names}</p>'


def _kinds(by_kind: Row) -> Sequence[Sequence[str]]:
    kinds = {name: table(by_kind, name) for name in by_kind}
    return [
        [
            escape(name),
            _measure("share", kind),
            _count(number(kind, "num") or 0),
            _measure("location_accuracy", kind),
        ]
        for name, kind in kinds.items()
    ]
