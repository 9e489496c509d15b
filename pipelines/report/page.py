"""The report's HTML: sections built as strings, everything from the run escaped.

No script, no external resource: the page can be mailed and read offline. Left out: reading
(`report/read.py`), the measurements (`report/measures.py`), drawing (`report/figures.py`).
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from urllib.parse import quote

from critic.monitor.entropy_law import foretell, law_line, points_of
from pipelines.report.account import Account
from pipelines.report.cells import _card, _count, _lines, _number, _pill, _table, _text
from pipelines.report.figures import PLOTS
from pipelines.report.read import RunData, number, round_of, table
from pipelines.report.style import CSS
from pipelines.report.svg import hatches

MAX_TABLE_ROUNDS = 40
STATUS_KEYS = ("state", "status", "outcome", "ended")
GOOD_ENDS = {"finished", "completed", "complete", "done", "ok", "success"}
BAD_ENDS = {"halted", "halt", "failed", "error", "killed", "interrupted"}
FILES = {
    "checkpoints": "one folder per kept round, learner and critic",
    "best": "the checkpoint with the best selection score",
    "corpus": "the admitted records",
    "quarantine": "records that a halt took back",
    "incident.md": "why the monitor halted the run, and samples of it",
    "tasks.json": "what became of the task file's rows",
    "verifiers.json": "the verifiers' test before the run",
    "metrics.jsonl": "every step and every round",
    "ledger": "the fate of every group of completions",
    "config.json": "the settings",
}


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
    """The run's name, how it ended, how far it came, how long it took, and when."""
    name = run.directory.resolve().name
    state = next((str(run.status[key]) for key in STATUS_KEYS if run.status.get(key)), "unknown")
    tone = "good" if state.lower() in GOOD_ENDS else "bad" if state.lower() in BAD_ENDS else ""
    of, played = run.rounds_in_all, len(run.rounds)
    commit = str(run.versions.get("commit") or "")[:10]
    facts = [
        f"{played} of {of} rounds" if of is not None else f"{played} rounds",
        _duration(_seconds_in_all(run)),
        _date(number(run.status, "time")),
        f"commit {escape(commit)}" if commit else "",
    ]
    line = " · ".join(filter(None, facts))
    return (
        f'<header><h1>{escape(name)} <span class="pill {tone}">{escape(state)}</span></h1>\n'
        f'<p class="muted small">Sparring run · {line}</p></header>'
    )


def first_card(said: Account) -> str:
    """The questions that a reader comes with, answered in the run's own words."""
    asked = {"Healthy?": said.health, "Learner": said.learner, "Critic": said.critic}
    asked |= {"Monitor": said.monitor, "Next": said.next}
    rows = "".join(
        f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in asked.items() if text
    )
    return f'<dl id="account" class="card account {said.tone}">{rows}</dl>'


def _seconds_in_all(run: RunData) -> float | None:
    total = number(run.summary, "seconds")
    rows = [number(row, "run/seconds") for row in run.rounds]
    return total if total is not None else (rows[-1] if rows else None)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if hours or minutes else ""]
    return " ".join(filter(None, [*parts, f"{rest} s" if not hours else ""]))


def _date(seconds: float | None) -> str:
    if seconds is None:
        return ""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%b %Y %H:%M} UTC"


def notes_box(run: RunData) -> str:
    """What could not be read, or nothing."""
    if not run.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in run.notes)
    return f'<div class="card notes"><b>Not in this run directory</b><ul>{items}</ul></div>'


def plots(run: RunData) -> str:
    """The plots; one without data says which keys it needs, or is left out if it is optional."""
    cards, folded = [], []
    for plot in PLOTS:
        drawn = plot.draw(run, plot.title)
        if plot.optional and not drawn:
            continue
        body = drawn or f'<p class="muted">No data: needs {escape(plot.needs)}.</p>'
        card = (
            f'<section class="card plot"><h3>{escape(plot.title)}</h3>'
            f'<p class="muted small">{escape(plot.caption)}</p>{body}</section>'
        )
        (folded if plot.folded else cards).append(card)
    more = (
        "<details><summary>More plots: length, gradient norm, learning rate, sampler</summary>"
        f'<div class="grid">{"".join(folded)}</div></details>'
    )
    return f'{hatches()}<h2>Plots</h2>\n<div class="grid">{"".join(cards)}</div>\n{more}'


def files(run: RunData) -> str:
    """Links to what the run left, as far as it is there."""
    items = [
        f'<li><a href="{quote(name)}">{escape(name)}</a> <span class="muted">{what}</span></li>'
        for name, what in FILES.items()
        if (run.directory / name).exists()
    ]
    listed = f"<ul>{''.join(items)}</ul>"
    return f"<h2>Files</h2>\n{_card(listed)}" if items else ""


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


def settings(run: RunData) -> str:
    """The resolved configuration and the versions, folded."""
    if not run.config:
        return ""
    text = json.dumps(run.config, indent=2, ensure_ascii=False, sort_keys=True)
    versions = "\n".join(f"{key} {_text(value)}" for key, value in run.versions.items())
    folded = f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>"
    folded += f"<details><summary>Versions</summary><pre>{escape(versions)}</pre></details>"
    return f"<h2>Settings</h2>\n{_card(folded)}"
