"""What is refused within three seconds, before torch is imported.

Leaves out what a model or a library must be loaded for (`run/checks.py`).
"""

import importlib.util
import os
from pathlib import Path

from pipelines.errors import UserError
from pipelines.policy.folder import check_adapter, check_folder, is_hub_id
from pipelines.run.hub import check_push
from pipelines.settings.tables import TRACKERS, Settings
from pipelines.settings.task_table import TaskTable


def check_early(settings: Settings, resume: bool) -> None:
    """Everything about a run that can be refused before torch is imported.

    Raises:
        UserError: what to change.
    """
    check_launch(settings)
    if not resume:
        refuse_existing(settings.run.directory)
    for tracker in settings.run.trackers:
        package = TRACKERS.get(tracker)
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(
                f"run.trackers: {tracker} needs the package {package}, which is not installed: "
                f"pip install {package}, or remove it"
            )
    if settings.run.push_to and os.environ.get("RANK", "0") == "0":
        check_push(settings.run.push_to)
    critic = settings.critic
    if critic.auditor and (critic.adapts or settings.rollout.precision == "fp8"):
        raise UserError(
            "critic.auditor is a whole checkpoint in the critic's engine: it does not go with "
            'critic.lora or rollout.precision = "fp8"'
        )
    for name, path in _models(settings).items():
        if not is_hub_id(path):
            check_folder(name, path)
    for name, role in (("learner", settings.learner), ("critic", settings.critic)):
        if role.adapter:
            check_adapter(name, role)
    check_tasks(settings.tasks)


def check_tasks(tasks: TaskTable) -> None:
    """Refuse a family, a file or a dataset's path that there is not.

    Raises:
        UserError: which.
    """
    for part in tasks.mixture or (tasks,):
        if part.source == "reasoning_gym":
            from data.puzzles import ReasoningGymSource  # a second, for its families alone

            ReasoningGymSource(part.family, part.params)
        elif part.source == "jsonl":
            from data.rows import Fields, read_jsonl

            next(read_jsonl(Path(part.path), Fields()), None)  # is there such a file
        else:
            from data.rows import check_dataset_path

            check_dataset_path(part.path)


def check_source(source: str) -> None:
    """Refuse a FROM that is neither a folder nor, by its look, a hub id.

    Raises:
        UserError: there is no such folder.
    """
    if not (is_hub_id(source) or Path(source).is_dir() or Path(source).name == "best"):
        raise UserError(
            f"{source} is not a directory: give a run directory (made by rl.py) or a checkpoint"
        )


def check_launch(settings: Settings) -> None:
    """Refuse a launch that did not start what the configuration says.

    Raises:
        UserError: WORLD_SIZE, Accelerate's world and `run.num_processes` differ.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = settings.run.num_processes
    if launched != wanted:
        raise UserError(
            f"run.num_processes = {wanted} but the launcher started {launched}: on CPU use "
            f"`accelerate launch --multi_gpu --num_processes {wanted}` (plain --cpu starts one "
            f"process), or set run.num_processes={launched}"
        )


def refuse_existing(directory: Path) -> None:
    """Protect an earlier run.

    Raises:
        UserError: the directory already holds one.
    """
    if (directory / "config.json").exists():
        raise UserError(
            f"{directory} already holds a run: continue it with --resume {directory}, or give "
            "another run.directory"
        )


def _models(settings: Settings) -> dict[str, str]:
    """The configured folders and hub ids, by the key that names them."""
    cold_start = str(settings.sft.directory) if settings.sft is not None else ""
    found = {
        "learner.model": settings.learner.model or cold_start,
        "critic.model": settings.critic.model or cold_start,
        "critic.auditor": settings.critic.auditor,
    }
    return {name: path for name, path in found.items() if path}
