"""Is a run that was spoiled still called `ok`? The demo or SmolLM2's run, each spoiled in one way.

    python benchmarks/exp_sabotage.py run      every arm; a killed one goes on
    python benchmarks/exp_sabotage.py table    what there is so far

    none            the config as it is
    shuffled        rewards permuted over each batch
    random_critic   the critic has random weights, and nobody teaches it its form
    rate_x30        the learner's learning rate times 30

`--config configs/smollm2.toml` plays SmolLM2's run, whose base `python pipelines/smollm2.py --out
runs/smollm2-base` downloads first. Runs go one at a time on two threads;
benchmarks/results/sabotage.json is written after each. Leaves out how a run is played
(`pipelines/`).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from campaign import call, play_all
from exp_pointing import check_played, was_halted
from harness import RESULTS, ROOT, context, write_result

from critic.monitor.replay import COLD_START
from pipelines.policy.checkpoint import load_model, load_tokenizer
from pipelines.settings.load import load_settings

ARMS = ("none", "shuffled", "random_critic", "rate_x30")
SPREAD = 0.05  # standard deviation of random weights


@dataclass(frozen=True)
class Job:
    """One run of one arm."""

    config: Path
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder, and its key in the results."""
        return f"{self.config.stem}/{self.arm}/{self.seed}"


def overrides_of(job: Job) -> list[str]:
    """What spoils a run; the folder of a random critic comes on top (`base_of`)."""
    rate = load_settings(job.config).learner.grpo["learning_rate"]
    assert isinstance(rate, float | str), "the configs give one"
    own: Mapping[str, Sequence[str]] = {
        "shuffled": ("rewards.shuffled=true",),
        "random_critic": ("critic.imitation_steps=0",),
        "rate_x30": (f"learner.grpo.learning_rate={30 * float(rate):g}",),
    }
    return [f"run.seed={job.seed}", *own.get(job.arm, ())]


def settings_of(job: Job) -> list[str]:
    """What a result is of: one whose arm is played otherwise today is left out."""
    random = [f"critic.model=normal(0, {SPREAD})"] if job.arm == "random_critic" else []
    return [*overrides_of(job), *random]


def play(job: Job, folder: Path) -> dict[str, object]:
    """One run, from its cold start on; returns what is compared."""
    directory, given = folder / job.name, overrides_of(job)
    log = folder / "logs" / f"{job.name.replace('/', '-')}.log"
    check_played(directory, given, job.config)
    if not (directory / "summary.json").exists() and not was_halted(directory):
        arguments = ["--resume", str(directory)]
        if not (directory / "config.json").exists():
            start = [f"run.directory={directory}", *given, *base_of(job, folder)]
            arguments = ["--config", str(job.config), *start]
        call(ROOT / "pipelines" / "rl.py", arguments, log, threads=2)
    return outcome(directory) | {"overrides": settings_of(job)}


def base_of(job: Job, folder: Path) -> list[str]:
    """What a run begins with: a cold start where the config makes one, and a spoiled critic."""
    settings, places = load_settings(job.config), []
    base = Path(settings.learner.model or "")
    if settings.sft is not None:
        base = folder / job.config.stem / "base" / str(job.seed)
        places = [f"sft.directory={base}"]
        if not (base / "cold_start.json").exists():
            arguments = ["--config", str(job.config), f"run.seed={job.seed}", *places]
            log = folder / "logs" / f"base-{job.config.stem}-{job.seed}.log"
            call(ROOT / "pipelines" / "sft.py", arguments, log, processes=2)
    if job.arm == "random_critic":
        critic = folder / job.config.stem / "random_critic" / "base"
        randomize(base, critic)
        places.append(f"critic.model={critic}")
    return places


def randomize(base: Path, path: Path) -> None:
    """Write a model of a base's shape whose matrices are random."""
    model, generator = load_model(str(base), "float32"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, SPREAD, generator=generator)
    model.save_pretrained(path)
    load_tokenizer(str(base)).save_pretrained(path)


def outcome(directory: Path) -> dict[str, object]:
    """Accuracy and the monitor's level, round by round, what it said last, and of which commit."""
    rows = list(map(json.loads, (directory / "metrics.jsonl").read_text().splitlines()))
    read = [row for row in rows if row["kind"] in (COLD_START, "round")]
    rounds = [row for row in read if row["kind"] == "round"]
    examined = {when: directory / f"{when}.json" for when in ("before", "after")}
    return {
        "commit": json.loads((directory / "versions.json").read_text())["commit"],
        "held_out": {
            when: json.loads(path.read_text())["figures"]["mean_at_k"]
            for when, path in examined.items()
            if path.exists()  # a halted run is not examined at its end
        },
        "gold_accuracy": [row["monitor/signals"]["gold_accuracy"] for row in read],
        "states": [row["monitor/state"] for row in rounds],
        "orders": [[one["kind"] for one in row["monitor/actions"]] for row in rounds],
        "reasons": rounds[-1]["monitor/reasons"],
        "halted": was_halted(directory),
    }


def table(results: Mapping[str, Mapping]) -> str:
    """One row per run."""
    lines = [
        "| run/arm/seed | held out | gold probe, by round | the monitor | what it said last |",
        "|---|---|---|---|---|",
    ]
    for name, found in sorted(results.items()):
        curve = ", ".join("-" if one is None else f"{one:.2f}" for one in found["gold_accuracy"])
        held_out = " → ".join(f"{100 * one:.1f}%" for one in found["held_out"].values())
        why = found["reasons"][0] if found["reasons"] else ""
        lines.append(f"| {name} | {held_out} | {curve} | {', '.join(found['states'])} | {why} |")
    return "\n".join(lines)


def is_current(name: str, found: Mapping) -> bool:
    """Whether a result is of what the script plays under its name today."""
    config, arm, seed = name.split("/")
    path = ROOT / "configs" / f"{config}.toml"
    return (
        arm in ARMS
        and path.exists()
        and found["overrides"] == settings_of(Job(path, arm, int(seed)))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["run", "table"])
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tiny.toml")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "sabotage")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    path = RESULTS / "sabotage.json"
    results: dict[str, Mapping] = json.loads(path.read_text())["results"] if path.exists() else {}
    current = {name: found for name, found in results.items() if is_current(name, found)}
    if len(current) < len(results):
        print(f"{len(results) - len(current)} results were played otherwise: left out")
    if options.stage == "run":
        every = [Job(options.config, arm, seed) for seed in options.seeds for arm in options.arms]

        def keep(job: Job, result: Mapping[str, object]) -> None:
            results[job.name] = current[job.name] = result
            made = context({"all": len(options.seeds)})
            write_result("sabotage", {"context": made, "results": results})

        wanted = [job for job in every if job.name not in current]
        play_all(wanted, lambda job: play(job, options.folder), keep, at_once=1)
    print(table(current))


if __name__ == "__main__":
    main()
