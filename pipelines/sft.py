"""Cold start: teach a tiny base the two formats, stepwise solutions and critiques.

    python pipelines/sft.py --config configs/tiny.toml [table.key=value ...]

This file is the command; `run/cold_start.py` does the work once the process is prepared.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.process import fail_clearly, prepare_process, require_checkout
from pipelines.run.progress import Progress
from pipelines.settings.load import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="TOML configuration")
    parser.add_argument("overrides", nargs="*", help="table.key=value")
    options = parser.parse_args(arguments)
    with fail_clearly():
        require_checkout()
        settings = load_settings(options.config, options.overrides)
        with Progress() as progress:
            progress.begin("loading PyTorch and TRL")
            prepare_process()
            from pipelines.run.cold_start import cold_start  # imports torch

            cold_start(settings, progress)
    return 0


if __name__ == "__main__":
    sys.exit(main())
