"""What are feedback and a proposer worth? Arms at equal optimizer updates, their costs beside.

    python benchmarks/exp_feedback.py sweep    each arm at three learning rates
    python benchmarks/exp_feedback.py run      each arm at its best rate of the sweep, then guarded
    python benchmarks/exp_feedback.py table    what there is so far

    none         GRPO alone, with as many more steps as the others take supervised ones
    rft          supervised steps on admitted solutions
    rft+replay   half of them of tasks that the learner still fails, some of which it plays again
    proposed     one of the steps is the proposer's, whose tasks are half of those that are played
    ungated      supervised steps on everything that the learner wrote
    guarded      ungated, and the monitor may restrict it; not swept, at the rate of ungated

On the demo's sums, of which its cold start solves one sample in some hundred, and of which it was
shown some, long and short, as a proposer writes them; no pointer and no resets, so that nothing
else helps. The monitor warns and halts, and changes nothing but in
`guarded`. Cold starts, runs and results are kept as `exp_pointing.py` keeps its own. Leaves out how
a run is played (`pipelines/`).
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign import call, play_all
from exp_pointing import ALONE, SUMS, check_played, cold_start, outcome, slim, was_halted
from harness import ROOT, context, shown, write_result
from pointing_tables import NUM_BASES, SWEPT_SEEDS, accuracy, plain, seconds, tokens

RATES = ("1e-4", "3e-4", "1e-3")
SWEPT = ("none", "rft", "rft+replay", "proposed", "ungated")
COLD_START = ("sft.num_proposals=1500",)
GRPO_STEPS, SUPERVISED_STEPS = 5, 3  # per round
FED = (f"learner.steps_per_round={GRPO_STEPS}", f"feedback.steps={SUPERVISED_STEPS}")
ARMS: Mapping[str, Sequence[str]] = {
    "none": (f"learner.steps_per_round={GRPO_STEPS + SUPERVISED_STEPS}",),
    "rft": FED,
    "rft+replay": (*FED, "feedback.replay_share=0.5", "feedback.revisit_share=0.125"),
    "proposed": (
        f"learner.steps_per_round={GRPO_STEPS + SUPERVISED_STEPS - 1}",
        "proposer.steps=1",
    ),
    "ungated": (*FED, "feedback.gate=none"),
    "guarded": (*FED, "feedback.gate=none", 'monitor.offers=["verified_only"]'),
}
SEEDS = range(5)
SIZES = (
    *ALONE, "run.rounds=12", "learner.grpo.lr_scheduler_type=constant", "evaluate.num_tasks=64",
    "evaluate.num_samples=4", "evaluate.num_probe_tasks=64", "evaluate.num_audit_tasks=2",
    "critic.critiques_per_audit=1", "monitor.offers=[]",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of one arm."""

    arm: str
    rate: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder, and its key in the results."""
        return f"{self.arm}/{self.rate}/{self.seed}"


def job_of(name: str) -> Job:
    """The run of a name."""
    arm, rate, seed = name.split("/")
    return Job(arm, rate, int(seed))


def overrides_of(job: Job, more: Sequence[str]) -> list[str]:
    """What makes an arm, in the order that counts."""
    return [
        *SUMS,
        *COLD_START,
        *SIZES,
        f"learner.grpo.learning_rate={job.rate}",
        *ARMS[job.arm],
        *more,
    ]


def is_current(name: str, found: Mapping, more: Sequence[str]) -> bool:
    """Whether a result is of what the script plays under its name today."""
    job = job_of(name)
    return job.arm in ARMS and found.get("overrides") == overrides_of(job, more)


def play(job: Job, folder: Path, more: Sequence[str]) -> dict[str, object]:
    """One run, from its cold start on; returns what is compared."""
    directory, given = folder / job.name, overrides_of(job, more)
    log = folder / "logs" / f"{job.name.replace('/', '-')}.log"
    check_played(directory, given)
    if not (directory / "summary.json").exists() and not was_halted(directory):
        arguments = ["--resume", str(directory)]
        if not (directory / "config.json").exists():
            arguments = [
                "--config", str(ROOT / "configs" / "tiny.toml"), f"run.seed={job.seed}",
                f"sft.directory={folder / 'base' / 'sums' / str(job.seed % NUM_BASES)}",
                f"run.directory={directory}", *given,
            ]  # fmt: skip
        call(ROOT / "pipelines" / "rl.py", arguments, log)
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    fed = [feedback_point(row) for row in lines if row["kind"] == "round"]
    return outcome(directory) | {
        "overrides": given, "feedback": fed, "halted": was_halted(directory),
    }  # fmt: skip


def feedback_point(row: Mapping[str, object]) -> dict[str, object]:
    """What a round's row says of its feedback, and of what it cost."""
    kept = ("feedback/", "gate/admitted", "reward/pass_rate", "time/feedback")
    return {name: value for name, value in row.items() if name.startswith(kept)}


def jobs(stage: str, rates: Mapping[str, str]) -> Iterator[Job]:
    """The runs of a stage, seed by seed, so that a stopped campaign has whole seeds."""
    if stage == "sweep":
        for seed in SWEPT_SEEDS:
            yield from (Job(arm, rate, seed) for arm in SWEPT for rate in RATES)
        return
    for seed in SEEDS:
        for arm in ARMS:
            rate = rates.get("ungated" if arm == "guarded" else arm)
            if rate is not None:
                yield Job(arm, rate, seed)


