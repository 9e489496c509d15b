"""What is refused within three seconds, before torch is imported.

Leaves out what a model or a library must be loaded for (`run/checks.py`).
"""

import importlib.util
import netrc
import os
import sys
from itertools import islice
from pathlib import Path

from pipelines.errors import UserError, as_user_error
from pipelines.policy.folder import check_adapter, check_folder, is_hub_id
from pipelines.run.hub import check_push
from pipelines.settings.tables import TRACKERS, Settings
from pipelines.settings.task_table import SourceTable, TaskTable
from rewards.functions import check_named

FIRST_ROWS = 1000  # of a file: all are read when there is a run to read them for


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
    own = [one for one in settings.run.trackers if one not in TRACKERS]
    for key, named in (("run.trackers", own), ("rewards.functions", settings.rewards.functions)):
        for name in named:
            with as_user_error(f"{key}: {name}", ValueError, SyntaxError):
                check_named(name)
    if "wandb" in settings.run.trackers and os.environ.get("RANK", "0") == "0":
        check_wandb()
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
            check_file(part)
        else:
            from data.rows import check_dataset_path

            check_dataset_path(part.path)


def check_file(part: SourceTable) -> None:
    """Refuse a file of tasks that is not there, or whose first rows are faulty.

    Raises:
        UserError: each kind of fault with its first row.
    """
    from data.listed import refused
    from data.rows import Fault, read_jsonl

    for path in filter(None, (part.path, part.test_path)):
        rows = list(islice(read_jsonl(Path(path), part.fields), FIRST_ROWS))
        faults = [row for row in rows if isinstance(row, Fault)]
        if faults and not part.skip_faulty_rows:
            raise UserError(refused(faults, len(rows)))


def check_wandb() -> None:
    """Refuse W&B where it would surely wait for a login that nobody can give it.

    Raises:
        UserError: how to log in, or to do without.
    """
    named = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL")
    asks = sys.stdin is not None and sys.stdin.isatty()
    if asks or os.environ.get("WANDB_MODE", "online") != "online":
        return
    home = Path(os.environ.get("HOME", "/"))
    # A settings file may name a mode or another server: W&B itself reads it.
    files = (Path("wandb") / "settings", home / ".config" / "wandb" / "settings")
    if any(map(os.environ.get, named)) or any(file.exists() for file in files):
        return
    try:
        found = netrc.netrc(os.environ.get("NETRC") or home / ".netrc")
    except (OSError, netrc.NetrcParseError):
        found = None
    if found is None or found.authenticators("api.wandb.ai") is None:
        raise UserError(
            "run.trackers: nobody is logged in to W&B: set WANDB_MODE=offline to keep its files "
            "on this machine, WANDB_API_KEY, or run `wandb login`"
        )


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
