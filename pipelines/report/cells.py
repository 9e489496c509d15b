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
    "masked_samples": "Masked samples (counted as wrong)",
    "false_accusations": "Critic: sound solutions falsely accused",
    "location_accuracy": "Critic: location accuracy",
    "processbench_f1": "Critic: ProcessBench F1",
    "auroc": "Critic: AUROC",
    "brier": "Critic: Brier score",
    "ece": "Critic: ECE",
    "ece_perfect": "Critic: ECE if perfectly calibrated, mean",
    "ece_perfect_p95": "Critic: ECE if perfectly calibrated, 95% lie below",
    "parsed": "Critic: critiques parsed",
    "pass_at_k": "Learner pass@k, test",
    "auroc_length_baseline": "Instead of the critic: AUROC of solution length",
    "auroc_logprob_baseline": "Instead of the critic: AUROC of mean log-probability",
}
SHARES = {
    "mean_at_k",
    "mean_well_formed",
    "well_formed",
    "pass_at_k",
    "false_accusations",
    "location_accuracy",
    "parsed",
    "share",
}
CHANGE_MEANS_NOTHING = {"ece_perfect", "ece_perfect_p95"} | {
    "auroc_length_baseline",
    "auroc_logprob_baseline",
}
TONES = {"worse": "down", "better": "up"}


def _cut(text: str) -> str:
    rest = len(text) - MAX_INLINE_CHARS
    return text if rest <= 0 else f"{text[:MAX_INLINE_CHARS]}\n… {rest} more characters"


def _card(body: str, wide: bool = False) -> str:
    return f'<div class="card scroll{" wide" if wide else ""}">{body}</div>'


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: bool = True,
    total: Sequence[str] = (),
    stacked: bool = False,
) -> str:
    """A table of cells that are already HTML; every column but the first is numeric or none is.

    A stacked one shows its rows as blocks on a phone, each cell beside its column's name.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if numeric and index else ''}"
            f"{_named(head[index]) if stacked and tag == 'td' and index else ''}>{cell}</{tag}>"
            for index, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    if total:
        body += f'<tr class="total">{line(total, "td")}</tr>'
    kind = ' class="stacked"' if stacked else ""
    return f"<table{kind}><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _named(column: str) -> str:
    return f' data-label="{escape(column)}"'


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
        return escape(_text("-" if values[key] is None else values[key])) if key in values else ""
    scale, digits, unit = (100, 1, "%") if key in SHARES else (1, 3, "")
    if value == int(value) and key not in LABELS and key not in SHARES:
        digits = 0  # a count
    if key == "masked_samples":
        digits = 0
    shown = f"{scale * value:.{digits}f}{unit}"
    return shown + _interval(values.get(f"{key}_interval"), scale, f".{digits}f")


def _interval(interval: object, scale: float, form: str) -> str:
    if not isinstance(interval, list) or len(interval) != 2:
        return ""
    ends = [end for each in interval if (end := number({"end": each}, "end")) is not None]
    if len(ends) < 2:
        return ""
    shown = ", ".join(f"{scale * end:{form}}" for end in ends)
    return f' <span class="muted small">[{shown}]</span>'


def _change(key: str, before: Row, after: Row, judged: Row) -> str:
    """How a measurement changed; "worse" and "better" are said only beyond the interval.

    Args:
        key: its name.
        before: holds its first value.
        after: holds its last.
        judged: the change as the run judged it, with an interval; empty if it did not.
    """
    first, last = number(before, key), number(after, key)
    if first is None or last is None or key in CHANGE_MEANS_NOTHING:
        return ""
    paired = number(judged, "value")
    delta = last - first if paired is None else paired
    scale, form, unit = (100, "+.1f", " points") if key in SHARES else (1, "+.3f", "")
    if key == "masked_samples":
        form = "+.0f"
    text = f"{scale * delta:{form}}{unit}" + _interval(judged.get("interval"), scale, form)
    if paired is not None:
        verdict = str(judged.get("verdict"))
        word = f" <b>{verdict}</b>" if verdict in TONES else ""
        return f'<span class="{TONES.get(verdict, "muted")}">{text}{word}</span>'
    return f'<span class="muted">{text}</span>'
