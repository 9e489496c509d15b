"""Does a real pretrained model learn, and its critic beside it? SmolLM2-135M-Instruct, three seeds.

    python pipelines/smollm2.py --out runs/smollm2-base    first
    python benchmarks/exp_smollm2.py run                   each arm, over the seeds
    python benchmarks/exp_smollm2.py table                 what there is so far

Every run is configs/smollm2.toml with the overrides of its arm. In the control, rewards are
permuted over each batch, so that nothing can be learned from them; it says nothing of the critic.
Runs go one at a time on two threads; a finished run is kept, a killed one is resumed, and
benchmarks/results/smollm2.json is written after each. Leaves out how a run is played
(`pipelines/`).
"""

import argparse
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign import call, play_all
from exp_pointing import check_played, was_halted
from harness import RESULTS, ROOT, context, write_result

CONFIG = ROOT / "configs" / "smollm2.toml"
RL = ROOT / "pipelines" / "rl.py"
ARMS: Mapping[str, Sequence[str]] = {
    "trained": (),
    "shuffled": ("rewards.shuffled=true", "critic.imitation_steps=0"),
}
KEPT = (
    "mean_at_k", "mean_at_k_interval", "mean_well_formed", "mean_well_formed_interval",
    "well_formed", "pass_at_k", "num_tasks", "num_samples", "parsed", "parsed_interval",
    "location_accuracy", "location_accuracy_interval", "false_accusations",
    "false_accusations_interval", "processbench_f1", "processbench_f1_interval",
)  # fmt: skip
CURVE = (
    "probe/mean_at_k", "probe/well_formed", "reward/pass_rate", "critic/parsed",
    "critic/location_accuracy", "critic/false_accusations", "monitor/state", "run/seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of one arm."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder, and its key in the results."""
        return f"{self.arm}/{self.seed}"


def overrides_of(arm: str, seed: int, more: Sequence[str]) -> list[str]:
    """What makes a run, in the order that counts."""
    return [f"run.seed={seed}", *more, *ARMS[arm]]


def is_current(name: str, found: Mapping, more: Sequence[str]) -> bool:
    """Whether a result is of what the script plays under its name today."""
    arm, seed = name.split("/")
    return arm in ARMS and found.get("overrides") == overrides_of(arm, int(seed), more)


def play(job: Job, folder: Path, more: Sequence[str], threads: int) -> dict[str, object]:
    """One run; returns what is compared."""
    directory, overrides = folder / job.name, overrides_of(job.arm, job.seed, more)
    log = folder / "logs" / f"{job.name.replace('/', '-')}.log"
    check_played(directory, overrides, CONFIG)
    if not (directory / "summary.json").exists() and not was_halted(directory):
        if (directory / "config.json").exists():
            call(RL, ["--resume", str(directory)], log, threads=threads)
        else:
            start = ["--config", str(CONFIG), f"run.directory={directory}", *overrides]
            call(RL, start, log, threads=threads)
    return outcome(directory) | {"overrides": overrides}


def outcome(directory: Path) -> dict[str, object]:
    """A run's curve by round, and its examinations before and after."""
    rows = list(map(json.loads, (directory / "metrics.jsonl").read_text().splitlines()))
    rounds = [row for row in rows if row["kind"] == "round"]
    found: dict[str, object] = {
        "rounds": [{name: row[name] for name in CURVE if name in row} for row in rounds],
        "monitor": rounds[-1]["monitor/state"] if rounds else None,
        "seconds": rounds[-1]["run/seconds"] if rounds else None,
    }
    if was_halted(directory):
        found["monitor"] = "halt"
    for when in ("before", "after"):
        path = directory / f"{when}.json"
        if path.exists():
            content = json.loads(path.read_text())
            figures = {name: content["figures"].get(name) for name in KEPT}
            found[when] = figures | {"location_baseline": majority(content["critiques"])}
    return found


def majority(critiques: Mapping[str, Sequence]) -> float | None:
    """The location accuracy of one who always names the commonest first wrong step.

    None where no audited solution has a located flaw.
    """
    first_bad = [step for step in critiques.get("first_bad", ()) if step is not None]
    return max(Counter(first_bad).values()) / len(first_bad) if first_bad else None


def table(results: Mapping[str, Mapping]) -> str:
    """One row per run."""
    lines = [
        "| arm/seed | right before | after | well-formed before | after | critiques parsed before "
        "| after | location before | after | always the commonest step | minutes | monitor |",
        "|---" * 12 + "|",
    ]
    for name, found in sorted(results.items()):
        before, after = found.get("before", {}), found.get("after", {})
        cells = [
            share(each, figure)
            for figure in ("mean_at_k", "well_formed", "parsed", "location_accuracy")
            for each in (before, after)
        ]
        seconds = found["seconds"]
        minutes = "" if seconds is None else f"{seconds / 60:.0f}"
        cells += [share(after or before, "location_baseline"), minutes, str(found["monitor"])]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def share(figures: Mapping, name: str) -> str:
    """A share in percent, with its interval where there is one."""
    value, interval = figures.get(name), figures.get(f"{name}_interval")
    if value is None:
        return ""
    shown = f"{100 * value:.1f}%"
    return (
        shown if interval is None else f"{shown} [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["run", "table"])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "smollm2-campaign")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--overrides", nargs="*", default=[], help="table.key=value, for every run")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=2, help="of each run")
    parser.add_argument("--topic", default="smollm2", help="name of the result file")
    options = parser.parse_args()
    path = RESULTS / f"{options.topic}.json"
    results: dict[str, Mapping] = json.loads(path.read_text())["results"] if path.exists() else {}
    current = {n: each for n, each in results.items() if is_current(n, each, options.overrides)}
    if len(current) < len(results):
        print(f"{len(results) - len(current)} results were played otherwise: left out")
    if options.stage == "run":
        jobs = [Job(arm, seed) for arm in options.arms for seed in options.seeds]

        def keep(job: Job, result: Mapping[str, object]) -> None:
            results[job.name] = current[job.name] = result
            seeds = {arm: len(options.seeds) for arm in options.arms}
            write_result(options.topic, {"context": context(seeds), "results": results})

        wanted = [job for job in jobs if job.name not in current]
        played = functools.partial(
            play, folder=options.folder, more=options.overrides, threads=options.threads
        )
        play_all(wanted, played, keep, options.at_once)
    print(table(current))


if __name__ == "__main__":
    main()
