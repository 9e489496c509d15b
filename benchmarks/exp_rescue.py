"""Do the monitor's interventions rescue a run? A learner fed its own hot, unverified samples.

    python benchmarks/exp_rescue.py run       every arm, seed by seed; a killed one goes on
    python benchmarks/exp_rescue.py table     what there is so far

    alone        the monitor only watches
    halts        it may halt, and intervenes in nothing
    intervenes   it may restrict the feedback to verified records of rounds whose check was clean,
                 and halt

Each round takes a GRPO step, then supervised steps on everything that the learner just wrote, right
or wrong (`feedback.gate=none`), at temperature 1.2: it imitates a hotter policy than it is, which
grows hotter with it. Cold starts and held-out tasks are those of `exp_monitor.py`, read at the same
temperature; a run has recovered where its last two readings of held-out accuracy are on average
less than 5 points below its start. What a halted run keeps is the checkpoint that it was rolled
back to. Seeds 0 to 6 served to choose temperature and rate: at half the rate one of six collapsed.
benchmarks/results/rescue.json is written after each run. Leaves out how a run is played
(`pipelines/`).
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from campaign import call, play_all
from exp_monitor import COLD_START_SIZES, FAMILIES, SIZES, base_of, cold_start
from exp_pointing import check_played, was_halted
from exp_smollm2 import Job
from harness import RESULTS, ROOT, context, write_result
from monitor_tables import LOSS, share

from critic.monitor.replay import COLD_START

FAMILY = "sums"
FRESH = 7  # the first seed that served no choice
NUM_LAST = 2  # readings that say how a run ended
FED = (
    "run.rounds=16", "learner.grpo.learning_rate=1e-4", "learner.temperature=1.2",
    "feedback.steps=4", "feedback.gate=none", "feedback.rate_factor=6",
)  # fmt: skip
ALERT = "monitor.watch_only=false"  # after `SIZES`
ARMS: Mapping[str, Sequence[str]] = {
    "alone": ("monitor.offers=[]",),
    "halts": ("monitor.offers=[]", ALERT),
    "intervenes": ('monitor.offers=["verified_only"]', ALERT),
}


def overrides_of(arm: str) -> list[str]:
    """What makes an arm, in the order that counts."""
    return [*FAMILIES[FAMILY], *COLD_START_SIZES, *SIZES, *FED, *ARMS[arm]]


def play(job: Job, folder: Path, bases: Path) -> dict[str, object]:
    """One run, from its cold start on; returns what is compared."""
    directory, given = folder / job.name, overrides_of(job.arm)
    log = folder / "logs" / f"{job.name.replace('/', '-')}.log"
    check_played(directory, given)
    if not (directory / "summary.json").exists() and not was_halted(directory):
        arguments = ["--resume", str(directory)]
        if not (directory / "config.json").exists():
            arguments = [
                "--config", str(ROOT / "configs" / "tiny.toml"), f"run.seed={job.seed}",
                f"sft.directory={base_of(FAMILY, job.seed, bases)}", f"run.directory={directory}",
                *given,
            ]  # fmt: skip
        call(ROOT / "pipelines" / "rl.py", arguments, log)
    return outcome(directory) | {"overrides": given}


def outcome(directory: Path) -> dict[str, object]:
    """Held-out accuracy check by check, the monitor's levels and orders, and what is kept.

    The round that a run is halted in is not examined on held-out tasks.
    """
    rows = list(map(json.loads, (directory / "metrics.jsonl").read_text().splitlines()))
    start = next(row for row in rows if row["kind"] == COLD_START)
    rounds = [row for row in rows if row["kind"] == "round"]
    was_read = "evaluation/mean_at_k"
    held_out = [row[was_read] for row in rounds if was_read in row]
    found: dict[str, object] = {
        "start": start["evaluation/mean_at_k"],
        "held_out": held_out,
        "states": [row["monitor/state"] for row in rounds],
        "orders": [[one["kind"] for one in row["monitor/actions"]] for row in rounds],
        "halted": was_halted(directory),
    }
    if found["halted"]:
        incident = json.loads((directory / "incident.json").read_text())
        found["rolled_back_to"] = incident["last_clean_check"]
    return found


def kept(found: Mapping) -> float:
    """Held-out accuracy of what a run leaves: its end, or what it was rolled back to."""
    if found["halted"]:
        clean = found["rolled_back_to"]
        return found["start"] if clean is None else found["held_out"][clean]
    return statistics.fmean(found["held_out"][-NUM_LAST:])


def table(results: Mapping[str, Mapping]) -> str:
    """One row per arm, of the fresh seeds."""
    lines = [
        "| arm | runs | start | lowest | what is kept | recovered, without a halt | halted "
        "| nothing lost: kept within 5 points of the start |",
        "|---|---|---|---|---|---|---|---|",
    ]
    fresh = {name: found for name, found in results.items() if int(name.split("/")[1]) >= FRESH}
    for arm in ARMS:
        runs = [found for name, found in fresh.items() if name.split("/")[0] == arm]
        if not runs:
            continue
        whole = [found["start"] - kept(found) < LOSS for found in runs]
        well = [good and not found["halted"] for good, found in zip(whole, runs, strict=True)]
        cells = [
            str(len(runs)), *(f"{statistics.fmean(values):.2f}" for values in (
                [found["start"] for found in runs],
                [min([*found["held_out"], found["start"]]) for found in runs],
                list(map(kept, runs)),
            )),
            share(sum(well), len(runs)), share(sum(bool(f["halted"]) for f in runs), len(runs)),
            share(sum(whole), len(runs)),
        ]  # fmt: skip
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["run", "table"])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "rescue")
    parser.add_argument("--bases", type=Path, default=ROOT / "runs" / "monitor")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=10, help="fresh ones, of each arm")
    options = parser.parse_args()
    path = RESULTS / "rescue.json"
    results: dict[str, Mapping] = json.loads(path.read_text())["results"] if path.exists() else {}
    current = {
        name: found for name, found in results.items()
        if found["overrides"] == overrides_of(name.split("/")[0])
    }  # fmt: skip
    if len(current) < len(results):
        print(f"{len(results) - len(current)} results were played otherwise: left out")
    if options.stage == "run":
        seeds = range(FRESH, FRESH + options.seeds)
        every = [Job(arm, seed) for seed in seeds for arm in options.arms]
        wanted = [job for job in every if job.name not in current]
        for seed in {job.seed for job in wanted}:
            cold_start(FAMILY, seed, options.bases, ())

        def keep(job: Job, result: Mapping[str, object]) -> None:
            results[job.name] = current[job.name] = result
            write_result("rescue", {"context": context({"all": options.seeds}), "results": results})

        play_all(wanted, lambda job: play(job, options.folder, options.bases), keep)
    print(table(current))


if __name__ == "__main__":
    main()
