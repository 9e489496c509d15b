"""What the FROM of `sparring-data generate` and `sparring-evaluate` names, and its settings.

A run, one of its rounds, `RUN/best`, a checkpoint, or a hub id. Imports no torch, so that a mistake
is told at once. Leaves out the checkpoints themselves (`run/origin.py`).
"""

from collections.abc import Sequence
from pathlib import Path

from data.json_table import read_table
from pipelines.errors import UserError
from pipelines.policy.folder import ADAPTER_CONFIG, check_folder, local_folder
from pipelines.run.early import check_source, check_tasks
from pipelines.run.resumed import load_run
from pipelines.settings.load import apply_overrides, load_settings, parse_settings
from pipelines.settings.pack import with_pack
from pipelines.settings.tables import Settings


def folder_of(source: Path) -> Path:
    """The folder that FROM is, `RUN/best` followed.

    Raises:
        UserError: there is none, or the run has selected no best round.
    """
    source = Path(local_folder(str(source)))
    if source.name == "best" and _is_run(source.parent):
        source = _best(source)
    check_source(str(source))
    return source


def run_of(folder: Path) -> Path | None:
    """The run that a folder is, or is a round of; None where it is a checkpoint."""
    is_round = folder.absolute().parent.name == "checkpoints" and (folder / "learner").is_dir()
    run = folder.absolute().parents[1] if is_round else folder
    return run if _is_run(run) else None


def settings_of(folder: Path, config: Path | None, overrides: Sequence[str]) -> Settings:
    """A run's own settings with overrides, or those of the configuration that a checkpoint needs.

    Raises:
        UserError: what is wrong with which of them.
    """
    run = run_of(folder)
    if run is None:
        if config is None:
            raise UserError(
                f"{folder} is a checkpoint, which says nothing of tasks: add --config "
                "configs/NAME.toml"
            )
        return load_settings(config, overrides)
    if config is not None:
        raise UserError(
            f"{run} is a run with settings of its own: leave out --config, and change "
            "single settings by table.key=value"
        )
    own = load_run(run)
    tables, tasks = own.model_dump(mode="json"), apply_overrides({}, overrides).get("tasks")
    if not (isinstance(tasks, dict) and tasks.get("pack")):
        return parse_settings(apply_overrides(tables, overrides))
    tables["tasks"] = {}  # of its rewards only what the run set lies over the pack's
    tables["rewards"] = own.rewards.model_dump(mode="json", exclude_defaults=True)
    return parse_settings(with_pack(apply_overrides(tables, overrides)))


def settings_of_server(config: Path | None, overrides: Sequence[str]) -> Settings:
    """The settings of what a server samples.

    Raises:
        UserError: there is no configuration, or it is faulty.
    """
    if config is None:
        raise UserError("a server says nothing of tasks: add --config configs/NAME.toml")
    return load_settings(config, overrides)


def check_named(
    source: Path,
    config: Path | None,
    overrides: Sequence[str],
    tasks_file: Path | None = None,
) -> None:
    """Refuse a FROM, settings or tasks that cannot be, before torch is imported.

    Args:
        source: FROM.
        config: for a checkpoint.
        overrides: of the settings.
        tasks_file: JSON lines in place of the settings' tasks, which need not be there then.

    Raises:
        UserError: what to change.
    """
    folder = folder_of(source)
    if folder.is_dir() and run_of(folder) is None and not is_adapter(folder):
        check_folder("FROM", str(folder))
    tasks = settings_of(folder, config, overrides).tasks
    check_tasks(tasks if tasks_file is None else tasks.of_file(tasks_file))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter's weights alone."""
    return (folder / ADAPTER_CONFIG).exists()


def _is_run(source: Path) -> bool:
    """Both kinds of directory have a config.json; a run's holds our tables."""
    config = source / "config.json"
    return config.is_file() and "run" in read_table(config)


def _best(link: Path) -> Path:
    """The round's folder that `RUN/best` names.

    Raises:
        UserError: the run has not selected one.
    """
    if not link.is_dir():
        raise UserError(
            f"{link.parent} has selected no best checkpoint: it does so with "
            f"evaluate.every_rounds, after which it is evaluated; give {link.parent} for its last"
        )
    return link.resolve()
