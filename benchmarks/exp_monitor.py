"""Does the monitor stop collapses in time, and leave health alone? The proof grid.

    python benchmarks/exp_monitor.py run       every arm, seed by seed; a killed one goes on
    python benchmarks/exp_monitor.py table     what there is so far

Runs are only watched (`monitor.watch_only`), so that each goes on beyond its collapse, and its
decisions, those of the baselines and each signal's ablation are replayed from one log with the
thresholds in the code (`monitor_tables.py`). Collapse is a loss of held-out accuracy, of tasks and
samples that no detector reads. Baselines choose their threshold on the first `NUM_DEV` seeds; the
tables are of the others.

GRPO arms are configs/tiny.toml with the overrides below and no critic, the others are generations
of fine-tuning on the policy's own samples (`self_consuming.py`). Each family has `NUM_BASES` cold
starts, which its seeds take turns in using and all arms share: competent enough to lose something.
Runs go two at a time, one thread each; benchmarks/results/monitor.json is written after each.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from campaign import AT_ONCE, call, play_all
from exp_pointing import NO_CRITIC, NO_RESETS, check_played, was_halted
from harness import ROOT, context, write_result
from law_tables import law_table
from monitor_tables import NUM_SAMPLES, NUM_TASKS, arm_table, detector_table

from critic.monitor.readings import NUM_START
from critic.monitor.replay import COLD_START

LOCKS = defaultdict[str, Lock](Lock)
NUM_BASES = 4
NUM_DEV = 5  # seeds on which the baselines' thresholds are chosen
NUM_ROUNDS = 24
NUM_SHORT = 12  # of an arm that has long collapsed by then
RATE = 3e-4
FAMILIES: Mapping[str, Sequence[str]] = {
    "sums": (
        "tasks.family=basic_arithmetic",
        'tasks.params={min_terms=4, max_terms=6, min_digits=1, max_digits=1, operators=["+"], '
        "allow_parentheses=false, allow_negation=false}",
    ),
    "doublings": ("tasks.family=double_and_add", "tasks.params={min_terms=3, max_terms=5}"),
}
COLD_START_SIZES = (
    "sft.slip_rate=0.15", "sft.num_solutions=12000", "sft.num_critiques=0",
    "sft.easy.num_solutions=0", "sft.trainer.max_steps=700",
    "sft.trainer.lr_scheduler_kwargs={num_decay_steps=300}",
)  # fmt: skip
SIZES = (
    "learner.steps_per_round=1", "learner.max_completion_length=64",
    "evaluate.every_rounds=1", f"evaluate.num_selection_tasks={NUM_TASKS}",
    f"evaluate.num_samples={NUM_SAMPLES}", "evaluate.num_probe_tasks=256",
    f"evaluate.start_probes={NUM_START}",
    "evaluate.num_tasks=1", "evaluate.num_audit_tasks=1", "critic.critiques_per_audit=1",
    "critic.max_completion_length=8", "rollout.engine=transformers",  # no critic, any machine
    "pointing.source=none", NO_RESETS, *NO_CRITIC,
    "learner.grpo.lr_scheduler_type=constant",
    "learner.grpo.beta=1e-6",  # moves nothing; TRL then logs the divergence from the start
    "monitor.watch_only=true",
)  # fmt: skip
JUDGES = ROOT / "benchmarks" / "biased_judge.py"


@dataclass(frozen=True)
class Arm:
    """How an arm's runs are played, and what they are by design.

    Attributes:
        kind: "healthy" runs must be left alone; of the others those count whose accuracy falls.
        overrides: of a GRPO run.
        mix, temperature: of self-consuming fine-tuning, where there is a mix.
        converged: begins with what the seed's "learning" run ended with.
        rounds: of a GRPO run.
    """

    kind: str
    overrides: Sequence[str] = ()
    mix: str = ""
    temperature: float = 1.0
    converged: bool = False
    rounds: int = NUM_ROUNDS


def grpo_rate(rate: float) -> str:
    return f"learner.grpo.learning_rate={rate:g}"


def judged_by(name: str) -> tuple[str, ...]:
    """The overrides of a run that a biased judge alone rewards."""
    judge = f'rewards.functions={{"{JUDGES}:{name}" = 1.0}}'
    return grpo_rate(RATE), "rewards.outcome_weight=0", judge


ARMS: Mapping[str, Arm] = {
    "learning": Arm("healthy", (grpo_rate(RATE),)),
    "stationary": Arm("healthy", (grpo_rate(0),)),
    "rate_x30": Arm("collapse", (grpo_rate(30 * RATE),), rounds=NUM_SHORT),
    "shuffled": Arm("collapse", (grpo_rate(RATE), "rewards.shuffled=true"), rounds=NUM_SHORT),
    "biased": Arm("collapse", judged_by("likes_length"), rounds=NUM_SHORT),
    "likes_brevity": Arm("collapse", judged_by("likes_brevity"), rounds=NUM_SHORT),
    "likes_size": Arm("collapse", judged_by("likes_size"), rounds=NUM_SHORT),
    "consume_own": Arm("collapse", mix="own"),
    "consume_cool": Arm("collapse", mix="own", temperature=0.7),
    "consume_voted": Arm("collapse", mix="voted"),
    "consume_quarter": Arm("collapse", mix="quarter"),
    "consume_verified": Arm("healthy", mix="verified"),
    "consume_real": Arm("healthy", mix="real"),
    "converged": Arm("healthy", (grpo_rate(0),), converged=True),  # last: it waits for "learning"
}


@dataclass(frozen=True)
class Job:
    """One run of one arm."""

    family: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder, and its key in the results."""
        return f"{self.family}/{self.arm}/{self.seed}"


