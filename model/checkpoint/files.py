"""Checkpoint directories: what is stored where, checked file by file, and replaced as a whole.

Reads the headers of safetensors files itself, because an error should name the tensor that is cut
off. Writing goes to a folder beside the files, which then replaces them, so that an interrupted
save never leaves a mixture that loads. Leaves out what tensors a model needs: `naming.py`.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import cached_file

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_HUB_ARGUMENTS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
_PARTIAL = ".partial"
_LENGTH_BYTES = 8  # of a safetensors file: the length of the header that follows
_NUMBER_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}  # of the types we read


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, its type as safetensors spells it, and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    def read(self, name: str) -> Tensor:
        """The tensor of that name."""
        with safe_open(self.file, framework="pt") as opened:
            return opened.get_tensor(name)


def stored_tensors(directory: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint, by name.

    Raises:
        ValueError: there is no checkpoint, or its index, a shard or a header is broken.
    """
    directory = Path(directory)
    index, whole = directory / INDEX, directory / WHOLE
    if index.exists() and whole.exists():
        raise ValueError(f"{directory} holds both {WHOLE} and {INDEX}: delete the stale one")
    if whole.exists():
        return _header(whole)
    if not index.exists():
        raise ValueError(f"{directory} holds no {WHOLE} and no {INDEX}")
    return _indexed(index)


def stored_names(find: Callable[[str], Path | None]) -> set[str]:
    """Names of a checkpoint's tensors, as its index or its only file gives them.

    Args:
        find: gives a file of the checkpoint by its name; None if it is absent.

    Returns:
        The names; none where there is neither file, or an index without a map.

    Raises:
        ValueError: the index is not a JSON object, or the file's header is broken.
    """
    if (index := find(INDEX)) is not None:
        names = read_json(index).get("weight_map")
        return set(names) if isinstance(names, dict) else set()
    whole = find(WHOLE)
    return set() if whole is None else set(_header(whole))


def local_file(directory: Path, file: str) -> Path | None:
    """A file of a directory; None if it has no such file."""
    path = directory / file
    return path if path.exists() else None


def remote_file(
    repository: str | os.PathLike[str], file: str, arguments: Mapping[str, object]
) -> Path | None:
    """A file of a repository on a hub, from the cache or downloaded; None if it has no such file.

    Args:
        arguments: those of `from_pretrained`, of which some say where and what to look for.
    """
    given = {key: arguments[key] for key in _HUB_ARGUMENTS if key in arguments}
    found = cached_file(repository, file, _raise_exceptions_for_missing_entries=False, **given)
    return None if found is None else Path(found)


def read_json(file: Path) -> dict:
    """A JSON object.

    Raises:
        ValueError: the file does not hold one.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON's and UTF-8's errors are both of this kind
        raise ValueError(f"{file} is not valid JSON ({error}): restore or write it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, got a {type(content).__name__}")
    return content


@contextmanager
def replacing(directory: str | os.PathLike[str], *, write: bool) -> Iterator[Path]:
    """A folder to write a checkpoint to, whose files then replace those in `directory`.

    Until all are written and flushed nothing changes. While they move, the directory has no
    weights file and no index, so that no loader takes it for a checkpoint; that one comes last.
    Other files of the directory stay, such as a tokenizer: a rename of the whole folder would lose
    them.

    Args:
        directory: made if absent.
        write: False on a rank that writes nothing, which gets `directory` itself.

    Raises:
        ValueError: there is a file of that name.
    """
    directory = Path(directory)
    if not write:
        yield directory
        return
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file: a checkpoint needs a directory")
    partial = directory / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # of a save that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.iterdir():
            _flush(file)
        _replace(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, directory: Path) -> None:
    entries = sorted(partial.iterdir(), key=lambda file: file.name in (WHOLE, INDEX))
    names = {file.name for file in entries}
    if names & {WHOLE, INDEX}:
        for name in (INDEX, WHOLE):
            (directory / name).unlink(missing_ok=True)
        _flush(directory)
        for stale in directory.glob("model-*-of-*.safetensors"):
            stale.unlink()
    for file in entries[:-1]:
        file.replace(directory / file.name)
    _flush(directory)
    for file in entries[-1:]:
        file.replace(directory / file.name)
    _flush(directory)


def _flush(path: Path) -> None:
    """Force a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _indexed(index: Path) -> dict[str, StoredTensor]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise ValueError(f"{index} has no weight_map of tensor names to file names")
    stored: dict[str, StoredTensor] = {}
    for shard in sorted(set(shards.values())):
        first = next(name for name, file in shards.items() if file == shard)
        if Path(shard).name != shard:
            raise ValueError(f"{index}: tensor {first} is in {shard!r}, outside the directory")
        if not (index.parent / shard).exists():
            raise ValueError(f"{index} says that tensor {first} is in {shard}, which is absent")
        for name, tensor in _header(index.parent / shard).items():
            if shards.get(name) != shard:
                place = f"in {shards[name]}" if name in shards else "nowhere"
                raise ValueError(f"{index} says that tensor {name} is {place}, it is in {shard}")
            stored[name] = tensor
    for name, shard in shards.items():
        if name not in stored:
            raise ValueError(f"{index} says that tensor {name} is in {shard}, which lacks it")
    return stored


def _header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, whose every byte must be there."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or size - _LENGTH_BYTES < length:
            raise ValueError(f"{file} is truncated within its header: copy or write it again")
        text = stream.read(length)
    try:
        header: dict[str, dict] = json.loads(text)
        header.pop("__metadata__", None)
        places = {name: range(*entry["data_offsets"]) for name, entry in header.items()}
        stored = {
            name: StoredTensor(file, entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{file} has a broken safetensors header: {error!r}") from None
    data_size = size - _LENGTH_BYTES - length
    for name, place in sorted(places.items(), key=lambda item: item[1].stop):
        if place.stop > data_size:
            raise ValueError(
                f"{file} is truncated: tensor {name} ends at byte {place.stop} of its data, "
                f"which has {data_size}: copy or write it again"
            )
    if data_size > max((place.stop for place in places.values()), default=0):
        raise ValueError(f"{file} has bytes after its last tensor: copy or write it again")
    _check_sizes(file, stored, places)
    return stored


def _check_sizes(file: Path, stored: dict[str, StoredTensor], places: dict[str, range]) -> None:
    for name, entry in stored.items():
        wanted = math.prod(entry.shape) * _NUMBER_BYTES.get(entry.dtype, 0)
        if entry.dtype in _NUMBER_BYTES and len(places[name]) != wanted:
            raise ValueError(
                f"{file}: tensor {name} has {len(places[name])} bytes, its type {entry.dtype} and "
                f"shape {list(entry.shape)} make {wanted}: write it again"
            )
    try:
        with safe_open(file, framework="pt"):
            return
    except SafetensorError as error:
        raise ValueError(f"{file} has a broken safetensors header: {error}") from None
