"""Where a policy lies on disk: found, or refused within a second. Imports no torch.

Leaves out what is in the folder (`policy/checkpoint.py`).
"""

from dataclasses import dataclass
from pathlib import Path

from data.json_table import read_table
from pipelines.errors import UserError, as_user_error
from pipelines.settings.role_table import RoleTable
from pipelines.settings.tables import Settings

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_BASE = "adapter_base.json"


def role_path(settings: Settings, role: RoleTable) -> str:
    """Where a role starts: its own checkpoint, or the cold start."""
    if role.model:
        return local_folder(role.model)
    assert settings.sft is not None, "Settings refuses this"
    return str(settings.sft.directory)


@dataclass(frozen=True)
class ModelName:
    """What a policy is called elsewhere than on this machine.

    Attributes:
        model: a hub id or a folder's name; what a run trains is called as what it started from.
        adapter: the LoRA adapter on it; "" for none.
    """

    model: str = ""
    adapter: str = ""


UNNAMED = ModelName()


def role_name(settings: Settings, name: str, role: RoleTable) -> ModelName:
    """What a run calls the policy of a role that it trains."""
    model = name_of(role.model or role_path(settings, role))
    if role.adapter:
        return ModelName(model, name_of(role.adapter))
    return ModelName(model, f"{name}_adapter" if role.lora else "")


def checkpoint_name(path: str) -> ModelName:
    """What a checkpoint is called, which may be an adapter's folder."""
    if (Path(path) / ADAPTER_CONFIG).exists():
        return ModelName(name_of(named_base(Path(path))), name_of(path))
    return ModelName(name_of(path))


def name_of(path: str) -> str:
    """A hub id as it is, also of its copy here; of a folder its name, without where it lies.

    A round's folder is named with its run: `tiny/round_00003/learner`.
    """
    if is_hub_id(path):
        return path
    *_, run, place, round_, name = ("", "", "", *Path(path).resolve().parts)
    if round_ == "snapshots" and place.startswith("models--"):
        return place.removeprefix("models--").replace("--", "/")
    return f"{run}/{round_}/{name}" if place == "checkpoints" else name


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

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "README.md"]
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
    if (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists():
        role = dotted.partition(".")[0]
        raise UserError(
            f"{dotted}: {path} is an adapter: give it as {role}.adapter, and what it was trained "
            f"on as {role}.model, which was {named_base(folder)}"
        )
    for needed in ("config.json", "tokenizer_config.json"):
        if not (folder / needed).exists():
            raise UserError(
                f"{dotted}: {path} has no {needed}: it is not a saved model with its tokenizer"
            )
    return folder


def named_base(adapter: Path) -> str:
    """What an adapter says that it was trained on."""
    return str(read_table(adapter / ADAPTER_CONFIG).get("base_model_name_or_path"))


def is_same_model(one: str, other: str) -> bool:
    """Whether two names may mean one model: equal, one folder, or folders of one name."""
    if one == other:
        return True
    if is_hub_id(one) or is_hub_id(other):
        return False
    return Path(one).resolve().name == Path(other).resolve().name


def check_adapter(name: str, role: RoleTable) -> None:
    """Refuse a folder that holds no LoRA adapter, or one of other options than the table's.

    Args:
        name: the role's.
        role: its table, which has an adapter.

    Raises:
        UserError: what is missing, or differs.
    """
    folder, dotted = Path(role.adapter), f"{name}.adapter"
    if not (folder / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{dotted}: {folder} has no {ADAPTER_CONFIG}: name the folder of a saved LoRA adapter, "
            f"such as RUN/checkpoints/round_00003/{name}_adapter"
        )
    if not any((folder / f"adapter_model.{kind}").exists() for kind in ("safetensors", "bin")):
        raise UserError(f"{dotted}: {folder} has no adapter_model.safetensors: copy it again")
    own = read_table(folder / ADAPTER_CONFIG)
    if own.get("peft_type") != "LORA":
        raise UserError(f"{dotted}: {folder} is {own.get('peft_type')}, not LORA")
    for key, wanted in role.lora.items():
        if wanted == "all-linear" or key not in own:  # written out, or left out, when it was saved
            continue
        if _plain(own[key]) != _plain(wanted):
            raise UserError(
                f"{name}.lora.{key} = {wanted!r}, but the adapter {folder} was made with "
                f"{own[key]!r}, which training goes on with: change or remove it"
            )


def _plain(value: object) -> object:
    """A value of a configuration, whatever the order of its lists."""
    return sorted(map(str, value)) if isinstance(value, list) else value