def base_of(family: str, seed: int, folder: Path) -> Path:
    """The cold start that a seed's arms begin from."""
    return folder / "base" / family / str(seed % NUM_BASES)


def cold_start(family: str, seed: int, folder: Path, more: Sequence[str]) -> None:
    """Make the cold start of a seed's arms, if there is none."""
    base = base_of(family, seed, folder)
    if not (base / "cold_start.json").exists():
        arguments = ["--config", str(ROOT / "configs" / "tiny.toml"), f"run.seed={base.name}"]
        arguments += [f"sft.directory={base}", *FAMILIES[family], *COLD_START_SIZES, *more]
        log = folder / "logs" / f"base-{family}-{base.name}.log"
        call(ROOT / "pipelines" / "sft.py", arguments, log, 2)


def overrides_of(job: Job, more: Sequence[str]) -> list[str]:
    """What makes an arm, in the order that counts."""
    arm = ARMS[job.arm]
    rounds = f"run.rounds={arm.rounds}"
    return [*FAMILIES[job.family], *COLD_START_SIZES, *SIZES, rounds, *more, *arm.overrides]


def play(job: Job, folder: Path, more: Sequence[str]) -> dict[str, object]:
    """One run, from its cold start on; returns what the tables are made of."""
    directory = folder / job.name
    if ARMS[job.arm].mix:
        consume(job, folder, directory, more)
    else:
        grpo(job, folder, directory, more)
    return outcome(directory) | {"overrides": settings_of(job, more)}


def settings_of(job: Job, more: Sequence[str]) -> list[str]:
    """What a result is of: one whose arm is played otherwise today is left out."""
    arm = ARMS[job.arm]
    own = [arm.mix, f"{arm.temperature:g}"] if arm.mix else []
    every = [*overrides_of(job, more), *own]
    judges = [one.split(":")[-1].split('"')[0] for one in every if str(JUDGES) in one]
    return [one for one in every if str(JUDGES) not in one] + judges


def grpo(job: Job, folder: Path, directory: Path, more: Sequence[str]) -> None:
    """Play a run of ours, or go on with it; one that another begins from is played once."""
    with LOCKS[job.name]:
        _grpo(job, folder, directory, more)


def _grpo(job: Job, folder: Path, directory: Path, more: Sequence[str]) -> None:
    log = folder / "logs" / f"{job.name.replace('/', '-')}.log"
    given = overrides_of(job, more)
    check_played(directory, given)
    if (directory / "summary.json").exists() or was_halted(directory):
        return
    if (directory / "config.json").exists():
        call(ROOT / "pipelines" / "rl.py", ["--resume", str(directory)], log)
        return
    fixed = [
        "--config", str(ROOT / "configs" / "tiny.toml"), f"run.seed={job.seed}",
        f"sft.directory={base_of(job.family, job.seed, folder)}", f"run.directory={directory}",
    ]  # fmt: skip
    if ARMS[job.arm].converged:
        learned = Job(job.family, "learning", job.seed)
        grpo(learned, folder, folder / learned.name, more)
        (last,) = sorted((folder / learned.name / "checkpoints").glob("round_*"))[-1:]
        fixed.append(f"learner.model={last / 'learner'}")
    call(ROOT / "pipelines" / "rl.py", [*fixed, *given], log)


def consume(job: Job, folder: Path, directory: Path, more: Sequence[str]) -> None:
    """Play a self-consuming run from its beginning: a minute is not worth resuming."""
    if (directory / "done").exists():
        return
    arm, log = ARMS[job.arm], folder / "logs" / f"{job.name.replace('/', '-')}.log"
    given = [
        "--base", str(base_of(job.family, job.seed, folder)), "--out", str(directory),
        "--mix", arm.mix, "--temperature", f"{arm.temperature:g}",
        "--generations", str(NUM_ROUNDS), "--seed", str(job.seed), *overrides_of(job, more),
    ]  # fmt: skip
    call(ROOT / "benchmarks" / "self_consuming.py", given, log)


