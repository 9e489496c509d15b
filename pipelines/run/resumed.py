"""The settings of a run that exists, and which a resumed one may change. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from data.json_table import read_table
from pipelines.errors import UserError
from pipelines.settings.load import apply_overrides, parse_settings
from pipelines.settings.tables import Settings

# What --resume may change: how long the run goes on, who is shown it, and where and how patiently
# it samples.
RESUMABLE = (
    "run.rounds", "run.max_seconds", "run.trackers", "rollout.urls", "rollout.servers",
    "rollout.weights_directory", "rollout.start_timeout_seconds",
    "rollout.request_timeout_seconds", "rollout.liveness_seconds", "rollout.max_restarts",
)  # fmt: skip


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
    """The settings of an interrupted run; only `RESUMABLE` keys may be changed.

    Raises:
        UserError: no run there, it was halted, or an override would change the experiment.
    """
    settings = load_run(path)
    for override in overrides:
        if override.partition("=")[0] not in RESUMABLE:
            raise UserError(
                f"{override!r} would change the experiment: with --resume only "
                f"{', '.join(RESUMABLE)} may be given"
            )
    file = path / "status.json"
    status = read_table(file) if file.exists() else {}
    if status.get("state") == "halted":
        raise UserError(
            f"{path} was halted by the monitor ({path / 'incident.md'}): start a new run from "
            f"{status.get('selected_checkpoint')}"
        )
    tables = settings.model_dump(mode="json")
    tables["run"]["directory"] = str(path)
    return parse_settings(apply_overrides(tables, overrides))
