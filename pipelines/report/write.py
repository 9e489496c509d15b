"""A run's report: `python -m pipelines.report RUN` writes RUN/report.html.

    RUN/*.json, RUN/metrics.jsonl ──► read ──► figures ──► page ──► report.html

One self-contained page, written atomically; every input file may be missing, and the page says so.
Left out: measuring anything. What the page shows, the run has recorded.
"""

from pathlib import Path

from data.atomic import write_text_atomic
from pipelines.report import figures, measures, page
from pipelines.report.read import read_run


def write_report(run_directory: Path) -> Path:
    """Write the report of a run, finished or not.

    Returns:
        The page's path, RUN/report.html.

    Raises:
        UserError: there is no such directory.
    """
    run = read_run(run_directory)
    drawn = [
        (plot.title, plot.caption, plot.needs, figures.render(plot, run)) for plot in figures.PLOTS
    ]
    sections = (
        page.header(run),
        page.notes_box(run),
        measures.final_table(run),
        measures.fresh_tables(run),
        page.plots(drawn),
        page.gate_table(run),
        page.monitor_table(run),
        page.transcripts(run),
        page.settings(run),
    )
    target = run_directory / "report.html"
    title = f"Sparring run {run_directory.resolve().name}"
    write_text_atomic(target, page.page(title, sections))
    return target
