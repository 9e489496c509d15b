"""How a run ends: finished, or halted by the monitor.

Leaves out ends that nobody chose: an error or Ctrl-C (`run/session.py` records those).
"""

from collections.abc import Sequence

from accelerate.utils import gather_object

from critic.monitor.incident import incident_markdown, incident_record
from critic.monitor.state import Health
from data.atomic import write_text_atomic
from pipelines.game.bout import Bout, RoundPlan
from pipelines.game.examiner import Probe
from pipelines.report.write import write_report
from pipelines.rollouts.ledger import balance
from pipelines.run.final_table import table
from pipelines.run.round_log import transcript
from pipelines.run.session import Run
from pipelines.run.summary import summary


def halt(run: Run, plan: RoundPlan, bouts: Sequence[Bout], probe: Probe, health: Health) -> None:
    """Quarantine what came after the last clean check, and leave an incident record."""
    files, monitor = run.directory, run.monitor
    clean = monitor.state.last_clean_check
    selected = "the cold start" if clean is None else str(run.checkpoints.folder(clean))
    files.status(  # first: whatever happens next, nobody continues a halted run
        "halted", round=plan.round, selected_checkpoint=selected, reasons=list(health.reasons)
    )
    if files.is_main:
        run.corpus.drop_rounds(after=-1 if clean is None else clean)
        worst = sorted(bouts, key=lambda bout: bout.verdict.passed)
        samples = [transcript(bout) for bout in worst]
        record = incident_record(
            health, monitor.state, monitor.values(), samples, run.settings.monitor
        )
        files.write_json("incident.json", record)
        write_text_atomic(files.path / "incident.md", incident_markdown(record))
    run.log_round(plan, probe, health, [], {})
    if files.is_main:
        write_report(files.path)
        print(f"halted by the monitor at round {plan.round}: {'; '.join(health.reasons[:3])}")
        print(f"selected checkpoint: {selected}; see {files.path / 'incident.md'}")


def finish(run: Run) -> None:
    """Evaluate the end, write the report, and print the table."""
    files, level = run.directory, run.monitor.state.level
    with run.stages.timed("evaluate after"):
        found = run.examiner.evaluate("after")
    files.write_json("after.json", found)
    groups = _balanced_groups(run)
    if files.is_main:
        counts, seconds = run.gate_counts, run.clock.seconds()
        numbers = summary(files.path, files.rows(), run.stages, counts, level, seconds)
        numbers["groups"] = groups
        files.write_json("summary.json", numbers)
        files.status("finished", round=run.round, monitor=level)
        write_report(files.path)
        print(table(numbers, files.path))


def _balanced_groups(run: Run) -> dict[str, int]:
    """How many groups met each fate over all processes; none may be lost."""
    balances = gather_object([balance(run.directory.ledger)])  # one per process
    groups = {fate: sum(each[fate] for each in balances) for fate in balances[0]}
    assert groups["open"] == 0, f"{groups['open']} groups were drawn and lost: {balances}"
    return groups
