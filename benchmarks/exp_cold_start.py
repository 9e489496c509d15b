"""How good is the cold start, and how long does it take? Arms x seeds, each measured as a run does.

    python benchmarks/exp_cold_start.py --seeds 0 1 2 --arms default

Trains with `pipelines/sft.py` (a finished checkpoint in `--folder` is kept), then measures what a
run writes to before.json: mean@8 on the test split, and the critic's audit. Writes
benchmarks/results/cold_start_NAME.json and prints a table. Leaves out the game
(`exp_pointing.py`).
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, context, mean_interval, write_result

from pipelines.process import prepare_process
from pipelines.settings.tables import Settings

CONFIG = ROOT / "configs" / "tiny.toml"
ARMS: dict[str, list[str]] = {
    "default": [],
    "all_threads": ["sft.threads=0"],
    "no_easy": [  # the same number of demonstrations, all of them of the demo's own sums
        "sft.easy.num_solutions=0",
        "sft.num_solutions=13500",
        "sft.num_critiques=18700",
    ],
    "easy_among": ["sft.trainer.train_sampling_strategy=random"],  # the easy ones not first
}
FIGURES = (
    "mean_at_k", "well_formed", "parsed", "auroc", "location_accuracy", "processbench_f1",
    "false_accusations", "ece", "brier", "seconds",
)  # fmt: skip


def train(arm: str, seed: int, folder: Path) -> tuple[Path, float]:
    """A checkpoint and the seconds its training took, by `sft.py`'s own clock.

    Raises:
        SystemExit: `sft.py` failed; the log is named.
    """
    base, log = folder / f"{arm}-{seed}", folder / f"{arm}-{seed}.log"
    command = [sys.executable, "pipelines/sft.py", "--config", str(CONFIG)]
    command += [f"run.seed={seed}", f"sft.directory={base}", *ARMS[arm]]
    if not (base / "cold_start.json").exists():
        with log.open("w") as stream:
            done = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=stream, check=False)
        if done.returncode:
            raise SystemExit(f"sft.py failed with status {done.returncode}: see {log}")
    seconds = re.findall(r"^cold start: \d+ steps, .* (\d+) s$", log.read_text(), re.MULTILINE)
    return base, float(seconds[-1])


def measure(checkpoint: Path, seed: int) -> tuple[dict[str, float], Settings]:
    """Examine one checkpoint as learner and as critic, with the configured engine."""
    from pipelines.game.curriculum import Curriculum, build_source
    from pipelines.game.examiner import Examiner, HeldOutTasks
    from pipelines.game.referee import Referee
    from pipelines.run.origin import find_origin, load_samplers
    from rewards.verifiers import Verifiers

    origin = find_origin(checkpoint, CONFIG, (f"run.seed={seed}",), None, True)
    settings = origin.settings
    tasks = HeldOutTasks.draw(Curriculum(build_source(settings), seed), settings.evaluate)
    with (
        tempfile.TemporaryDirectory() as scratch,
        Verifiers(settings.rewards.timeout_seconds) as verifiers,
    ):
        learner, critic = load_samplers(origin, seed, Path(scratch))
        referee = Referee(settings, verifiers)
        examiner = Examiner(referee, learner, critic, tasks, agree=lambda own: own)
        found = examiner.evaluate("before", draws_audit_set=True)
    return {name: found["figures"][name] for name in FIGURES if name != "seconds"}, settings


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """One row per arm; every figure is a mean over seeds, with the seeds' values in brackets."""
    lines = ["| arm | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for arm, by_seed in results.items():
        cells = []
        for name in FIGURES:
            values = [figures[name] for figures in by_seed.values()]
            digits = 0 if name == "seconds" else 3
            each = ", ".join(f"{value:.{digits}f}" for value in values)
            cells.append(f"{mean_interval(values)['mean']:.{digits}f} [{each}]")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["default"], choices=list(ARMS))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "exp-cold-start")
    parser.add_argument("--name", default="", help="part of the result's file name")
    options = parser.parse_args()
    prepare_process()
    options.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for arm in options.arms:
        for seed in options.seeds:
            checkpoint, seconds = train(arm, seed, options.folder)
            figures, settings = measure(checkpoint, seed)
            results.setdefault(arm, {})[str(seed)] = {**figures, "seconds": seconds}
            print(f"{arm} seed {seed}: {results[arm][str(seed)]}", flush=True)
    assert settings.sft is not None
    content = {
        **context({"of the runs": options.seeds[0]}),
        "arms": {arm: ARMS[arm] for arm in results},
        "sft": settings.sft.model_dump(mode="json"),
        "results": results,
    }
    write_result("cold_start" + ("_" + options.name if options.name else ""), content)
    print(table(results))


if __name__ == "__main__":
    main()
