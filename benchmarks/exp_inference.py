"""What is a critique worth at inference? `sparring-evaluate` on a checkpoint of each seed.

    python benchmarks/exp_inference.py runs/pointing/sums/short/1e-3/*/checkpoints/round_00002

Every method of `pipelines/evaluate.py` with its tokens, over checkpoints that differ in their seed:
means with 95% t intervals, of the checkpoints given, or of all that were. A finished one is kept;
benchmarks/results/inference.json is written after each. Leaves out the methods themselves
(`pipelines/inference/`).
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from harness import RESULTS, context, shown, write_result

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
    """A row for each method and budget: accuracy, tokens, both comparisons, over seeds (%)."""
    lines = [
        "| method | checkpoints | accuracy | tokens | against majority at as many tokens "
        "| against shuffled critiques |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[str, list[Mapping]] = {}
    for result in results.values():
        for name, row in result["rows"].items():
            found.setdefault(name, []).append(row)
    for name, rows in found.items():
        cells = [shown([100 * row["accuracy"]["value"] for row in rows], 1)]
        cells += [f"{statistics.fmean(row['tokens'] for row in rows):.0f}"]
        for comparison in COMPARISONS:
            values = [100 * row[comparison]["value"] for row in rows if row[comparison] is not None]
            cells += [shown(values, 1) if values else ""]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--num", type=int, default=128, help="tasks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "inference.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    given = {
        "/".join(part for part in checkpoint.parts[-6:] if part != "checkpoints"): checkpoint
        for checkpoint in options.checkpoints
    }
    for name, checkpoint in given.items():
        if name not in results:
            results[name] = measure(checkpoint, options.num)
            write_result("inference", {"context": context({}), "results": results})
            print(f"{name}: done", flush=True)
    print(table({name: results[name] for name in given or results}))


if __name__ == "__main__":
    main()
