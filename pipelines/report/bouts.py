"""The bouts of every round: a solution, its verdict, and the marks of who criticised it in place.

Every round that left transcripts has its fold; where the run was long each shows fewer of its
bouts, and a link leads to all that were kept. Left out: choosing which bouts are kept
(`run/round_log.py`).
"""

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from pipelines.report.cells import _cut, _text
from pipelines.report.read import Row, RunData, number, table

MAX_BOUTS = 480  # in the whole page: some 400 kB
LEAST_PER_ROUND = 2
OUTCOMES = {"correct": "good", "incorrect": "bad", "invalid": "warn"}
NOTATION = (
    "The solutions are in the demo's notation, running values with the least digit first: "
    "<code>a4=40 b9=31&gt;31</code> is 4, then 4 + 9 = 13, and after <code>&gt;</code> the answer, "
    "13. "
)


def bouts(run: RunData) -> str:
    """All rounds' bouts, folded, the last round open."""
    if not run.transcripts:
        return ""
    each = max(LEAST_PER_ROUND, MAX_BOUTS // len(run.transcripts))
    notation = NOTATION if table(run.config, "tasks").get("dialect") == "chain" else ""
    note = (
        f'<p class="muted small">{notation}A marked step is where somebody says that the solution '
        "first goes wrong: code, the critic, or chance; beside it what testing that found.</p>"
    )
    folds = [_round(path, run, each) for path in run.transcripts]
    return f'<h2 id="bouts">Bouts</h2>\n{note}{"".join(folds)}'


def _round(path: Path, run: RunData, each: int) -> str:
    text = path.read_text(errors="replace")
    link = quote(path.relative_to(run.directory).as_posix())
    name = path.stem.removeprefix("round_").lstrip("0") or "0"
    name = f"Round {name}" if path.stem.startswith("round_") else path.name
    if path.suffix != ".jsonl":
        shown, num = f'<div class="card"><pre>{escape(_cut(text))}</pre></div>', ""
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        shown = '<div class="grid">' + "".join(map(_line, lines[:each])) + "</div>"
        num = f"{min(each, len(lines))} of {len(lines)} kept bouts"
    is_last = " open" if path == run.transcripts[-1] else ""
    return (
        f"<details{is_last}><summary>{escape(name)} "
        f'<span class="muted small">{num}</span></summary>'
        f'<p class="small"><a href="{link}">{escape(path.name)}</a></p>{shown}</details>\n'
    )


def _line(line: str) -> str:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        record = line
    if not isinstance(record, dict):
        return f'<section class="card"><pre>{escape(_cut(str(record)))}</pre></section>'
    if "solution" not in record:
        return f'<section class="card">{_facts(record.items())}</section>'
    return _bout(record)


def _facts(items: Iterable[tuple[str, object]]) -> str:
    """Keys and values of a record that is no bout."""
    parts = [
        f"<b>{escape(str(key))}</b><pre>{escape(_cut(_text(value)))}</pre>" for key, value in items
    ]
    return "".join(parts)


def _bout(record: Row) -> str:
    outcome, reward = str(record.get("outcome")), number(record, "reward")
    defect = record.get("defect")
    pay = "not trained on" if reward is None else f"reward {reward:.3g}"
    why = f" ({escape(str(defect).replace('_', ' '))})" if defect else ""
    return (
        f'<section class="card bout"><p><span class="pill {OUTCOMES.get(outcome, "")}">'
        f"{escape(outcome)}</span>{why} <span class=muted>{pay} · reference "
        f"{escape(_cut(_text(record.get('reference'))))}</span></p>"
        f"<p>{escape(_cut(_text(record.get('question'))))}</p>{_solution(record)}{_critique(record)}"
        "</section>"
    )


def _solution(record: Row) -> str:
    """The solution with a mark at each step that was called wrong."""
    text, given = str(record.get("solution")), len(str(record.get("begun_with") or ""))
    spans = record.get("steps")
    marks = _marks(record)
    cuts = [(given, "<i>│</i>")] if given else []
    parts, at = [], 0
    steps = spans if isinstance(spans, list) else []
    for index, span in enumerate(steps):
        if index not in marks or not (isinstance(span, list) and len(span) == 2):
            continue
        start, end = int(span[0]), int(span[1])
        if at <= start <= end <= len(text):
            parts.append(_given(text, at, start, cuts))
            notes = "; ".join(marks[index])
            parts.append(f"<mark>{escape(text[start:end])}</mark><em>← {escape(notes)}</em>")
            at = end
    parts.append(_given(text, at, len(text), cuts))
    begun = '<p class="muted small">given before │: begun within an earlier solution</p>'
    return f"<pre>{''.join(parts)}</pre>{begun if given else ''}"


def _given(text: str, start: int, end: int, cuts: list[tuple[int, str]]) -> str:
    """A stretch of the solution, with a bar where the given beginning ends."""
    for at, bar in cuts:
        if start < at <= end:
            return escape(text[start:at]) + bar + escape(text[at:end])
    return escape(_cut(text[start:end]))


def _marks(record: Row) -> dict[int, list[str]]:
    """What was said of which step."""
    found: dict[int, list[str]] = {}
    listed = record.get("marks")
    for mark in listed if isinstance(listed, list) else []:
        if not isinstance(mark, dict) or (index := number(mark, "step")) is None:
            continue
        right = f", should be {mark['should_be']}" if mark.get("should_be") else ""
        said = f"{mark.get('by')}: {mark.get('found')}{right}"
        found.setdefault(int(index), []).append(" ".join(said.split()))
    return found


def _critique(record: Row) -> str:
    """The critic's own words, and whether they could be read."""
    if not record.get("critique"):
        return ""
    failure, sound = record.get("critique_failure"), number(record, "p_sound")
    verdict = f"could not be read: {failure}" if failure else str(record.get("critic_says") or "")
    sure = "" if sound is None or failure else f", {100 * sound:.0f}% sure that the answer passes"
    return (
        f'<p class="small"><b>Critic</b> <span class="muted">{escape(verdict)}{sure}</span></p>'
        f"<pre>{escape(_cut(str(record['critique'])))}</pre>"
    )
