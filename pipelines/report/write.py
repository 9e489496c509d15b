"""A run's report: `python -m pipelines.report RUN` writes RUN/report.html.

    RUN/*.json, RUN/metrics.jsonl ──► read ──► account, figures ──► page ──► report.html

One self-contained page, written atomically; every input file may be missing, and the page says so.
Left out: measuring anything. What the page shows, the run has recorded.
"""

from pathlib import Path

from data.atomic import write_text_atomic
from pipelines.report import bouts, measures, page
from pipelines.report.account import Account, account
from pipelines.report.read import read_run


def account_of(run_directory: Path) -> Account:
    """What a run came to, in words, from its files.

    Raises:
        UserError: there is no such directory.
    """
    return account(read_run(run_directory))


def write_report(run_directory: Path) -> Path:
    """Write the report of a run, finished or not.

    Returns:
        The page's path, RUN/report.html.

    Raises:
        UserError: there is no such directory.
    """
    run = read_run(run_directory)
    sections = (
        page.header(run),
        page.first_card(account(run)),
        page.notes_box(run),
        measures.final_table(run),
        page.plots(run),
        measures.fresh_tables(run),
        page.monitor_table(run),
        page.gate_table(run),
        bouts.bouts(run),
        page.files(run),
        page.settings(run),
    )
    target = run_directory / "report.html"
    title = f"Sparring run {run_directory.resolve().name}"
    write_text_atomic(target, page.page(title, sections))
    return target
