"""The numbers a run ends with: before, after, and what changed beyond its interval.

Figures have one name everywhere: in before.json, after.json, summary.json and, under critic/ and
critic/fresh/, in the round rows of metrics.jsonl. Leaves out how they are shown
(`run/final_table.py`, `report/`).
"""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from critic.calibration import FIGURES, LOWER_IS_BETTER, compare
from critic.resampling import Change, Estimate, change, paired_mean, unpaired
from pipelines.game.audit import critiques_of
from pipelines.run.round_log import ROUND_STAGES, Stages, number

FRESH = "critic/fresh/"


def summary(
    directory: Path,
    rows: Sequence[Mapping[str, object]],
    stages: Stages,
    counts: Counter[str],
    monitor: str,
    total_seconds: float,
) -> dict[str, object]:
    """Before and after in one JSON object, from before.json, after.json and the metrics.

    Returns:
        "before" and "after" as flat tables of figures, the learner's on the test split and the
        critic's on its fixed audit; "change", paired; "fresh", the critic on the rollouts of the
        first round and of the last; then the gate's counts, the monitor's level and the seconds.
    """
    before, after = (
        json.loads((directory / f"{when}.json").read_text()) for when in ("before", "after")
    )
    rounds = [row for row in rows if row["kind"] == "round"]
    masked = sum(number(row, "reward/masked_samples", 0.0) for row in rounds)
    admitted = counts.get("admitted", 0)
    rejected = {reason: n for reason, n in counts.items() if reason != "admitted"}
    return {
        "before": before["figures"],
        "after": after["figures"],
        "change": _plain(paired_changes(before, after)),
        "fresh": fresh_figures(rounds),
        "masked_rollouts": int(masked),
        "sync": sync_costs(rows),
        "admitted": admitted,
        "rejected": rejected,
        "monitor": monitor,
        "stages": {name: round(s, 1) for name, s in stages.items()},
        "seconds": round(total_seconds, 1),
    }


def paired_changes(before: Mapping, after: Mapping) -> dict[str, Change]:
    """What changed on the same tasks and the same audited solutions.

    Args:
        before: content of before.json.
        after: of after.json.
    """
    k = before["figures"]["num_samples"]
    shares = [[n / k for n in found["correct_by_task"]] for found in (before, after)]
    learner = {"mean_at_k": change(paired_mean(*shares), lower_is_better=False)}
    critic = compare(critiques_of(before["critiques"]), critiques_of(after["critiques"]))
    return learner | critic


def fresh_figures(rounds: Sequence[Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """The critic on the rollouts of the first round that has critiques and of the last.

    Their items differ, so that "change" is not paired; without critiques there is nothing.
    """
    found = [_under(FRESH, row) for row in rounds if f"{FRESH}num_critiques" in row]
    if not found:
        return {}
    first, last = found[0], found[-1]
    changes = {
        name: change(
            unpaired(_estimate(first, name), _estimate(last, name)),
            lower_is_better=name in LOWER_IS_BETTER,
        )
        for name in FIGURES
    }
    return {"first": first, "last": last, "change": _plain(changes if len(found) > 1 else {})}


def _under(prefix: str, row: Mapping[str, object]) -> dict[str, object]:
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}


def _estimate(row: Mapping[str, object], name: str) -> Estimate:
    value, interval = row.get(name), row.get(f"{name}_interval")
    assert value is None or isinstance(value, float | int), f"{name} = {value!r} is not a number"
    if not isinstance(interval, list | tuple):
        return Estimate(value, None)
    low, high = interval
    return Estimate(value, (low, high))


def _plain(changes: Mapping[str, Change]) -> dict[str, object]:
    return {name: asdict(found) for name, found in changes.items()}


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
