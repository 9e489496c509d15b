"""The parts that a report's page is put together from: cards, tables, numbers as text."""

import json
from collections.abc import Mapping, Sequence
from html import escape

from pipelines.report.read import Row, number

MAX_INLINE_CHARS = 4000
LABELS = {
    "mean_at_k": "Learner mean@k, test",
    "mean_well_formed": "Learner mean@k, well-formed answers",
    "well_formed": "Well-formed answers",
    "auroc": "Critic AUROC",
    "ece": "Critic ECE",
}
SHARES = {"mean_at_k", "mean_well_formed", "well_formed"}
LOWER_IS_BETTER = {"ece", "brier", "nll"}


def _cut(text: str) -> str:
    rest = len(text) - MAX_INLINE_CHARS
    return text if rest <= 0 else f"{text[:MAX_INLINE_CHARS]}\n… {rest} more characters"


def _card(body: str) -> str:
    return f'<div class="card scroll">{body}</div>'


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: bool = True,
    total: Sequence[str] = (),
) -> str:
    """A table of cells that are already HTML; every column but the first is numeric or none is."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if numeric and index else ''}>{cell}</{tag}>"
            for index, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    if total:
        body += f'<tr class="total">{line(total, "td")}</tr>'
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _pill(state: str) -> str:
    tone = state if state in {"ok", "warn", "intervene", "halt"} else ""
    return f'<span class="pill {tone}">{escape(state)}</span>'


def _lines(value: object) -> str:
    """A list as lines; the kind alone stands for an action."""
    items = value if isinstance(value, list) else [] if value in (None, "") else [value]
    texts = [item.get("kind", item) if isinstance(item, Mapping) else item for item in items]
    return "<br>".join(escape(_text(text)) for text in texts)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _measure(key: str, values: Row) -> str:
    """A measurement, in percent where it is a share, with its interval where there is one."""
    value = number(values, key)
    if value is None:
        return escape(_text(values[key])) if key in values else ""
    scale, digits, unit = (100, 1, "%") if key in SHARES else (1, 3, "")
    text = f"{scale * value:.{digits}f}{unit}"
    interval = values.get(f"{key}_interval")
    if isinstance(interval, list) and len(interval) == 2:
        ends = [number({"end": end}, "end") for end in interval]
        if None not in ends:
            shown = ", ".join(f"{scale * end:.{digits}f}" for end in ends if end is not None)
            text += f' <span class="muted small">[{shown}]</span>'
    return text


def _change(key: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    delta = after - before
    text = f"{100 * delta:+.1f} points" if key in SHARES else f"{delta:+.3f}"
    better = delta < 0 if key in LOWER_IS_BETTER else delta > 0
    known = key in LABELS or key in LOWER_IS_BETTER
    tone = ("up" if better else "down") if delta and known else "muted"
    return f'<span class="{tone}">{text}</span>'
