"""The settings of a run that exists, and those of one that is resumed. Imports no torch.

Leaves out what may change (`run/changes.py`).
"""

from collections.abc import Sequence
from pathlib import Path

from data.json_table import read_table
from pipelines.errors import UserError
from pipelines.run.changes import check_changes
from pipelines.settings.load import apply_overrides, parse_settings
from pipelines.settings.tables import Settings


def load_run(path: Path) -> Settings:
    """The settings of an existing run.

    Raises:
        UserError: the directory holds no run.
    """
    config = path / "config.json"
    if not config.exists():
        raise UserError(
            f"{path} holds no run (no config.json): give --resume a directory that rl.py made"
        )
    return parse_settings(read_table(config))


def resume_settings(path: Path, overrides: Sequence[str]) -> Settings:
    """The settings of a run that goes on; few keys may be changed.

    Raises:
        UserError: no run there, it was halted, it has played its rounds, or an override would
            change the experiment.
    """
    settings = load_run(path)
    check_changes(settings, overrides)
    file = path / "status.json"
    status = read_table(file) if file.exists() else {}
    if status.get("state") == "halted":
        raise UserError(
            f"{path} was halted by the monitor ({path / 'incident.md'}): start a new run from "
            f"{status.get('selected_checkpoint')}"
        )
    tables = settings.model_dump(mode="json")
    tables["run"]["directory"] = str(path)
    resumed = parse_settings(apply_overrides(tables, overrides))
    played = status.get("rounds_played", 0)
    assert isinstance(played, int), "a number of rounds"
    if status.get("state") == "finished" and played >= resumed.run.rounds:
        raise UserError(
            f"{path} has finished its {played} rounds: add run.rounds={2 * played}, for example, "
            f"to go on; its model is {status.get('model')}"
        )
    return resumed
