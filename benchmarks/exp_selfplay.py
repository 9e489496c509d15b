"""Does self-play teach, and what does the critic add? Arms x seeds at equal updates, resumable.

    python benchmarks/exp_selfplay.py --seeds 0 1 2 --arms default critic_off shuffled

Each seed has its own cold start, shared by its arms. A finished run is kept, a killed one resumed.
Writes benchmarks/results/selfplay.json and prints a table. Leaves out any tuning: every arm is
configs/tiny.toml with the overrides below.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from scipy import stats

TOP = Path(__file__).resolve().parent.parent
RESULTS = TOP / "benchmarks" / "results" / "selfplay.json"
ARMS: dict[str, list[str]] = {
    "default": [],
    "critic_off": ["rewards.critic_weight=0", "rewards.step_weight=0"],
    "shuffled": ["rewards.shuffled=true"],
}


def run(command: list[str], log: Path) -> None:
    """Run one program of the project; its output goes to a log.

    Raises:
        SystemExit: it failed; the log is named.
    """
    with log.open("a") as stream:
        status = subprocess.run(
            command, cwd=TOP, stdout=stream, stderr=stream, check=False
        ).returncode
    if status not in (0, 3):  # 3: halted by the monitor, a result like any other
        raise SystemExit(f"{' '.join(command)} failed with status {status}: see {log}")


def play(arm: str, seed: int, folder: Path) -> dict[str, object]:
    """One run of one arm; returns its summary, or how it was halted."""
    base, directory = folder / f"base-{seed}", folder / f"{arm}-{seed}"
    common = ["--config", "configs/tiny.toml", f"run.seed={seed}", f"sft.directory={base}"]
    log = folder / f"{arm}-{seed}.log"
    if not (base / "cold_start.json").exists():
        run([sys.executable, "pipelines/sft.py", *common], log)
    if not (directory / "summary.json").exists() and status_of(directory).get("state") != "halted":
        if (directory / "config.json").exists():
            run([sys.executable, "pipelines/rl.py", "--resume", str(directory)], log)
        else:
            extra = [f"run.directory={directory}", *ARMS[arm]]
            run([sys.executable, "pipelines/rl.py", *common, *extra], log)
    if (directory / "summary.json").exists():
        return json.loads((directory / "summary.json").read_text())
    before = json.loads((directory / "before.json").read_text())
    return {"halted": status_of(directory), "before": before}


def status_of(directory: Path) -> dict[str, object]:
    path = directory / "status.json"
    return json.loads(path.read_text()) if path.exists() else {}


def interval(values: list[float]) -> str:
    """Mean with the 95% t interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def table(results: dict[str, dict[str, dict]]) -> str:
    """Arms as rows; every figure is a mean over seeds with its interval."""
    lines = [
        "| arm | seeds | mean@8 before | mean@8 after | gain | per seed | critic AUROC after |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, by_seed in results.items():
        done = [s for s in by_seed.values() if "after" in s]
        halted = len(by_seed) - len(done)
        if not done:
            lines.append(f"| {arm} | {len(by_seed)} ({halted} halted) | - | - | - | - | - |")
            continue
        before = [s["before"]["mean_at_k"] for s in done]
        after = [s["after"]["mean_at_k"] for s in done]
        gains = [b - a for a, b in zip(before, after, strict=True)]
        aurocs = [s["after"]["auroc"] for s in done if s["after"].get("auroc") is not None]
        each = ", ".join(f"{100 * gain:+.1f}" for gain in gains)
        seeds = f"{len(done)}" + (f" (+{halted} halted)" if halted else "")
        lines.append(
            f"| {arm} | {seeds} | {interval(before)} | {interval(after)} | {interval(gains)} | "
            f"{each} | "
            f"{interval(aurocs) if aurocs else '-'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--folder", type=Path, default=TOP / "runs" / "exp")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, dict]] = {}
    for seed in options.seeds:
        for arm in options.arms:
            results.setdefault(arm, {})[str(seed)] = play(arm, seed, options.folder)
            print(f"{arm} seed {seed}: done", flush=True)
    versions = json.loads(next(options.folder.glob("*/versions.json")).read_text())
    report = {
        "command": " ".join(["python", *sys.argv]), "versions": versions, "results": results,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
    }  # fmt: skip
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
