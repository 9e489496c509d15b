"""What a run came to, in words: the same sentences for the terminal, status.json and the report.

    health   is the run sound, and how did it end?
    learner  did it get better, over how many samples, and can that be chance?
    critic   the same
    monitor  what it saw, and what it ordered
    next     what to do now: the run's own last line (`run/last_lines.py`), kept in status.json

Everything follows from the files in RUN, so that a report drawn later says what the run said. Left
out: measuring and judging. What is called better or worse, the run has called so in summary.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.report.read import Row, RunData, number, round_of, table

Tone = Literal["good", "warn", "bad"]
MAX_REASON = 220  # characters of an error or of a reason on the first screen
FEW_PARSED = 0.5  # of critiques: below it, the others say little of the critic
FEW_FORMED = 0.5  # of solutions
MEASURES = {
    "false_accusations": "sound solutions falsely accused",
    "location_accuracy": "location accuracy",
    "processbench_f1": "ProcessBench F1",
    "auroc": "AUROC",
    "brier": "Brier score",
    "ece": "ECE",
    "parsed": "critiques parsed",
}
CHANCE = {
    "better": "more than chance explains",
    "worse": "worse by more than chance explains",
    "unchanged": "no more than chance explains",
    "unknown": "too few tasks to tell it from chance",
}


@dataclass(frozen=True, slots=True)
class Account:
    """One sentence or two for each question; `tone` colours the first."""

    health: str
    learner: str
    critic: str
    monitor: str
    next: str
    tone: Tone

    def row(self) -> dict[str, str]:
        """The answers by name, as status.json keeps them."""
        return {
            "health": self.health,
            "learner": self.learner,
            "critic": self.critic,
            "monitor": self.monitor,
        }

    def lines(self) -> list[str]:
        """The same for the terminal; `next` is a last line of its own there."""
        return [f"{name}: {said}" for name, said in self.row().items()]


def account(run: RunData) -> Account:
    """Say what is known of a run, finished or not."""
    health, tone = _health(run)
    return Account(
        health=health,
        learner=_learner(run),
        critic=_critic(run),
        monitor=_monitor(run),
        next=str(run.status.get("next") or ""),
        tone=tone,
    )


def _verdict(run: RunData, key: str, under: str = "change") -> str:
    return str(table(table(run.summary, under), key).get("verdict", ""))


def _worse_of_critic(run: RunData) -> list[str]:
    return [name for key, name in MEASURES.items() if _verdict(run, key) == "worse"]


def _health(run: RunData) -> tuple[str, Tone]:
    state = str(run.status.get("state") or "unknown")
    at = f"in round {round_of(run.status)}"
    if state == "halted":
        reasons = run.status.get("reasons")
        why = "; ".join(map(str, reasons[:3])) if isinstance(reasons, list) else ""
        return _cut(f"no: halted by the monitor at round {round_of(run.status)}: {why}"), "bad"
    if state == "failed":
        return _cut(f"no: failed {at}: {run.status.get('error')}"), "bad"
    if state == "interrupted":
        return f"stopped by hand {at} (Ctrl-C or SIGTERM); {_so_far(run)}", "warn"
    if state == "running":
        return f"not at its end: it goes on {at}, or was killed there; {_so_far(run)}", "warn"
    if state != "finished":
        return f"unknown: how it ended is not recorded; {_so_far(run)}", "warn"
    stopped = run.status.get("stopped")
    num = len(run.rounds)
    complete = "its one round is complete" if num == 1 else f"all {num} rounds are complete"
    end = str(stopped) if stopped else complete
    ill, tone = _ills(run)
    return (f"{ill}; {end}" if ill else f"yes: nothing speaks against it; {end}"), tone


def _ills(run: RunData) -> tuple[str, Tone]:
    """What speaks against a finished run's health."""
    level, worse = _level(run), _worse_of_critic(run)
    if _verdict(run, "mean_at_k") == "worse":
        return "no: the learner got worse", "bad"
    if level not in ("ok", ""):
        return f"in doubt: the monitor stands at {level}", "warn"
    if not run.rounds:
        return "in doubt: no round is complete", "warn"
    formed = number(table(run.summary, "after"), "well_formed")
    if formed is not None and formed < FEW_FORMED:
        return f"in doubt: {100 * formed:.0f}% of the learner's answers are well-formed", "warn"
    if worse:
        return "in part: the critic got worse", "warn"
    if table(run.summary, "change") and _verdict(run, "mean_at_k") != "better":
        return "no fault found, and no gain shown", "warn"
    return "", "good"


def _so_far(run: RunData) -> str:
    played, of = len(run.rounds), run.rounds_in_all
    rounds = f"{played} of {of} rounds are complete" if of else f"{played} rounds are complete"
    level = _level(run)
    return f"{rounds}, the monitor stood at {level}" if level else rounds


def _level(run: RunData) -> str:
    """The monitor's at its last check; "" before the first."""
    return str(run.rounds[-1].get("monitor/state", "")) if run.rounds else ""


