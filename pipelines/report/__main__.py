"""Writes a run's report: `python -m pipelines.report RUN`."""

import argparse
import sys
from pathlib import Path

from pipelines.errors import UserError
from pipelines.report.write import write_report


def main(arguments: list[str] | None = None) -> int:
    """Command line: write the report of the given run directory and print its path."""
    parser = argparse.ArgumentParser(prog="pipelines.report", description="Write RUN/report.html.")
    parser.add_argument("run", type=Path, help="the run directory")
    options = parser.parse_args(arguments)
    try:
        path = write_report(options.run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
