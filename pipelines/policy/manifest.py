"""Names and shapes of a safetensors checkpoint, from its headers alone.

Both ends of the weight sync read them: the trainer, and the engine in a process of its own. Leaves
out the tensors' values (`policy/fingerprint.py`).
"""

import json
import struct
from pathlib import Path

from transformers import AutoConfig

from data.errors import as_user_error
from data.json_table import read_table
from model.checkpoint.naming import multi_token_prefixes
from pipelines.errors import UserError

Manifest = dict[str, tuple[int, ...]]
TIED_HEAD = "lm_head.weight"  # the embeddings again, where a checkpoint that ties them holds it
_DERIVED = ".rotary_emb.inv_freq"  # follows from the config; checkpoints of Llama's first days
INDEX = "model.safetensors.index.json"


def checkpoint_manifest(directory: Path) -> Manifest:
    """Names and shapes of what an engine runs of a safetensors checkpoint, from the headers alone.

    Raises:
        UserError: no safetensors file in the directory, or one that was cut short.
    """
    manifest: Manifest = {}
    for file in _files(directory):
        manifest |= {name: tuple(entry["shape"]) for name, entry in _header(file).items()}
    manifest = {name: shape for name, shape in manifest.items() if not name.endswith(_DERIVED)}
    if TIED_HEAD in manifest and _is_tied(directory):
        del manifest[TIED_HEAD]
    config = read_table(directory / "config.json")
    if config.get("num_nextn_predict_layers"):
        counts = config["num_hidden_layers"], config["num_nextn_predict_layers"]
        left_out = multi_token_prefixes(*counts)
        return {name: shape for name, shape in manifest.items() if not name.startswith(left_out)}
    return manifest


def manifest_difference(ours: Manifest, theirs: Manifest) -> str:
    """What of `theirs` is not in `ours`, in words; empty where they are equal."""
    missing = sorted(theirs.keys() - ours.keys())
    extra = sorted(ours.keys() - theirs.keys())
    reshaped = sorted(n for n in ours.keys() & theirs.keys() if ours[n] != theirs[n])
    if not (missing or extra or reshaped):
        return ""
    return (
        f"{len(missing)} missing {missing[:3]}, {len(extra)} unknown {extra[:3]}, "
        f"{len(reshaped)} of another shape {reshaped[:3]}"
    )


def _files(directory: Path) -> list[Path]:
    """The files that a loader reads: those of the index, else the one, else all of the folder.

    A folder may hold more, such as the same weights under other names (`consolidated.safetensors`).

    Raises:
        UserError: there is none, or one that the index names is missing.
    """
    index, whole = directory / INDEX, directory / "model.safetensors"
    if whole.exists():
        return [whole]
    if not index.exists():
        files = sorted(directory.glob("*.safetensors"))
        if files:
            return files
        raise UserError(f"{directory} has no .safetensors file: save the checkpoint as safetensors")
    named = read_table(index).get("weight_map")
    if not isinstance(named, dict):
        raise UserError(f"{index} has no weight_map: save or copy the checkpoint again")
    files = sorted({directory / str(name) for name in named.values()})
    for file in files:
        if not file.exists():
            raise UserError(f"{index} names {file.name}, which is missing: copy it again")
    return files


def _is_tied(directory: Path) -> bool:
    """Whether the config ties the head; most models' own default stands in no config.json."""
    with as_user_error(f"{directory}/config.json", OSError, ValueError, KeyError):
        config = AutoConfig.from_pretrained(directory)
    return bool(config.get_text_config().tie_word_embeddings)


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    """The tensors' entries in a safetensors header, whose data must all be there."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            entries = json.loads(stream.read(min(length, size)))
        entries.pop("__metadata__", None)
        whole = size == 8 + length + max(entry["data_offsets"][1] for entry in entries.values())
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{file} is cut short or not a safetensors file: save or copy it again")
    return entries
