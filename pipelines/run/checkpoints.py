"""One atomic checkpoint a round, and what a resumed run reads of it."""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipelines.errors import UserError
from pipelines.settings.load import apply_overrides, parse_settings
from pipelines.settings.tables import Settings

KEPT_CHECKPOINTS = 3
# What --resume may change: how long the run goes on, and where and how patiently it samples.
RESUMABLE = (
    "run.rounds", "run.max_seconds", "rollout.urls", "rollout.servers",
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
    return parse_settings(json.loads(config.read_text()))


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
    status = (
        json.loads((path / "status.json").read_text()) if (path / "status.json").exists() else {}
    )
    if status.get("state") == "halted":
        raise UserError(
            f"{path} was halted by the monitor ({path / 'incident.md'}): start a new run from "
            f"{status.get('selected_checkpoint')}"
        )
    tables = settings.model_dump(mode="json")
    tables["run"]["directory"] = str(path)
    return parse_settings(apply_overrides(tables, overrides))


def rng_state() -> dict[str, object]:
    state: dict[str, object] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.accelerator.is_available():
        state["accelerator"] = torch.get_device_module().get_rng_state()  # each process has one
    return state


def set_rng_state(state: dict) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "accelerator" in state and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(state["accelerator"])


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
