"""The table a run ends with, in words that a reader of the console understands.

Every figure that could embarrass the run stands in it, and one that got worse beyond its interval
is said to. Leaves out the numbers (`run/summary.py`), the page (`report/`), and what all of it
comes to (`report/account.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines.run.round_log import number

Part = Mapping[str, object]
Cell = Callable[[Part, str], str]
WIDTH = 27  # of a column of figures


def table(found: Mapping[str, object], directory: Path) -> str:
    """The whole table.

    Args:
        found: what `summary` gave.
        directory: the run's, to name its report.
    """
    before, after, changes = _part(found, "before"), _part(found, "after"), _part(found, "change")
    fresh = _part(found, "fresh")
    k = before["num_samples"]
    learner = [
        (f"learner mean@{k} ({before['num_tasks']} test tasks)", _share, "mean_at_k"),
        ("  of well-formed answers", _share, "mean_well_formed"),
        ("  well-formed", _share, "well_formed"),
        ("  masked samples (counted as wrong)", _count, "masked_samples"),
    ]
    audited = f"{before.get('num_solutions', 0)} audited solutions"
    baselines: list[tuple[str, Cell, str]] = [
        ("  AUROC of solution length", _number, "auroc_length_baseline"),
        ("  AUROC of mean log-probability", _number, "auroc_logprob_baseline"),
    ]
    lines = [
        *_rows(("", "before self-play", "after self-play"), learner, before, after, changes),
        *_rows((f"critic, {audited}", "", ""), CRITIC + baselines, before, after, changes),
        *_fresh_lines(fresh),
        "",
        _worse("fixed tasks and audit", changes),
        _worse("fresh rollouts", _part(fresh, "change")),
        f"masked rollouts over the run: {found['masked_rollouts']}",
    ]
    return "\n".join([*lines, *_run_lines(found), f"report: {directory / 'report.html'}"])


def _fresh_lines(fresh: Part) -> list[str]:
    """The critic on the rollouts of the first and of the last round, and by kind of mistake."""
    if not fresh:
        return ["", "critic on fresh rollouts: it was not asked"]
    first, last = _part(fresh, "first"), _part(fresh, "last")
    head = ("critic, fresh rollouts", "first round", "last round")
    counts: list[tuple[str, Cell, str]] = [("  critiques", _count, "num_critiques")]
    lines = _rows(head, CRITIC + counts, first, last, _part(fresh, "change"))
    kinds = {name: _part(_part(last, "by_kind"), name) for name in _part(last, "by_kind")}
    return lines + [
        f"  located, {name} ({100 * number(kind, 'share'):.1f}% of mistakes): "
        + _share(kind, "location_accuracy")
        for name, kind in kinds.items()
    ]


def _run_lines(found: Mapping[str, object]) -> list[str]:
    rejected, stages = _part(found, "rejected"), _part(found, "stages")
    worst_first = sorted(rejected, key=lambda reason: -number(rejected, reason))
    reasons = ", ".join(f"{rejected[reason]} {reason}" for reason in worst_first)
    num_rejected = sum(number(rejected, reason) for reason in rejected)
    outer = {name: seconds for name, seconds in stages.items() if ":" not in name}
    inner = {name: seconds for name, seconds in stages.items() if ":" in name}
    total = number(found, "seconds")
    other = {"other": total - sum(number(outer, name) for name in outer)}
    return [
        *_best_lines(_part(found, "best")),
        f"samples admitted: {found['admitted']}; rejected: {num_rejected:.0f}"
        + (f" ({reasons})" if reasons else ""),
        f"seconds: {total:.0f} in all; {_seconds(outer | other)}",
        *([f"  inside the blocks: {_seconds(inner)}"] if _seconds(inner) else []),
        *_sync_line(_part(found, "sync")),
    ]


def _best_lines(best: Part) -> list[str]:
    if not best:
        return []
    return [
        f"best checkpoint: of round {best['round']}, {100 * number(best, 'selected_at'):.1f}% on "
        "the selection tasks, which flatters it as the best of several; on the test tasks "
        f"{_share(best, 'mean_at_k')}"
    ]


def _sync_line(costs: Part) -> list[str]:
    if not costs:
        return []
    moved, proven = costs["transfer_ns_per_parameter"], costs["proof_ns_per_parameter"]
    return [
        f"weight sync: {100 * costs['share_of_steps']:.1f}% of the steps; name coverage and probes "
        f"{100 * costs['proof_share_of_rounds']:.2f}% of the rounds; each parameter takes "
        f"{moved:.0f} ns to move and {proven:.0f} ns to prove"
    ]


def _rows(
    head: tuple[str, str, str],
    rows: Sequence[tuple[str, Cell, str]],
    before: Part,
    after: Part,
    changes: Part,
) -> list[str]:
    lines = ["", f"{head[0]:<42}{head[1]:<{WIDTH}}{head[2]:<{WIDTH}}change".rstrip()]
    for name, show, key in rows:
        cells = f"{show(before, key):<{WIDTH}}{show(after, key):<{WIDTH}}"
        lines.append(f"{name:<42}{cells}{_change(changes, key, show)}".rstrip())
    return lines


def _worse(where: str, changes: Part) -> str:
    """Names what got worse, in words."""
    names = [
        NAMES.get(name, name) for name in changes if _part(changes, name)["verdict"] == "worse"
    ]
    return f"worse beyond its interval, {where}: {', '.join(names) or 'nothing'}"


def _change(changes: Part, key: str, show: Cell) -> str:
    found = _part(changes, key)
    value, interval = found.get("value"), found.get("interval")
    if value is None:
        return ""
    scale, digits = (100, 1) if show is _share else (1, 3)
    text = f"{scale * number(found, 'value'):+.{digits}f}"
    if isinstance(interval, list | tuple):
        low, high = (scale * end for end in interval)
        text += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{text} {found['verdict']}" if found["verdict"] in ("worse", "better") else text


def _part(whole: Mapping[str, object], key: str) -> dict[str, object]:
    found = whole.get(key) or {}
    assert isinstance(found, dict), f"{key} is a table, not {found!r}"
    return found


def _seconds(stages: Mapping[str, object]) -> str:
    spent = {name: number(stages, name) for name in stages}
    return ", ".join(f"{name} {seconds:.0f}" for name, seconds in spent.items() if seconds >= 0.5)


def _share(part: Part, key: str) -> str:
    return _figure(part, key, 100, 1, "%")


def _number(part: Part, key: str) -> str:
    return _figure(part, key, 1, 3, "")


def _figure(part: Part, key: str, scale: int, digits: int, unit: str) -> str:
    """A figure with its interval, where there is one."""
    if part.get(key) is None:
        return "-"
    text = f"{scale * number(part, key):.{digits}f}{unit}"
    interval = part.get(f"{key}_interval")
    if not isinstance(interval, list | tuple):
        return text
    low, high = (scale * end for end in interval)
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _perfect(part: Part, key: str) -> str:
    """What a perfectly calibrated critic would show: the mean and where 95% lie below."""
    if part.get(key) is None:
        return "-"
    return f"{_number(part, key)}, 95% below {_number(part, f'{key}_p95')}"


def _count(part: Part, key: str) -> str:
    return "-" if part.get(key) is None else f"{number(part, key):,.0f}"


CRITIC: list[tuple[str, Cell, str]] = [
    ("  sound solutions falsely accused", _share, "false_accusations"),
    ("  location accuracy", _share, "location_accuracy"),
    ("  ProcessBench F1", _number, "processbench_f1"),
    ("  AUROC", _number, "auroc"),
    ("  Brier score", _number, "brier"),
    ("  ECE", _number, "ece"),
    ("  ECE if perfectly calibrated", _perfect, "ece_perfect"),
    ("  critiques parsed", _share, "parsed"),
]
NAMES = {key: name.strip() for name, _, key in CRITIC} | {"mean_at_k": "learner mean@k"}
