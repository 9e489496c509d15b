"""A run's report: `python -m pipelines.report RUN` writes RUN/report.html.

    RUN/*.json, RUN/metrics.jsonl ──► report_data ──► report_figures ──► report_page ──► report.html

One self-contained page, written atomically; every input file may be missing, and the page says so.
Left out: measuring anything. What the page shows, the run has recorded.
"""

import argparse
import sys
from pathlib import Path

from data.atomic import write_text_atomic
from pipelines import report_figures, report_page
from pipelines.report_data import read_run


def write_report(run_directory: Path) -> Path:
    """Write the report of a run, finished or not.

    Returns:
        The page's path, RUN/report.html.

    Raises:
        ValueError: there is no such directory.
    """
    run = read_run(run_directory)
    drawn = [
        (plot.title, plot.caption, plot.needs, report_figures.render(plot, run))
        for plot in report_figures.PLOTS
    ]
    sections = (
        report_page.header(run),
        report_page.notes_box(run),
        report_page.final_table(run),
        report_page.plots(drawn),
        report_page.gate_table(run),
        report_page.monitor_table(run),
        report_page.transcripts(run),
        report_page.settings(run),
    )
    path = run_directory / "report.html"
    title = f"Sparring run {run_directory.resolve().name}"
    write_text_atomic(path, report_page.page(title, sections))
    return path


def main(arguments: list[str] | None = None) -> int:
    """Command line: write the report of the given run directory and print its path."""
    parser = argparse.ArgumentParser(prog="pipelines.report", description="Write RUN/report.html.")
    parser.add_argument("run", type=Path, help="the run directory")
    options = parser.parse_args(arguments)
    try:
        path = write_report(options.run)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
