"""What `sparring-data generate` was asked for, checked, and compared with what it was begun with.

Leaves out the generation (`synthesis/generate.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.dataset_folder import DatasetFolder, Progress, flat_arguments
from data.errors import UserError, unknown_name
from data.records import SPLITS, Split
from data.shard import WHOLE, Shard
from pipelines.run.early import check_tasks
from pipelines.run.named import check_named, settings_of_server

if TYPE_CHECKING:  # it imports torch
    from pipelines.run.origin import Origin


@dataclass(frozen=True)
class Request:
    """The command's arguments.

    Attributes:
        source: run or checkpoint directory, or addresses of servers with commas between.
        out: directory to write.
        num: accepted records wanted.
        split: of the tasks.
        seed: fixes tasks and samples.
        group: solutions per task.
        batch: tasks per batch; 0 fills the engine once.
        resume: continue what `out` holds.
        config: TOML settings, which a checkpoint needs; a run has its own.
        critic: judge with this checkpoint instead of the source's own.
        criticise: False leaves out critiques.
        overrides: `table.key=value`, over the settings.
        shard: which part of the tasks this generation has.
        model: the name by which servers know the model.
        key_variable: the environment variable that holds their key; "" for none.
    """

    source: str
    out: Path
    num: int
    split: str = "train"
    seed: int = 0
    group: int = 4
    batch: int = 0
    resume: bool = False
    config: Path | None = None
    critic: Path | None = None
    criticise: bool = True
    overrides: tuple[str, ...] = ()
    shard: Shard = WHOLE
    model: str = ""
    key_variable: str = ""


def check_request(request: Request) -> None:
    """Refuse what can be refused before torch is imported.

    Raises:
        UserError: a number is out of its range, options exclude each other, FROM is no folder,
            `--out` holds something else, the settings are faulty, or their tasks are nowhere.
    """
    for name, value, least in (
        ("--num", request.num, 1), ("--group", request.group, 1),
        ("--seed", request.seed, 0), ("--batch", request.batch, 0),
    ):  # fmt: skip
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    if request.critic is not None and not request.criticise:
        raise UserError("--critic and --no-critic exclude each other: leave out one")
    split_named(request.split)
    earlier_progress(DatasetFolder(request.out), request)
    if request.source.startswith(("http://", "https://")):
        check_tasks(settings_of_server(request.config, request.overrides).tasks)
    else:
        check_named(Path(request.source), request.config, request.overrides)


def split_named(name: str) -> Split:
    """The split of that name.

    Raises:
        UserError: there is none.
    """
    for split in SPLITS:
        if split == name:
            return split
    raise UserError(unknown_name("split", name, SPLITS))


def earlier_progress(folder: DatasetFolder, request: Request) -> Progress | None:
    """What there is to continue; None to start.

    Raises:
        UserError: `--out` holds something else, or `--resume` is missing.
    """
    if folder.is_empty():
        return None
    progress = folder.progress()
    if not request.resume:
        hint = "continue it with --resume, or give" if progress is not None else "give"
        raise UserError(f"{request.out} is not empty: {hint} another --out")
    if progress is None:
        raise UserError(f"{request.out} holds no generation to resume: give another --out")
    if "merged" in progress.arguments:
        raise UserError(f"{request.out} was merged: resume its shards, and merge them anew")
    return progress


def arguments_of(request: Request, origin: "Origin") -> dict[str, object]:
    """Everything that decides which records come out, but the weights."""
    tables = origin.settings.model_dump(
        mode="json",
        include={
            "tasks": True, "rollout": True, "rewards": {"timeout_seconds"},
            "learner": {"dtype", "max_completion_length", "temperature", "system_prompt"},
            "critic": {"dtype", "max_completion_length", "temperature", "system_prompt"},
            "evaluate": {"num_tasks", "num_probe_tasks", "num_audit_tasks"},
        },
    )  # fmt: skip
    asked = {
        "num": request.num, "split": request.split, "seed": request.seed, "group": request.group,
        "batch": request.batch, "criticised": request.criticise,
    }  # fmt: skip
    if request.model:
        asked["model"] = request.model
    if request.shard != WHOLE:
        asked["shard"] = str(request.shard)
    for name, role in (("learner", origin.settings.learner), ("critic", origin.settings.critic)):
        tables[name]["chat_template_kwargs"] = role.chat_template_kwargs
    return flat_arguments(asked | tables)


def without_num(arguments: Mapping[str, object]) -> dict[str, object]:
    """What may not change when a set is continued: a larger `--num` lets it grow."""
    return {name: value for name, value in arguments.items() if name != "num"}


def refuse_changes(
    what: str, before: Mapping[str, object], now: Mapping[str, object], out: Path
) -> None:
    """Refuse to go on with other arguments or weights.

    Raises:
        UserError: names each that differs.
    """
    changed = changes(before, now)
    if changed:
        raise UserError(
            f"{out} was begun with other {what} ({', '.join(changed)}): repeat the first "
            "command with --resume, or give another --out"
        )


def changes(
    before: Mapping[str, object], now: Mapping[str, object], between: str = "->"
) -> list[str]:
    """What differs between two flat tables, each as "name value -> value"."""
    return [
        f"{name} {_brief(before.get(name))} {between} {_brief(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _brief(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] + "..."
