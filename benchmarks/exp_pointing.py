"""What is a pointer worth? Arms at equal steps, with their tokens and seconds beside.

    python benchmarks/exp_pointing.py sweep    each deciding arm at three learning rates
    python benchmarks/exp_pointing.py run      every arm, at its best rate of the sweep
    python benchmarks/exp_pointing.py table    what there is so far

Step checks are withheld from training but for the oracle: they only measure. Each family has
`NUM_BASES` cold starts, which its seeds take turns in using and all arms share. Runs go two at a
time, one thread each (a cold start alone, in two processes); a finished run is kept and a killed
one resumed, and benchmarks/results/pointing.json is written after each. Every arm is
configs/tiny.toml with the overrides below. Leaves out how a run is played (`pipelines/`).
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from campaign import call, play_all
from harness import ROOT, context, write_result
from pointing_tables import (
    NUM_BASES,
    SWEPT_SEEDS,
    accuracy,
    critic_table,
    equal_table,
    reach_table,
    table,
)

from pipelines.settings.load import dump_settings, load_settings

RATES = ("1e-4", "3e-4", "1e-3")
DECIDING = ("verifier", "ours", "oracle")
WITHHELD = "pointing.step_checks=false"
# To 0 at the run's end: at the rate that climbs fastest the pointed arms swing without.
DECAYS = "learner.grpo.lr_scheduler_type=cosine"
CONSTANT = "learner.grpo.lr_scheduler_type=constant"
NO_CRITIC = ("critic.steps_per_round=0", "critic.imitation_steps=0")
NO_RESETS = "pointing.reset_share=0"
REWARD_ALONE = ("critic.imitation_steps=0", "critic.steps_per_round=3")
ALONE = ("pointing.source=none", NO_RESETS, *NO_CRITIC)
ARMS: Mapping[str, Sequence[str]] = {
    # Twice the steps of the others: more tokens than the co-trained arm spends in all.
    "verifier": (*ALONE, "run.rounds=16", CONSTANT),
    "verifier_200": (*ALONE, "run.rounds=40", CONSTANT),
    "verifier_decay": (*ALONE, "run.rounds=16", DECAYS),
    # At a rate that outcome rewards bear, which the pointed arms' is not.
    "verifier_shuffled": (*ALONE, "run.rounds=16", CONSTANT, "rewards.shuffled=true"),
    "ours": (WITHHELD, DECAYS),
    # The critic's checkpoints in the midst of the climb, for exp_inference and exp_confirmation.
    "short": (WITHHELD, DECAYS, "run.rounds=3"),
    "oracle": ("pointing.source=code", *NO_CRITIC, DECAYS),
    "random": (WITHHELD, DECAYS, "pointing.source=chance", *NO_CRITIC),
    "random_unconfirmed": (
        WITHHELD, DECAYS, "pointing.source=chance", "pointing.confirm=false", *NO_CRITIC
    ),
    "frozen": (WITHHELD, DECAYS, *NO_CRITIC),
    "taught": (WITHHELD, DECAYS, "critic.imitation_steps=16"),
    "tested": (WITHHELD, DECAYS, "pointing.trust=1"),  # only what continuations decide counts
    "unconfirmed": (WITHHELD, DECAYS, "pointing.confirm=false"),
    "credit": (WITHHELD, DECAYS, NO_RESETS),
    "resets": (WITHHELD, DECAYS, "pointing.credit=false"),
    "shuffled": (WITHHELD, DECAYS, "rewards.shuffled=true"),
    "no_rl": (WITHHELD, DECAYS, "critic.steps_per_round=0"),
    "no_champion": (WITHHELD, DECAYS, "critic.champion=false"),
    "no_balance": (WITHHELD, DECAYS, "critic.balance_classes=false"),
    # Beside the steps of imitation a reward shows little: these learn by it alone.
    "no_imitation": (WITHHELD, DECAYS, *REWARD_ALONE),
    "dsm2": (WITHHELD, DECAYS, *REWARD_ALONE, "critic.reward=dsm2"),
    "tango": (WITHHELD, DECAYS, *REWARD_ALONE, "critic.reward=tango"),
    "rlcr": (WITHHELD, DECAYS, *REWARD_ALONE, "critic.reward=rlcr"),
}  # fmt: skip
SUMS = (
    "tasks.family=basic_arithmetic",
    'tasks.params={min_terms=8, max_terms=12, min_digits=1, max_digits=1, operators=["+"], '
    "allow_parentheses=false, allow_negation=false}",
)
FAMILIES: Mapping[str, Sequence[str]] = {
    "sums": SUMS,
    "doublings": (
        "tasks.family=double_and_add",
        "tasks.params={min_terms=8, max_terms=12}",
        # Most of its steps have a carry: at 0.65 one that forgets it is as likely as a right one.
        "sft.slip_rate=0.6",
    ),
    # Sums from cold starts with fewer critiques, and as many demonstrations in all: is there more
    # to train then?
    "few_lessons": (*SUMS, "sft.num_critiques=3000", "sft.num_solutions=22000"),
    "fewest_lessons": (*SUMS, "sft.num_critiques=600", "sft.num_solutions=24400"),
}
RATES_OF = {"few_lessons": "sums", "fewest_lessons": "sums"}  # without a sweep of their own
TRAINS = ("learner block", "critic block", "gate", "commit")  # what is not there to measure
# Of the sweep, of the deciding arms, and of the others.
SEEDS = {
    "sums": (2, 8, 3),
    "doublings": (1, 5, 3),
    "few_lessons": (0, 1, 1),
    "fewest_lessons": (0, 1, 1),
}
SIZES = (
    "run.rounds=8", "learner.steps_per_round=5", "critic.steps_per_round=1",
    "critic.imitation_steps=2", "evaluate.num_tasks=64", "evaluate.num_samples=4",
    "evaluate.num_probe_tasks=64", "evaluate.num_audit_tasks=64", "critic.critiques_per_audit=2",
    "monitor.offers=[]",  # an intervention would change what is compared
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of one arm."""

    family: str
    arm: str
    rate: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder, and its key in the results."""
        return f"{self.family}/{self.arm}/{self.rate}/{self.seed}"


def play(job: Job, folder: Path, more: Sequence[str]) -> dict[str, object]:
    """One run, from its cold start on; returns what is compared."""
    base, directory = base_of(job.family, job.seed, folder), folder / job.name
    log = folder / "logs" / f"{job.name.replace('/', '-')}.log"
    common = [
        "--config", str(ROOT / "configs" / "tiny.toml"), f"run.seed={job.seed}",
        f"sft.directory={base}",
    ]  # fmt: skip
    check_played(directory, overrides_of(job, more))
    if not (directory / "summary.json").exists() and not was_halted(directory):
        if (directory / "config.json").exists():
            call(ROOT / "pipelines" / "rl.py", ["--resume", str(directory)], log)
        else:
            given = [*common, f"run.directory={directory}", *overrides_of(job, more)]
            call(ROOT / "pipelines" / "rl.py", given, log)
    return outcome(directory) | {"overrides": overrides_of(job, more)}


def overrides_of(job: Job, more: Sequence[str]) -> list[str]:
    """What makes an arm, in the order that counts."""
    rate = f"learner.grpo.learning_rate={job.rate}"
    return [*FAMILIES[job.family], *SIZES, *more, rate, *ARMS[job.arm]]


def is_current(name: str, found: Mapping, more: Sequence[str]) -> bool:
    """Whether a result is of what the script plays under its name today."""
    family, arm, rate, seed = name.split("/")
    known = family in FAMILIES and arm in ARMS
    return known and found.get("overrides") == overrides_of(Job(family, arm, rate, int(seed)), more)


def check_played(
    directory: Path, overrides: Sequence[str], config: Path = ROOT / "configs" / "tiny.toml"
) -> None:
    """Refuse a kept run that was played with other settings than its arm has today.

    Raises:
        SystemExit: it was; what differs is named.
    """
    path = directory / "config.json"
    if not path.exists():
        return
    saved = json.loads(path.read_text())
    wanted = json.loads(dump_settings(load_settings(config, overrides)))
    for key in dict.fromkeys(one.partition("=")[0].strip() for one in overrides):
        was, now = (
            reduce(lambda table, name: table.get(name, {}), key.split("."), each)
            for each in (saved, wanted)
        )
        if was != now:
            raise SystemExit(f"{directory} was played with {key} = {was}, not {now}: move it away")


def was_halted(directory: Path) -> bool:
    """Whether the monitor ended the run: a result like any other."""
    path = directory / "status.json"
    return path.exists() and json.loads(path.read_text())["state"] == "halted"


def cold_start(family: str, seed: int, folder: Path, more: Sequence[str]) -> None:
    """Make the cold start of a seed's arms as the demo does, if there is none."""
    base = base_of(family, seed, folder)
    if not (base / "cold_start.json").exists():
        arguments = ["--config", str(ROOT / "configs" / "tiny.toml"), f"run.seed={base.name}"]
        arguments += [f"sft.directory={base}", *FAMILIES[family], *more]
        log = folder / "logs" / f"base-{family}-{base.name}.log"
        call(ROOT / "pipelines" / "sft.py", arguments, log, 2)


