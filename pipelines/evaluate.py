"""Evaluate a checkpoint: `sparring-evaluate` (or `python pipelines/evaluate.py`).

    sparring-evaluate FROM [--config FILE] [--split NAME] [--tasks FILE] [table.key=value ...]

FROM is a run directory (its selected or last checkpoint), one of its rounds
(`RUN/checkpoints/round_00003`, `RUN/best`), a checkpoint directory, or a hub id. Prints accuracy
against tokens for a single solution, majority voting, best-of-k by the critic, and verify-and-redo.
Only the command line is here; `inference/` does the work. Exit status: 0 done, 2 a user's mistake,
130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.atomic import write_text_atomic
from pipelines.errors import UserError
from pipelines.process import fail_clearly, prepare_process, require_checkout
from pipelines.run.named import check_named
from pipelines.run.progress import Progress

if TYPE_CHECKING:
    from pipelines.inference.table import InferenceReport


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_intermixed_args(arguments)
    with fail_clearly():
        require_checkout()
        _check_output(options.output)
        # Before torch is imported:
        check_named(options.source, options.config, options.overrides, options.tasks)
        with Progress() as progress:
            report = _report(options, progress)
        if options.output is not None:
            write_text_atomic(options.output, report.to_json())
        print(report.to_json() if options.json else report.to_text())
    return 0


def _report(options: argparse.Namespace, progress: Progress) -> "InferenceReport":
    progress.begin("loading PyTorch and the engine")
    prepare_process()
    from pipelines.inference.evaluate import Request, evaluate_checkpoint

    request = Request(
        source=options.source, config=options.config, overrides=tuple(options.overrides),
        critic=options.critic, criticise=not options.no_critic, split=options.split,
        tasks_file=options.tasks, num_tasks=options.num, num_samples=options.samples,
        num_redos=options.redos, greedy=not options.no_greedy,
        control=not options.no_control, seed=options.seed,
    )  # fmt: skip
    return evaluate_checkpoint(request, progress.begin)


def _check_output(path: Path | None) -> None:
    """Refuse now what would fail after hours of sampling."""
    if path is not None and (path.is_dir() or (path.parent.exists() and not path.parent.is_dir())):
        raise UserError(f"--output {path} is no file that can be written: name a file")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparring-evaluate", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "source", type=Path, metavar="FROM", help="run, round, checkpoint or hub id"
    )
    parser.add_argument("overrides", nargs="*", metavar="table.key=value")
    parser.add_argument("--config", type=Path, help="TOML settings, for a checkpoint")
    parser.add_argument("--split", help="split of the tasks; default: test, or all of --tasks")
    parser.add_argument("--tasks", type=Path, metavar="FILE", help="your own tasks, JSON lines")
    parser.add_argument(
        "--num", type=int, help="tasks; default: evaluate.num_tasks, all of --tasks"
    )
    parser.add_argument("--samples", type=int, default=8, help="solutions per task")
    parser.add_argument("--redos", type=int, default=2, help="most redos of one solution")
    parser.add_argument("--critic", type=Path, help="checkpoint that judges; default: FROM's own")
    parser.add_argument("--no-critic", action="store_true", help="single solutions and votes only")
    parser.add_argument("--no-greedy", action="store_true", help="nothing at temperature 0")
    parser.add_argument("--no-control", action="store_true", help="no shuffled critiques")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
