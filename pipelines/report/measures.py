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
)
from pipelines.report.read import Row, RunData, number, table

COUNTS = ("num_tasks", "num_samples", "num_critiques", "num_solutions", "num_sound")


def final_table(run: RunData) -> str:
    """Measurements before and after self-play, with their change, and seconds per stage."""
    before, after, change = (table(run.summary, key) for key in ("before", "after", "change"))
    rows = _rows(before, after, change)
    head = ["", "before self-play", "after self-play", "change"]
    caption = f'<p class="muted small">{_counts(after)}</p>'
    measured = _table(head, rows, stacked=True)
    cards = [
        _card(_worse(change) + measured + caption, wide=True) if rows else "",
        _times(run),
        _also(run),
    ]
    if not any(cards):
        return ""
    return f'<h2>Result</h2>\n<div class="grid">{"".join(cards)}</div>'


def _counts(row: Row) -> str:
    """What the figures of a table are over, and what stands in brackets."""
    n = {key: f"{value:,.0f}" for key in COUNTS if (value := number(row, key)) is not None}
    parts = []
    if "num_tasks" in n and "num_samples" in n:
        parts.append(f"Learner: {n['num_tasks']} tasks, {n['num_samples']} samples each")
    if "num_critiques" in n and "num_solutions" in n:
        sound = f", {n['num_sound']} of them sound" if "num_sound" in n else ""
        parts.append(
            f"critic: {n['num_critiques']} critiques of {n['num_solutions']} solutions{sound}"
        )
    text = "; ".join(parts)
    brackets = "In brackets: 95% bootstrap intervals."
    return f"{text[:1].upper()}{text[1:]}. {brackets}" if text else brackets


def _also(run: RunData) -> str:
    """What else the run counted, in sentences."""
    found, best = run.summary, table(run.summary, "best")
    sync, groups = table(found, "sync"), table(found, "groups")
    said = []
    if (chosen := number(best, "round")) is not None:
        said.append(
            f"The best checkpoint is of round {chosen:.0f}: {_measure('mean_at_k', best)} on the "
            "test tasks, which had no part in choosing it."
        )
    if (admitted := number(found, "admitted")) is not None:
        rejected = sum(number(table(found, "rejected"), r) or 0 for r in table(found, "rejected"))
        said.append(
            f"{admitted:,.0f} samples were admitted to the corpus, {rejected:,.0f} were not."
        )
    if (masked := number(found, "masked_rollouts")) is not None:
        said.append(f"{masked:,.0f} rollouts were masked: no verdict on them, so not trained on.")
    if (issued := number(groups, "issued")) is not None:
        used, lost = number(groups, "used") or 0, number(groups, "open") or 0
        said.append(f"Of {issued:,.0f} groups drawn {used:,.0f} were used and {lost:,.0f} lost.")
    steps, proof = number(sync, "share_of_steps"), number(sync, "proof_share_of_rounds")
    if steps is not None and proof is not None:
        said.append(
            f"Moving the weights took {100 * steps:.1f}% of the steps' time, proving them "
            f"{100 * proof:.2f}% of the rounds'."
        )
    items = "".join(f"<li>{item}</li>" for item in said)
    return _card(f"<h3>Counted</h3><ul>{items}</ul>") if said else ""


def _times(run: RunData) -> str:
    """Seconds by stage, which add up to the run's; then, folded, the parts of the blocks."""
    stages, total = table(run.summary, "stages"), number(run.summary, "seconds")
    if not stages:
        return ""
    outer = {name: number(stages, name) or 0.0 for name in stages if ":" not in name}
    rows = [[escape(name), _seconds(spent)] for name, spent in outer.items()]
    if total is not None:
        rows.append(["other", _seconds(max(0.0, total - sum(outer.values())))])
        rows.append(["<b>in all</b>", f"<b>{_seconds(total)}</b>"])
    parts = [[escape(n), _seconds(number(stages, n))] for n in stages if ":" in n]
    folded = (
        "<details><summary>Parts of the blocks, counted above</summary>"
        f"{_table(['part', 'seconds'], parts)}</details>"
    )
    return _card(_table(["stage", "seconds"], rows) + (folded if parts else ""))


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
    measured = _table(head, _rows(first, last, change), stacked=True)
    caption = f'<p class="muted small">{_counts(last)}</p>'
    cards = _card(note + _worse(change) + measured + caption, wide=True)
    kinds = _kinds(table(last, "by_kind"))
    if kinds:
        head = [
            "kind of mistake, last round",
            "share of mistakes",
            "critiques",
            "location accuracy",
        ]
        cards += _card(_table(head, kinds), wide=True)
    return f'<h2>Critic on fresh rollouts</h2>\n<div class="grid">{cards}</div>'


def _rows(before: Row, after: Row, change: Row) -> list[list[str]]:
    every = [key for key in dict.fromkeys([*before, *after]) if not key.endswith("_interval")]
    keys = [key for key in every if key not in ("by_kind", *COUNTS)]
    ordered = [k for k in LABELS if k in keys] + [k for k in keys if k not in LABELS]
    return [
        [
            escape(_label(key, after)),
            _measure(key, before),
            _measure(key, after),
            _change(key, before, after, table(change, key)),
        ]
        for key in ordered
    ]


def _label(key: str, row: Row) -> str:
    """A measurement's name; k is said as it was."""
    name, k = LABELS.get(key, key), number(row, "num_samples")
    return name if k is None else name.replace("@k", f"@{k:.0f}")


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