def base_of(family: str, seed: int, folder: Path) -> Path:
    """The cold start that a seed's arms begin from."""
    return folder / "base" / family / str(seed % NUM_BASES)


def outcome(directory: Path) -> dict[str, object]:
    """A run's curve by round, and its examinations before and after."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    rounds = [row for row in map(json.loads, lines) if row["kind"] == "round"]
    points, seconds = list[dict[str, object]](), 0.0
    for row in rounds:
        seconds += math.fsum(row.get(f"time/{stage}", 0.0) for stage in TRAINS)
        points.append(curve_point(row) | {"train/seconds": round(seconds, 1)})
    found: dict[str, object] = {"rounds": points}
    for when in ("before", "after"):
        path = directory / f"{when}.json"
        if path.exists():
            found[when] = slim({"figures": json.loads(path.read_text())["figures"]})
    path = directory / "summary.json"
    if path.exists():
        found["change"] = json.loads(path.read_text())["change"]
    return found


def curve_point(row: Mapping[str, object]) -> dict[str, object]:
    """What a round's row says of the comparison."""
    kept = (
        "probe/mean_at_k", "tokens/", "pointing/", "trust/", "critic/location_accuracy",
        "critic/false_accusations", "critic/auroc", "critic/brier", "critic/ece", "critic/parsed",
        "critic/processbench_f1", "critic/fresh/location_accuracy", "monitor/state", "run/seconds",
    )  # fmt: skip
    return slim({name: value for name, value in row.items() if name.startswith(kept)})


