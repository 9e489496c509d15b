"""The report's HTML: sections built as strings, everything from the run escaped.

No script, no external resource: the page can be mailed and read offline. Left out: reading
(`report/read.py`), the measurements (`report/measures.py`), drawing (`report/figures.py`).
"""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from critic.monitor.entropy_law import foretell, law_line, points_of
from pipelines.report.cells import (
    _card,
    _count,
    _cut,
    _lines,
    _number,
    _pill,
    _table,
    _text,
)
from pipelines.report.read import RunData, number, round_of, table
from pipelines.report.style import CSS

NUM_INLINE_FILES = 3
NUM_INLINE_RECORDS = 3
MAX_TABLE_ROUNDS = 40
STATUS_KEYS = ("state", "status", "outcome", "ended")
PROCESS_KEYS = ("time", "pid")  # of interest to whoever watches a run, not to a reader of it
GOOD_ENDS = {"finished", "completed", "complete", "done", "ok", "success"}
BAD_ENDS = {"halted", "halt", "failed", "error", "killed", "interrupted"}


def page(title: str, sections: Iterable[str]) -> str:
    """The whole document around its sections."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def header(run: RunData) -> str:
    """The run's name, how it ended, and its versions in one line."""
    name = run.directory.resolve().name
    state = next((str(run.status[key]) for key in STATUS_KEYS if run.status.get(key)), "unknown")
    tone = "good" if state.lower() in GOOD_ENDS else "bad" if state.lower() in BAD_ENDS else ""
    rest = [
        f"{escape(key)}: {escape(_text(value))}"
        for key, value in run.status.items()
        if key not in (*STATUS_KEYS, *PROCESS_KEYS) and value not in (None, "")
    ]
    versions = [f"{escape(key)} {escape(_text(value))}" for key, value in run.versions.items()]
    return (
        f'<header><h1>Sparring run {escape(name)} <span class="pill {tone}">{escape(state)}</span>'
        f"</h1>\n<p>{' · '.join(rest)}</p>\n"
        f'<p class="muted small">{" · ".join(versions)}</p></header>'
    )


def notes_box(run: RunData) -> str:
    """What could not be read, or nothing."""
    if not run.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in run.notes)
    return f'<div class="card notes"><b>Not in this run directory</b><ul>{items}</ul></div>'


def plots(drawn: Sequence[tuple[str, str, str, str | None]]) -> str:
    """The plots; one without data says which keys it needs.

    Args:
        drawn: title, caption, needed keys, and data URI or None, for each plot.
    """
    cards = []
    for title, caption, needs, uri in drawn:
        body = (
            f'<img alt="{escape(title)}: {escape(caption)}" src="{uri}">'
            if uri
            else f'<p class="muted">No data: needs {escape(needs)}.</p>'
        )
        cards.append(
            f'<section class="card plot"><h3>{escape(title)}</h3>'
            f'<p class="muted small">{escape(caption)}</p>{body}</section>'
        )
    return f'<h2>Plots</h2>\n<div class="grid">{"".join(cards)}</div>'


def gate_table(run: RunData) -> str:
    """Samples admitted and rejected in each round, a column for every reason, and the totals."""
    gated = [row for row in run.rounds if "gate/admitted" in row or "gate/rejected" in row]
    if not gated:
        body = '<p class="muted">No data: needs gate/admitted and gate/rejected in round rows.</p>'
        return f"<h2>Samples</h2>\n{_card(body)}"
    reasons = list(dict.fromkeys(r for row in gated for r in table(row, "gate/rejected")))
    counts = [
        [number(row, "gate/admitted") or 0]
        + [number(table(row, "gate/rejected"), reason) or 0 for reason in reasons]
        for row in gated
    ]
    head = ["round", "admitted", "rejected", *(f"rejected: {reason}" for reason in reasons)]
    rows = [
        [str(round_of(row)), _count(line[0]), _count(sum(line[1:])), *map(_count, line[1:])]
        for row, line in zip(gated, counts, strict=True)
    ][-MAX_TABLE_ROUNDS:]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    total = ["all rounds", _count(totals[0]), _count(sum(totals[1:])), *map(_count, totals[1:])]
    return f"<h2>Samples</h2>\n{_card(_table([escape(h) for h in head], rows, total=total))}"


def monitor_table(run: RunData) -> str:
    """What the monitor decided in each round, why, and on which signals."""
    judged = [row for row in run.rounds if "monitor/state" in row]
    if not judged:
        body = '<p class="muted">No data: needs monitor/state in round rows.</p>'
        return f"<h2>Monitor</h2>\n{_card(body)}"
    rows = [
        [str(round_of(row)), _pill(str(row["monitor/state"]))]
        + [_lines(row.get(f"monitor/{key}")) for key in ("alarms", "actions", "reasons")]
        for row in judged[-MAX_TABLE_ROUNDS:]
    ]
    decisions = _table(["round", "state", "alarms", "actions", "reasons"], rows, numeric=False)
    names = list(dict.fromkeys(n for row in judged for n in table(row, "monitor/signals")))
    signals = [
        [str(round_of(row)), *(_number(number(table(row, "monitor/signals"), n)) for n in names)]
        for row in judged[-MAX_TABLE_ROUNDS:]
    ]
    if names:
        head = ["round", *(escape(name) for name in names)]
        decisions += f"<details><summary>Signals</summary>{_table(head, signals)}</details>"
    foretold = foretell(points_of(run.rows))
    if foretold is not None:
        decisions += f'<p class="muted small">{escape(law_line(foretold))}</p>'
    return f"<h2>Monitor</h2>\n{_card(decisions)}"


def transcripts(run: RunData) -> str:
    """Links to the sample transcripts, the first few inline."""
    if not run.transcripts:
        return ""
    links = " · ".join(
        f'<a href="{quote(path.relative_to(run.directory).as_posix())}">{escape(path.name)}</a>'
        for path in run.transcripts
    )
    shown = "".join(
        f'<section class="card"><h3>{escape(path.name)}</h3>{_transcript(path)}</section>'
        for path in run.transcripts[:NUM_INLINE_FILES]
    )
    return f'<h2>Sample transcripts</h2>\n<p>{links}</p>\n<div class="grid">{shown}</div>'


def settings(run: RunData) -> str:
    """The resolved configuration, folded."""
    if not run.config:
        return ""
    text = json.dumps(run.config, indent=2, ensure_ascii=False, sort_keys=True)
    folded = f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>"
    return f"<h2>Settings</h2>\n{_card(folded)}"


def _transcript(path: Path) -> str:
    text = path.read_text(errors="replace")
    if path.suffix != ".jsonl":
        return f"<pre>{escape(_cut(text))}</pre>"
    blocks = []
    for line in text.splitlines()[:NUM_INLINE_RECORDS]:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = line
        if not isinstance(record, dict):
            blocks.append(f"<pre>{escape(_cut(str(record)))}</pre>")
            continue
        short = {k: v for k, v in record.items() if not isinstance(v, str) or len(v) <= 24}
        facts = " · ".join(f"{escape(str(k))}: {escape(_text(v))}" for k, v in short.items())
        blocks.append(f'<p class="muted small">{facts}</p>')
        for key, value in record.items():
            if key not in short:
                blocks.append(f"<b>{escape(str(key))}</b><pre>{escape(_cut(value))}</pre>")
    return "".join(blocks)
