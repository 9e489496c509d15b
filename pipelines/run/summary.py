"""The table a run ends with, and the numbers in it."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.run.round_log import ROUND_STAGES, Stages, number


def summary(
    directory: Path,
    rows: Sequence[Mapping[str, object]],
    stages: Stages,
    counts: Counter[str],
    monitor: str,
    total_seconds: float,
) -> dict[str, object]:
    """Before and after in one JSON object, from before.json, after.json and the metrics."""
    result: dict[str, object] = {}
    for when in ("before", "after"):
        parts = json.loads((directory / f"{when}.json").read_text())
        evaluation, audit = parts["evaluation"], parts["audit"]
        result[when] = {
            "mean_at_k": evaluation["mean"],
            "mean_at_k_interval": evaluation["mean_interval"],
            "mean_well_formed": evaluation["mean_well_formed"],
            "mean_well_formed_interval": evaluation["mean_well_formed_interval"],
            "well_formed": evaluation["well_formed"],
            "pass_at_k": evaluation["pass_at_k"],
            "num_tasks": evaluation["num_tasks"],
            "num_samples": evaluation["num_samples"],
        } | (_audit_numbers(audit) if audit else {})
    admitted = counts.get("admitted", 0)
    rejected = {reason: n for reason, n in counts.items() if reason != "admitted"}
    return result | {
        "sync": sync_costs(rows),
        "admitted": admitted,
        "rejected": rejected,
        "monitor": monitor,
        "stages": {name: round(s, 1) for name, s in stages.items()},
        "seconds": round(total_seconds, 1),
    }


def sync_costs(rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """What moving the weights and proving it took of a run; nothing where none were moved.

    Args:
        rows: the run's metrics.

    Returns:
        Shares of all steps' seconds (everything about every sync, those between blocks too) and of
        all rounds' (name coverage and probes), and nanoseconds per parameter, the median step's.
    """
    steps = [row for row in rows if row["kind"] == "step" and "time/sync/sync" in row]
    rounds = [row for row in rows if row["kind"] == "round"]
    if not steps or not rounds:
        return {}

    def total(chosen: Sequence[Mapping[str, object]], *names: str) -> float:
        return sum(number(row, f"time/{name}", 0.0) for row in chosen for name in names)

    def median(name: str) -> float:
        return statistics.median(number(row, f"time/sync/{name}") for row in steps)

    return {
        "share_of_steps": total(steps, "sync/checksum", "sync/coverage", "sync/sync")
        / total(steps, "step"),
        "proof_share_of_rounds": total(steps, "sync/coverage", "sync/probe")
        / total(rounds, *ROUND_STAGES),
        **{name: median(name) for name in ("transfer_ns_per_parameter", "proof_ns_per_parameter")},
    }


def _sync_line(costs: Mapping[str, float]) -> list[str]:
    if not costs:
        return []
    moved, proven = costs["transfer_ns_per_parameter"], costs["proof_ns_per_parameter"]
    return [
        f"weight sync: {100 * costs['share_of_steps']:.1f}% of the steps; name coverage and probes "
        f"{100 * costs['proof_share_of_rounds']:.2f}% of the rounds; each parameter takes "
        f"{moved:.0f} ns to move and {proven:.0f} ns to prove"
    ]


def _audit_numbers(audit: Mapping[str, object]) -> dict[str, object]:
    report = audit["report"]
    assert isinstance(report, dict), "asdict of a dataclass"
    return {
        "auroc": report["auroc"],
        "auroc_interval": report["auroc_interval"],
        "ece": report["ece"],
        "first_flaw_accuracy": report["first_flaw_accuracy"],
        "audited": report["num"],
        "critiques_parsed": audit["parsed"],
        "auroc_length_baseline": audit["length_auroc"],
        "auroc_logprob_baseline": audit["logprob_auroc"],
    }


def table(found: Mapping[str, object], directory: Path) -> str:
    """The table a run ends with."""
    before, after = found["before"], found["after"]
    rejected, stages = found["rejected"], found["stages"]
    assert isinstance(before, dict) and isinstance(after, dict), "summary() made them"
    assert isinstance(rejected, dict) and isinstance(stages, dict), "summary() made them"
    k = before["num_samples"]
    rows = [
        (f"learner mean@{k} ({before['num_tasks']} test tasks)", _mean, "mean_at_k"),
        ("  of well-formed answers", _mean, "mean_well_formed"),
        ("  well-formed", _percent, "well_formed"),
        (f"critic AUROC ({before.get('audited', 0)} audited solutions)", _auroc, "auroc"),
        ("  solution-length baseline", _number, "auroc_length_baseline"),
        ("  mean-log-probability baseline", _number, "auroc_logprob_baseline"),
        ("critic ECE", _number, "ece"),
        ("critic first-flaw accuracy", _number, "first_flaw_accuracy"),
    ]
    width = max(len(name) for name, _, _ in rows)
    lines = ["", f"{'':<{width}}  {'cold start':<24}{'after self-play':<24}"]
    lines += [
        f"{name:<{width}}  {show(before, key):<24}{show(after, key):<24}"
        for name, show, key in rows
    ]
    gain = 100 * (after["mean_at_k"] - before["mean_at_k"])
    worst_first = sorted(rejected.items(), key=lambda item: -item[1])
    reasons = ", ".join(f"{num} {reason}" for reason, num in worst_first)
    rejections = f"{sum(rejected.values())} ({reasons})"
    outer = {name: seconds for name, seconds in stages.items() if ":" not in name}
    inner = {name: seconds for name, seconds in stages.items() if ":" in name}
    return "\n".join(
        [
            *lines,
            "",
            f"gain: {gain:+.1f} points of mean@{k}",
            f"samples admitted: {found['admitted']}; rejected: {rejections}",
            f"monitor: {found['monitor']}",
            f"seconds: {found['seconds']:.0f} in all; {_seconds(outer)}",
            f"  inside the blocks: {_seconds(inner)}",
            *_sync_line(found["sync"]),  # type: ignore[arg-type]
            f"report: {directory / 'report.html'}",
        ]
    )


def _seconds(stages: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {s:.0f}" for name, s in stages.items() if s >= 0.5)


def _percent(part: Mapping[str, object], key: str) -> str:
    return f"{100 * part[key]:.1f}%"  # type: ignore[operator]


def _mean(part: Mapping[str, object], key: str) -> str:
    low, high = part[f"{key}_interval"]  # type: ignore[misc]
    return f"{100 * part[key]:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"  # type: ignore[operator]


def _auroc(part: Mapping[str, object], key: str) -> str:
    if part.get(key) is None:
        return "-"
    low, high = part[f"{key}_interval"]  # type: ignore[misc]
    return f"{part[key]:.3f} [{low:.3f}, {high:.3f}]"


def _number(part: Mapping[str, object], key: str) -> str:
    value = part.get(key)
    return "-" if value is None else f"{value:.3f}"
