"""Where a policy lies on disk: found, or refused within a second. Imports no torch.

Leaves out what is in the folder (`policy/checkpoint.py`).
"""

from pathlib import Path

from pipelines.errors import UserError, as_user_error
from pipelines.settings.role_table import RoleTable
from pipelines.settings.tables import Settings


def role_path(settings: Settings, role: RoleTable) -> str:
    """Where a role starts: its own checkpoint, or the cold start."""
    if role.model:
        return local_folder(role.model)
    assert settings.sft is not None, "Settings refuses this"
    return str(settings.sft.directory)


def is_hub_id(path: str) -> bool:
    """Whether a model's name is a hub's (`owner/name`) and not a folder's."""
    looks_local = path.count("/") != 1 or path.startswith(("runs/", ".", "~", "/"))
    return not looks_local and not Path(path).exists()


def local_folder(path: str) -> str:
    """A checkpoint's folder; a hub id (`owner/name`, no such folder) is downloaded first.

    Raises:
        UserError: neither a folder nor a model that the hub gives us.
    """
    if not is_hub_id(path):
        return path
    from huggingface_hub import snapshot_download  # a third of a second, for hub ids alone

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model"]
    what = f"{path} is not a folder, and the hub does not give it"
    with as_user_error(what, OSError, ValueError):  # offline, unknown, gated
        return snapshot_download(path, allow_patterns=patterns)


def check_folder(dotted: str, path: str) -> Path:
    """Refuse a directory that holds no model with its tokenizer.

    Args:
        dotted: the key that names it.
        path: the directory.

    Raises:
        UserError: what is missing.
    """
    folder = Path(path)
    if not folder.exists():
        raise UserError(
            f"{dotted}: {path} does not exist: run pipelines/sft.py first, or name a checkpoint "
            "directory"
        )
    for needed in ("config.json", "tokenizer_config.json"):
        if not (folder / needed).exists():
            raise UserError(
                f"{dotted}: {path} has no {needed}: it is not a saved model with its tokenizer"
            )
    return folder
