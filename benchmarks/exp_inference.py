"""What is a critique worth at inference? `sparring-evaluate` on a checkpoint of each seed.

    python benchmarks/exp_inference.py runs/pointing/sums/short/1e-3/*/checkpoints/round_00002

Every method of `pipelines/evaluate.py` with its tokens, over checkpoints that differ in their seed:
means with 95% t intervals, of the checkpoints given. A finished checkpoint is kept;
benchmarks/results/inference.json is written after each. Leaves out the methods themselves
(`pipelines/inference/`).
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from harness import RESULTS, context, mean_interval, write_result

from pipelines.inference.evaluate import Request, evaluate_checkpoint

COMPARISONS = ("minus_majority", "minus_shuffled")


def measure(checkpoint: Path, num_tasks: int) -> dict[str, object]:
    """Every row of one checkpoint, by method and budget."""
    overrides = ("rollout.engine=transformers",)
    report = evaluate_checkpoint(Request(checkpoint, overrides=overrides, num_tasks=num_tasks))
    rows = {
        f"{row.method} of {row.samples}, {row.redos} redos": asdict(row) | {"tokens": row.tokens}
        for row in report.rows
    }
    return {"rows": rows, "weights": report.weights, "num_tasks": report.num_tasks}


def table(results: Mapping[str, Mapping]) -> str:
    """A row for each method and budget: accuracy, tokens, and both comparisons, over seeds."""
    lines = [
        "| method | seeds | accuracy | tokens | against majority at as many tokens "
        "| against shuffled critiques |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[str, list[Mapping]] = {}
    for result in results.values():
        for name, row in result["rows"].items():
            found.setdefault(name, []).append(row)
    for name, rows in found.items():
        cells = [shown([row["accuracy"]["value"] for row in rows])]
        cells += [f"{statistics.fmean(row['tokens'] for row in rows):.0f}"]
        for comparison in COMPARISONS:
            values = [row[comparison]["value"] for row in rows if row[comparison] is not None]
            cells += [shown(values) if values else ""]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(values: Sequence[float]) -> str:
    """Mean with its 95% interval over seeds, in percent."""
    found = mean_interval(values)
    return f"{100 * found['mean']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--num", type=int, default=128, help="tasks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "inference.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    names = list(results)  # without checkpoints, the table of all there are
    if options.checkpoints:
        parts = [one.parts[-6:] for one in options.checkpoints]
        names = ["/".join(part for part in own if part != "checkpoints") for own in parts]
    for name, checkpoint in zip(names, options.checkpoints, strict=False):
        if name not in results:
            results[name] = measure(checkpoint, options.num)
            write_result("inference", {"context": context({}), "results": results})
            print(f"{name}: done", flush=True)
    print(table({name: results[name] for name in names}))


if __name__ == "__main__":
    main()