def best_rates(results: Mapping[str, Mapping]) -> dict[str, str]:
    """Each arm's rate with the best mean accuracy over its rounds, a halted run's end held on."""
    scores: dict[tuple[str, str], list[float]] = {}
    longest = max((len(found["rounds"]) for found in results.values()), default=0)
    for name, found in results.items():
        job = job_of(name)
        if job.seed in SWEPT_SEEDS and found["rounds"]:
            curve = [accuracy(point) for point in found["rounds"]]
            curve += [curve[-1]] * (longest - len(curve))
            scores.setdefault((job.arm, job.rate), []).append(statistics.fmean(curve))
    best: dict[str, tuple[float, str]] = {}
    for (arm, rate), own in scores.items():
        best[arm] = max(best.get(arm, (-1.0, "")), (statistics.fmean(own), rate))
    return {arm: rate for arm, (_, rate) in best.items()}


def table(results: Mapping[str, Mapping]) -> str:
    """Arms as rows: held-out accuracy, what it cost, what was fed back, how the monitor stood.

    The end of a halted run is its last reading. Updates are those that were taken: supervised ones
    wait for enough records.
    """
    groups: dict[tuple[str, str, str], list[Mapping]] = {}
    for name, found in results.items():
        job = job_of(name)
        stage = "sweep: " if job.seed in SWEPT_SEEDS else ""
        if found["rounds"]:
            groups.setdefault((stage, job.arm, job.rate), []).append(found)
    lines = [
        "| arm | rate | seeds | start | end | best round | updates: GRPO, supervised "
        "| tokens (thousand) | seconds | fed: accuracy | age | replayed again: before, then "
        "| monitor at the end | halted |",
        f"|{'---|' * 14}",
    ]
    for (stage, arm, rate), runs in groups.items():
        ends = [run["rounds"][-1] for run in runs]
        cells = [shown([run["before"]["figures"]["mean_at_k"] for run in runs])]
        cells += [shown([accuracy(end) for end in ends])]
        cells += [shown([max(map(accuracy, run["rounds"])) for run in runs])]
        cells += [updates(arm, runs), plain([tokens(end) / 1000 for end in ends])]
        cells += [plain([total_seconds(run) for run in runs])]
        cells += [fed(runs, "accuracy"), fed(runs, "mean_age")]
        cells += [f"{fed(runs, 'pass_rate_before')}, {fed(runs, 'pass_rate_now')}"]
        cells += [", ".join(str(end["monitor/state"]) for end in ends)]
        cells += [str(sum(bool(run["halted"]) for run in runs))]
        lines.append(f"| {stage}{arm} | {rate} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def updates(arm: str, runs: Sequence[Mapping]) -> str:
    """The optimizer steps that a run took, on average: of GRPO and a proposer, and supervised."""
    own = GRPO_STEPS + (SUPERVISED_STEPS if arm in ("none", "proposed") else 0)
    grpo = [own * len(run["rounds"]) for run in runs]
    taken = [sum(point.get("feedback/steps", 0) for point in run["feedback"]) for run in runs]
    return f"{plain(grpo)}, {plain(taken)}"


def total_seconds(run: Mapping) -> float:
    """What was spent on training, the supervised steps with it."""
    fed_back = math.fsum(point.get("time/feedback", 0.0) for point in run["feedback"])
    return seconds(run["rounds"][-1]) + fed_back


def fed(runs: Sequence[Mapping], name: str) -> str:
    """The mean of a figure over all rounds that have it, or a dash."""
    found = [
        point[f"feedback/{name}"] for run in runs for point in run["feedback"]
        if f"feedback/{name}" in point
    ]  # fmt: skip
    return f"{statistics.fmean(found):.2f}" if found else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["sweep", "run", "table"])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "feedback")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, help="these alone")
    parser.add_argument("--result", default="feedback", help="name of the file of results")
    parser.add_argument("--overrides", nargs="*", default=[], help="table.key=value, for every run")
    options = parser.parse_args()
    path, more = ROOT / "benchmarks" / "results" / f"{options.result}.json", options.overrides
    results: dict[str, Mapping] = {}
    if path.exists():
        results = json.loads(path.read_text())["results"]
    current = {name: each for name, each in results.items() if is_current(name, each, more)}
    if len(current) < len(results):
        print(f"{len(results) - len(current)} results were played otherwise: left out")
    if options.stage != "table":
        rates = best_rates(current) if options.stage == "run" else {}
        if options.stage == "run" and not rates:
            raise SystemExit("no learning rates yet: run `exp_feedback.py sweep` first")
        wanted = [
            job for job in jobs(options.stage, rates)
            if job.arm in options.arms and job.name not in current
            and (options.seeds is None or job.seed in options.seeds)
        ]  # fmt: skip
        for base in sorted({job.seed % NUM_BASES for job in wanted}):
            cold_start("sums", base, options.folder, COLD_START)

        def keep(job: Job, result: Mapping[str, object]) -> None:
            results[job.name] = current[job.name] = result
            made = {"context": context({"run": len(SEEDS), "sweep": len(SWEPT_SEEDS)})}
            write_result(options.result, made | {"results": slim(results)})

        play_all(wanted, lambda job: play(job, options.folder, more), keep)
    print(table(current))


if __name__ == "__main__":
    main()
