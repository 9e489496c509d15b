"""The licence that a model or a data set names in the front matter of its card, a README.md.

Asks no network: what lies here, or in the hub's cache. Leaves out what follows
from licences (`data/card.py`).
"""

from pathlib import Path

from data.card import UNKNOWN
from pipelines.policy.folder import (
    ADAPTER_CONFIG,
    checkpoint_name,
    is_hub_id,
    named_base,
    role_path,
)
from pipelines.run.origin import Origin
from pipelines.settings.tables import Settings
from pipelines.settings.task_table import TaskTable


def licences_of(origin: Origin, served: bool) -> dict[str, dict[str, str]]:
    """Licences of the "models" that sample and of the "sources" of their tasks, each by name.

    Args:
        origin: what samples.
        served: by servers, of whose model only the name is known.
    """
    models = {}
    for path in filter(None, (origin.learner, origin.critic)):
        name = path if served else checkpoint_name(path).model
        models[name] = UNKNOWN if served else model_licence(path, origin.settings)
    return {"models": models, "sources": source_licences(origin.settings.tasks)}


def model_licence(path: str, settings: Settings) -> str:
    """A checkpoint's licence; where it names none, that of what it was trained from.

    Args:
        path: the checkpoint's or adapter's folder.
        settings: those of the run, if it is a round's.

    Returns:
        An identifier such as "apache-2.0"; `UNKNOWN` where no card names one.
    """
    folder = Path(path).resolve()
    found = named_licence(path, "model")
    if found == UNKNOWN and (folder / ADAPTER_CONFIG).exists():
        return named_licence(named_base(folder), "model")
    if found == UNKNOWN and folder.parents[1].name == "checkpoints":
        role = settings.critic if folder.name.startswith("critic") else settings.learner
        return named_licence(role.model or role_path(settings, role), "model")
    return found


def source_licences(tasks: TaskTable) -> dict[str, str]:
    """Licences of the files and data sets that tasks are read from, by their generators' names."""
    parts = [part for part in tasks.mixture or (tasks,) if part.source != "reasoning_gym"]
    return {Path(part.path).name: named_licence(part.path, "dataset") for part in parts}


def named_licence(place: str, kind: str) -> str:
    """What the card of a folder, of a file's folder or of a hub id names; else `UNKNOWN`.

    Args:
        place: where it lies, or its hub id.
        kind: "model" or "dataset".
    """
    from huggingface_hub import try_to_load_from_cache  # a third of a second
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    if is_hub_id(place):
        cached = try_to_load_from_cache(place, "README.md", repo_type=kind)
        readme = Path(cached) if isinstance(cached, str) else None
    else:
        folder = Path(place)
        readme = (folder if folder.is_dir() else folder.parent) / "README.md"
    if readme is None or not readme.is_file():
        return UNKNOWN
    try:
        named = (metadata_load(readme) or {}).get("license")
    except (ValueError, YAMLError, OSError):  # front matter of another kind
        return UNKNOWN
    return ", ".join(map(str, named)) if isinstance(named, list) else str(named or UNKNOWN)
