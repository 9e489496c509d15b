"""Files that are either wholly there or not there at all.

A write goes to a hidden temporary file beside its target, is flushed to disk, and then takes the
target's name in one step, so that a kill at any moment leaves the previous contents. What a kill
may leave is a stale temporary file; `remove_stale` deletes those. Left out: locking. One writer
per folder is assumed.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

TEMPORARY_SUFFIX = ".sparring-tmp"


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


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
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
