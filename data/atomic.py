"""Files and folders that are either wholly there or not there at all.

A write goes to a temporary file or folder beside its target, is flushed to disk, and then takes the
target's name in one step, so that a kill at any moment leaves the previous contents. What a kill
may leave is a stale temporary file, which `remove_stale` deletes, or a partial folder, which the
next write of the same folder deletes. Left out: locking. One writer per target is assumed.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

TEMPORARY_SUFFIX = ".sparring-tmp"
PARTIAL_SUFFIX = ".partial"  # of a folder that is being written


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C included: nothing half-written stays behind
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_folder(
    target: Path, *, owner: bool = True, barrier: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yield an empty folder that replaces `target` when the block ends without an exception.

    Every file in it is flushed to disk first. An earlier target is moved aside and deleted after
    the new one has its name, so a kill leaves one of them whole: in between, the earlier one is
    called `.NAME.replaced`.

    Args:
        target: the folder; its parent is made if need be.
        owner: False in further processes that write into the same folder: the owner makes it and
            gives it its name.
        barrier: waits for all those processes.

    Raises:
        NotADirectoryError: the target is a file.
    """
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    if owner:
        if target.is_file():
            raise NotADirectoryError(f"{target} is a file")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    try:
        yield partial
        barrier()  # all have written
        if owner:
            for path in [*partial.rglob("*"), partial]:
                _flush(path)
            _take_name(partial, target)
    except BaseException:  # Ctrl-C included: nothing half-written stays behind
        if owner:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    barrier()


def _take_name(partial: Path, target: Path) -> None:
    earlier = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(earlier, ignore_errors=True)
    try:
        if target.exists():
            os.rename(target, earlier)
        os.rename(partial, target)
    except BaseException:
        if earlier.exists() and not target.exists():
            os.rename(earlier, target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomic(path: Path | str, content: bytes) -> None:
    """Write `content` to `path` atomically, making its folder if need be."""
    with _replacing(Path(path)) as file:
        file.write(content)


def write_text_atomic(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with its line ends kept."""
    write_bytes_atomic(path, text.encode())


def write_parquet_atomic(path: Path | str, table: pa.Table) -> None:
    """Write one Parquet file atomically."""
    with _replacing(Path(path)) as file:
        pq.write_table(table, file)


def remove_stale(folder: Path | str) -> list[Path]:
    """Delete what killed writers left in `folder`; only the folder's one writer may call this."""
    stale = sorted(Path(folder).glob(f".*{TEMPORARY_SUFFIX}"))
    for path in stale:
        path.unlink(missing_ok=True)
    return stale
