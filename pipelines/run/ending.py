"""How a run ends: finished, or halted by the monitor.

Leaves out ends that nobody chose: an error or Ctrl-C (`run/session.py` records those).
"""

from collections.abc import Mapping, Sequence

from accelerate.utils import gather_object

from critic.monitor.incident import incident_markdown, incident_record
from critic.monitor.state import Health
from data.atomic import write_text_atomic
from pipelines.game.bout import Bout, RoundPlan
from pipelines.game.examiner import Probe
from pipelines.report.account import FEW_FORMED
from pipelines.report.write import write_report
from pipelines.rollouts.ledger import balance
from pipelines.run.final_table import table
from pipelines.run.hub import push
from pipelines.run.last_lines import after_halt, last_line, stopped
from pipelines.run.round_log import transcript
from pipelines.run.session import Run
from pipelines.run.summary import summary
from pipelines.run.told import tell_end


def halt(run: Run, plan: RoundPlan, bouts: Sequence[Bout], probe: Probe, health: Health) -> None:
    """Quarantine what came after the last clean check, and leave an incident record."""
    files, monitor = run.directory, run.monitor
    clean = monitor.state.last_clean_check
    selected = "the cold start" if clean is None else str(run.checkpoints.folder(clean))
    facts: dict[str, object] = {"round": plan.round, "selected_checkpoint": selected}
    facts["reasons"] = list(health.reasons)
    files.status("halted", **facts)  # first: whatever comes, nobody continues a halted run
    last_clean = -1 if clean is None else clean
    kept = [number for number in run.checkpoints.rounds() if number <= last_clean]
    run.checkpoints.point_to_best(run.selection.best(kept))
    if files.is_main:
        run.corpus.drop_rounds(after=last_clean)
        worst = sorted(bouts, key=lambda bout: bout.verdict.passed)
        samples = [transcript(bout) for bout in worst]
        record = incident_record(
            health, monitor.state, monitor.values(), samples, run.settings.monitor
        )
        files.write_json("incident.json", record)
        write_text_atomic(files.path / "incident.md", incident_markdown(record))
    run.log_round(plan, probe, health, [], {})
    if files.is_main:
        facts["next"] = after_halt(None if clean is None else run.checkpoints.folder(clean))
        said = tell_end(files, "halted", **facts)
        write_report(files.path)
        print(*said.lines(), sep="\n")
        print(f"why, and samples of it: {files.path / 'incident.md'}")
        print(said.next, flush=True)


def finish(run: Run) -> None:
    """Evaluate the end, write the report, print the table, and say where the model is."""
    files, level = run.directory, run.monitor.state.level
    last = run.checkpoints.last_round()
    run.round_log.progress.begin("evaluating the end")
    with run.stages.timed("evaluate after"):
        found = run.examiner.evaluate("after")
        best = _examine_best(run, found["figures"], last)
    files.write_json("after.json", found)
    groups = _balanced_groups(run)
    if files.is_main:
        counts, seconds = run.gate_counts, run.clock.seconds()
        numbers = summary(files.path, files.rows(), run.stages, counts, level, seconds)
        numbers |= {"groups": groups} | ({"best": best} if best else {})
        files.write_json("summary.json", numbers)
        _say_finished(run, last, level, numbers)


def _say_finished(run: Run, last: int | None, level: str, numbers: Mapping) -> None:
    """The table, what it comes to, where the model is; status.json and the report say it too."""
    files, played = run.directory, 0 if last is None else last + 1
    model = None if last is None else run.checkpoints.folder(last) / "learner"
    if run.selection.best() is not None:
        model = run.checkpoints.best / "learner"
    why = stopped(run.settings, played)
    facts: dict[str, object] = {"model": None if model is None else str(model)}
    facts |= {"stopped": why} if why else {}
    facts |= {"round": max(0, played - 1), "rounds_played": played, "monitor": level}
    formed = numbers["after"].get("well_formed")
    facts["next"] = last_line(
        run.settings, played, model, is_read=formed is None or formed >= FEW_FORMED
    )
    said = tell_end(files, "finished", **facts)
    print("\n".join([table(numbers, files.path), "", *said.lines()]), flush=True)
    if run.settings.run.push_to and model is not None:
        facts["pushed"] = push(model.resolve(), run.settings.run.push_to)
        tell_end(files, "finished", **facts)
        print(facts["pushed"])
    run.round_log.progress.now("writing the report")
    write_report(files.path)
    print(said.next, flush=True)


def _examine_best(run: Run, figures: object, last: int | None) -> dict[str, object] | None:
    """The best checkpoint on the test tasks, which had no part in its selection.

    Args:
        run: whose learner takes the checkpoint's weights meanwhile.
        figures: the last weights' own.
        last: the round that these are of.
    """
    best = run.selection.best()
    if best is None:
        return None
    chosen: dict[str, object] = {"round": best, "selected_at": run.selection.mean(best)}
    if best == last:
        assert isinstance(figures, dict), "a table of figures"
        return chosen | figures
    learner = run.roles.learner
    own = learner.weights_copy()
    learner.put_back(run.checkpoints.weights(best, "learner"))
    try:
        examined = run.selection.evaluate(run.tasks.held_out.test, "test")
    finally:
        learner.put_back(own)
    return chosen | examined.row()


def _balanced_groups(run: Run) -> dict[str, int]:
    """How many groups met each fate over all processes; none may be lost."""
    balances = gather_object([balance(run.directory.ledger)])  # one per process
    groups = {fate: sum(each[fate] for each in balances) for fate in balances[0]}
    assert groups["open"] == 0, f"{groups['open']} groups were drawn and lost: {balances}"
    return groups