def _learner(run: RunData) -> str:
    before, after = table(run.summary, "before"), table(run.summary, "after")
    change = table(table(run.summary, "change"), "mean_at_k")
    first, last, by = number(before, "mean_at_k"), number(after, "mean_at_k"), change.get("value")
    if first is None or last is None:
        return _learner_so_far(run)
    k, num = (number(before, key) for key in ("num_samples", "num_tasks"))
    said = (
        f"{_share(before, 'mean_at_k')} → {_share(after, 'mean_at_k')} of its samples are right "
        f"(mean@{_n(k)}, {_n(num)} test tasks)"
    )
    if number(change, "value") is not None:
        points = _ends(change.get("interval"), 100, "+.1f")
        chance = CHANCE.get(str(change.get("verdict")), "")
        said += f": {100 * float(str(by)):+.1f} points{points}, {chance}"
    formed = number(after, "well_formed")
    if formed is not None and formed < FEW_FORMED:
        said += f"; only {100 * formed:.0f}% of its answers are well-formed"
    return said


def _learner_so_far(run: RunData) -> str:
    """From the gold probe: there is no measurement at the end."""
    start = [row for row in run.rows if row.get("kind") == "cold_start"]
    rows = [row for row in (*start, *run.rounds) if number(row, "probe/mean_at_k") is not None]
    if not rows:
        return "not measured yet"
    last = rows[-1]
    tasks = number(last, "probe/num_tasks")
    num = f", {_n(tasks)} tasks" if tasks else ""
    where = f"(gold probe, mean@{_n(number(last, 'probe/num_samples'))}{num})"
    now = f"{_share(last, 'probe/mean_at_k')} of its samples are right {where}"
    if last.get("kind") == "cold_start":
        return f"at the start {now}; no round is complete"
    if rows[0] is last:
        return f"after round {round_of(last)} {now}"
    return (
        f"{_share(rows[0], 'probe/mean_at_k')} → {now}, up to round {round_of(last)}; whether that "
        "is chance is judged at the end"
    )


def _critic(run: RunData) -> str:
    before, after = table(run.summary, "before"), table(run.summary, "after")
    if not after:
        rows = [row for row in run.rounds if number(row, "critic/auroc") is not None]
        before = _audit(rows[0]) if len(rows) > 1 else {}
        after = _audit(rows[-1]) if rows else {}
    if number(after, "num_solutions") in (None, 0):
        return "not asked yet" if not table(run.summary, "after") else "it was not asked"
    num = f"{_n(number(after, 'num_solutions'))} audited solutions"
    parsed = number(after, "parsed")
    if parsed is not None and parsed < FEW_PARSED:
        return (
            f"only {100 * parsed:.0f}% of its critiques could be read, so it tells little ({num})"
        )
    located = _pair(before, after, "location_accuracy")
    accused = f"accuses {_pair(before, after, 'false_accusations')} of sound solutions"
    found = f"names the first wrong step in {located} and {accused} ({num})"
    if located == "-":
        found = f"{accused} ({num}, none with a known wrong step)"
    if not table(run.summary, "change"):
        return found
    better = [name for key, name in MEASURES.items() if _verdict(run, key) == "better"]
    worse = _worse_of_critic(run)
    judged = [f"worse beyond chance: {', '.join(worse) or 'nothing'}"]
    if better:
        judged.append(f"better: {', '.join(better)}")
    return "; ".join([found, *judged])


def _audit(row: Row) -> Row:
    return {k.removeprefix("critic/"): v for k, v in row.items() if k.startswith("critic/")}


def _monitor(run: RunData) -> str:
    judged = [row for row in run.rounds if "monitor/state" in row]
    if not judged:
        return "no round is judged yet"
    level = _level(run)
    since = len(judged)
    while since and judged[since - 1].get("monitor/state") == level:
        since -= 1
    if since:
        said = f"{level} since round {round_of(judged[since])}"
    elif len(judged) == 1:
        said = f"{level} in the first round"
    else:
        said = f"{level} in all {len(judged)} rounds"
    reasons = judged[-1].get("monitor/reasons")
    if isinstance(reasons, list) and reasons and level != "ok":
        said = _cut(f"{said}: {'; '.join(map(str, reasons[:2]))}")
    orders = _orders(judged)
    return f"{said}; ordered: {', '.join(orders)}" if orders else said


def _orders(judged: Sequence[Row]) -> list[str]:
    found = []
    for row in judged:
        actions = row.get("monitor/actions")
        for action in actions if isinstance(actions, list) else []:
            kind = action.get("kind") if isinstance(action, dict) else action
            found.append(f"{str(kind).replace('_', ' ')} (round {round_of(row)})")
    return found[-3:]


def _pair(before: Row, after: Row, key: str) -> str:
    """A share before and after; the one that is known stands alone."""
    shares = [x for row in (before, after) if (x := number(row, key)) is not None]
    return " → ".join(f"{100 * x:.1f}%" for x in shares) or "-"


def _share(row: Row, key: str) -> str:
    value = number(row, key)
    shown = "-" if value is None else f"{100 * value:.1f}%"
    return shown + _ends(row.get(f"{key}_interval"), 100, ".1f")


def _ends(interval: object, scale: float, form: str) -> str:
    ends = list(interval) if isinstance(interval, list | tuple) else []
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        return ""
    return f" [{', '.join(f'{scale * end:{form}}' for end in ends)}]"


def _n(value: float | None) -> str:
    return "k" if value is None else f"{value:,.0f}"


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_REASON else f"{flat[: MAX_REASON - 1]}…"
