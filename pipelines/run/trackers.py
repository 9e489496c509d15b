"""Experiment trackers beside metrics.jsonl: TensorBoard, W&B, trackio, or a class of the user's.

All are Accelerate's `GeneralTracker`s, used on rank 0 alone. They get the numbers of every step and
round, and nothing else. Leaves out the rows (`run/round_log.py`) and what is installed
(`run/early.py`).
"""

import json
import logging
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate.tracking import (
    GeneralTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)

from data.atomic import write_text_atomic
from data.json_table import read_table
from pipelines.errors import UserError, as_user_error
from rewards.functions import load_named

PROJECT = "sparring"
IDENTITY = "trackers.json"  # the run's name for trackers, the same after --resume

logger = logging.getLogger(__name__)


class Trackers:
    """Hands rows on; a tracker that fails is named, and dropped so that the run goes on.

    Args:
        started: the trackers, by the names in the configuration.
        num_rows: rows that the run has logged before, which this one's are counted on from.
    """

    def __init__(self, started: Mapping[str, GeneralTracker], num_rows: int = 0) -> None:
        self._started, self.num_rows = dict(started), num_rows

    def log(self, row: Mapping[str, object]) -> list[str]:
        """Log the numbers of a step's or round's row; returns what failed, in words."""
        if row.get("kind") not in ("step", "round"):
            return []
        found, failed = numbers(row), []
        for name, tracker in list(self._started.items()):
            try:
                tracker.log(found, step=self.num_rows)
            except Exception as error:  # whatever a service raises: the training is worth more
                del self._started[name]
                failed.append(f"run.trackers: {name} failed and gets no more rows: {error!r}")
        self.num_rows += 1
        return failed

    def finish(self) -> None:
        """Let every tracker write what it still holds."""
        for name, tracker in self._started.items():
            try:
                tracker.finish()
            except Exception as error:  # as in `log`
                logger.warning("run.trackers: %s could not be closed: %r", name, error)


def start_trackers(
    names: Sequence[str], directory: Path, config: Mapping[str, object], num_rows: int
) -> Trackers:
    """Start the trackers of a new or resumed run; on rank 0 alone.

    Args:
        names: `run.trackers`.
        directory: the run's, which exists.
        config: the settings, for trackers to show.
        num_rows: rows of steps and rounds in its metrics.

    Raises:
        UserError: a tracker cannot start.
    """
    if not names:
        return Trackers({})
    file = directory / IDENTITY
    if not file.exists():
        write_text_atomic(file, json.dumps({"id": uuid.uuid4().hex[:8]}))
    identity, started = str(read_table(file)["id"]), {}
    for name in names:
        with as_user_error(f"run.trackers: {name} cannot start", Exception):
            tracker = _tracker(name, directory, identity, num_rows)
            tracker.start()
            if num_rows == 0:
                tracker.store_init_configuration(flat(config))
        started[name] = tracker
    return Trackers(started, num_rows)


def own_tracker(name: str) -> type[GeneralTracker]:
    """The user's class that `FILE.py:CLASS` or `package.module:CLASS` names.

    Raises:
        UserError: it cannot be imported, or is not a tracker.
    """
    with as_user_error(f"run.trackers: {name}", Exception):
        found = load_named(name)
    if not (isinstance(found, type) and issubclass(found, GeneralTracker)):
        raise UserError(f"run.trackers: {name} is not a subclass of accelerate's GeneralTracker")
    return found


def numbers(row: Mapping[str, object]) -> dict[str, float]:
    """A row's finite numbers; a step's under its role, since both roles have the same keys."""
    prefix = f"{row['role']}/" if row["kind"] == "step" else ""
    return {
        f"{prefix}{key}": value
        for key, value in flat(row, "/").items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def flat(table: Mapping[str, object], between: str = ".") -> dict[str, object]:
    """Nested tables as one, keys joined; what is no number or truth value becomes text."""
    found: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = flat(value, between)
            found |= {f"{key}{between}{name}": one for name, one in inner.items()}
        else:
            found[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def _tracker(name: str, directory: Path, identity: str, num_rows: int) -> GeneralTracker:
    label = f"{directory.resolve().name}-{identity}"
    if name == "tensorboard":  # the rows of an open round are run again: hide the first ones
        return TensorBoardTracker("tensorboard", str(directory), purge_step=num_rows)
    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        folder = str(directory)
        return WandBTracker(project, id=identity, name=label, resume="allow", dir=folder)
    if name == "trackio":
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        return TrackioTracker(project, name=label, resume="allow")
    own = own_tracker(name)
    folders = [str(directory)] if own.requires_logging_directory else []
    return own(label, *folders)