def slim(value: object) -> object:
    """Four digits, and nothing that one task's critiques decide."""
    if isinstance(value, float):
        return round(value, 4)
    if not isinstance(value, dict):
        return value
    left_out = ("_interval", "by_kind", "_baseline", "_p95", "ece_perfect")
    return {k: slim(v) for k, v in value.items() if not k.endswith(left_out)}


def jobs(stage: str, rates: Mapping[str, str]) -> Iterator[Job]:
    """The runs of a stage, the most telling first."""
    if stage == "sweep":
        for family, (swept, _, _) in SEEDS.items():
            for seed in SWEPT_SEEDS[:swept]:
                for arm in DECIDING:
                    yield from (Job(family, arm, rate, seed) for rate in RATES)
        return
    for family, (_, deciding, others) in SEEDS.items():
        for seed in range(deciding):
            for arm in ARMS:
                rate = rates.get(f"{RATES_OF.get(family, family)}/{swept_as(arm)}")
                if rate is not None and (arm in DECIDING or seed < others):
                    yield Job(family, arm, rate, seed)


def swept_as(arm: str) -> str:
    """The deciding arm whose best rate an arm takes."""
    return next((own for own in DECIDING if arm.startswith(own)), "ours")


def best_rates(results: Mapping[str, Mapping]) -> dict[str, str]:
    """Each deciding arm's rate with the best mean accuracy over the sweep's rounds."""
    best: dict[str, tuple[float, str]] = {}
    for name, found in results.items():
        family, arm, rate, seed = name.split("/")
        if int(seed) not in SWEPT_SEEDS or not found["rounds"]:
            continue
        swept = [results.get(f"{family}/{arm}/{rate}/{one}") for one in SWEPT_SEEDS]
        others = [run["rounds"] for run in swept if run is not None and run["rounds"]]
        means = [math.fsum(map(accuracy, points)) / len(points) for points in others]
        score = (math.fsum(means) / len(means), rate)
        best[f"{family}/{arm}"] = max(best.get(f"{family}/{arm}", (-1.0, "")), score)
    return {arm: rate for arm, (_, rate) in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["sweep", "run", "table"])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "pointing")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--overrides", nargs="*", default=[], help="table.key=value, for every run")
    options = parser.parse_args()
    path = ROOT / "benchmarks" / "results" / "pointing.json"
    results: dict[str, Mapping] = {}
    if path.exists():
        results = json.loads(path.read_text())["results"]
    current = {n: each for n, each in results.items() if is_current(n, each, options.overrides)}
    if len(current) < len(results):
        print(f"{len(results) - len(current)} results were played otherwise: left out")
    if options.stage != "table":
        rates = best_rates(current) if options.stage == "run" else {}
        if options.stage == "run" and not rates:
            raise SystemExit("no learning rates yet: run `exp_pointing.py sweep` first")
        wanted = [
            job for job in jobs(options.stage, rates)
            if job.family in options.families and job.arm in options.arms
            and job.name not in current
        ]  # fmt: skip
        for base in dict.fromkeys((job.family, job.seed % NUM_BASES) for job in wanted):
            cold_start(*base, options.folder, options.overrides)

        def keep(job: Job, result: Mapping[str, object]) -> None:
            results[job.name] = current[job.name] = result
            seeds = {family: deciding for family, (_, deciding, _) in SEEDS.items()}
            write_result("pointing", {"context": context(seeds), "results": slim(results)})

        play_all(wanted, lambda job: play(job, options.folder, options.overrides), keep)
    tables = (table, reach_table, equal_table, critic_table)
    print(*(each(current) for each in tables), sep="\n\n")


if __name__ == "__main__":
    main()