def outcome(directory: Path) -> dict[str, object]:
    """A run's readings, its held-out accuracy beside them."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))
    start = next(row for row in rows if row["kind"] == COLD_START)
    steps: dict[int, list[float]] = {}
    for row in rows:
        if row["kind"] == "step" and row["role"] == "learner" and "policy/kl" in row:
            steps.setdefault(row["round"], []).append(row["policy/kl"])
    rounds = [row for row in rows if row["kind"] == "round"]
    for row in rounds:
        if row["round"] in steps:
            own = steps[row["round"]]
            row["kl"] = math.fsum(own) / len(own)
    return {"start": point(start), "rounds": [point(row) for row in rounds]}


def point(row: Mapping[str, object]) -> dict[str, object]:
    """What the tables read of a row, to six digits; the decisions are those of these digits."""
    kept = (
        "evaluation/mean_at_k", "kl", "monitor/signals", "monitor/errors", "monitor/first",
        "probe/reads",
    )  # fmt: skip
    return {name: rounded(row[name]) for name in kept if name in row}


def rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return list(map(rounded, value))
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return value


def jobs(families: Sequence[str], arms: Sequence[str], seeds: Sequence[int]) -> Iterator[Job]:
    """Seed by seed, so that a campaign that is cut off has some of every arm."""
    for seed in seeds:
        for family in families:
            yield from (Job(family, arm, seed) for arm in arms)


def is_current(name: str, found: Mapping, more: Sequence[str]) -> bool:
    """Whether a result is of what the script plays under its name today."""
    family, arm, seed = name.split("/")
    known = family in FAMILIES and arm in ARMS
    return known and found.get("overrides") == settings_of(Job(family, arm, int(seed)), more)


def show(results: Mapping[str, Mapping]) -> str:
    """Every table of fresh seeds, a family at a time and both together, then development."""
    named = [(Job(f, a, int(s)), run) for n, run in results.items() for f, a, s in [n.split("/")]]
    families = list(dict.fromkeys(job.family for job, _ in named))
    parts = []
    for chosen in [*([family] for family in families), *([families] if len(families) > 1 else [])]:
        own = [(job, run) for job, run in named if job.family in chosen]
        fresh = [(job, run) for job, run in own if not is_dev(job)]
        parts += [f"## {' and '.join(chosen)}", *tables_of(fresh or own)]
        dev = [(job, run) for job, run in own if is_dev(job)]
        if dev and fresh:
            parts.insert(len(parts) - 1, detector_table(kinds(dev), kinds(fresh)))
    dev = [(job, run) for job, run in named if is_dev(job)]
    if len(dev) < len(named):
        parts += [f"## the first {NUM_DEV} seeds", *tables_of(dev)[:1]]
    return "\n\n".join(parts)


def kinds(runs: Sequence[tuple[Job, Mapping]]) -> list[tuple[bool, Mapping]]:
    """Whether each is healthy by design, and the run."""
    return [(ARMS[job.arm].kind == "healthy", run) for job, run in runs]


def tables_of(runs: Sequence[tuple[Job, Mapping]]) -> list[str]:
    """Arm by arm what became of the runs, and of the entropy law in the healthy ones."""
    arms = {arm: [run for job, run in runs if job.arm == arm] for arm in ARMS}
    arms = {arm: found for arm, found in arms.items() if found}
    healthy = {arm: found for arm, found in arms.items() if ARMS[arm].kind == "healthy"}
    return [arm_table(arms), law_table(healthy)]


def is_dev(job: Job) -> bool:
    """Whether a run only serves to choose the baselines' thresholds."""
    return job.seed < NUM_DEV


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["run", "table"])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "monitor")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=25, help="of each arm, those before too")
    parser.add_argument("--first-seed", type=int, default=0, help="those before it are left out")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="runs, a thread each")
    parser.add_argument("--overrides", nargs="*", default=[], help="table.key=value, for every run")
    options = parser.parse_args()
    path = ROOT / "benchmarks" / "results" / "monitor.json"
    results: dict[str, Mapping] = {}
    if path.exists():
        results = json.loads(path.read_text())["results"]
    current = {n: each for n, each in results.items() if is_current(n, each, options.overrides)}
    if len(current) < len(results):
        print(f"{len(results) - len(current)} results were played otherwise: left out")
    if options.stage == "run":
        seeds = range(options.first_seed, options.seeds)
        every = jobs(options.families, options.arms, seeds)
        wanted = [job for job in every if job.name not in current]
        for base in dict.fromkeys((job.family, job.seed % NUM_BASES) for job in wanted):
            cold_start(*base, options.folder, options.overrides)

        def keep(job: Job, result: Mapping[str, object]) -> None:
            results[job.name] = current[job.name] = result
            made = context({"all": options.seeds})
            write_result("monitor", {"context": made, "results": results})

        def played(job: Job) -> dict[str, object]:
            return play(job, options.folder, options.overrides)

        play_all(wanted, played, keep, options.at_once)
    print(show(current))


if __name__ == "__main__":
    main()
