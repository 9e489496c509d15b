"""Rows of data that are not ours, to be decontaminated: read, and written again without some.

A source is a file of JSON lines (perhaps gzipped), a Parquet file, or `NAME` or `NAME:SPLIT` of
what the datasets library loads. JSON lines are kept byte for byte, Parquet with its own schema.
Leaves out what is searched for (`data/contamination.py`).
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError, as_user_error, reason, unknown_name
from data.rows import load_split

LINES = (".jsonl", ".json", ".ndjson")
ASKING = ("question", "problem", "prompt", "instruction", "text", "input", "query")
# Says whether a row, of this number from 1, is kept.
Keeps = Callable[[int, Mapping[str, Any]], bool]


def file_name(source: str) -> str:
    """What a source is called once it is written again."""
    path = Path(source)
    if path.is_file():
        return path.name
    return f"{source.replace('/', '_').replace(':', '_')}.parquet"


def rows_of(source: str) -> Iterator[Mapping[str, Any]]:
    """Every row of a source.

    Raises:
        UserError: it cannot be read, or a line is not a JSON object (names it).
    """
    for batch, _ in _batches(source):
        yield from batch


def filter_rows(source: str, out: Path | None, keeps: Keeps) -> None:
    """Ask about every row, and write those that are kept.

    Args:
        source: a file, or a name.
        out: file to write; None writes nothing.

    Raises:
        UserError: as `rows_of` does.
    """
    number = 0
    with ExitStack() as files:
        write: Callable[[Any, list[bool]], None] | None = None
        for batch, raw in _batches(source):
            kept = [keeps(number + n, row) for n, row in enumerate(batch, start=1)]
            number += len(batch)
            if out is None:
                continue
            if write is None:
                write = _writer(out, raw, files)
            write(raw, kept)


def texts_in(value: object, fields: Sequence[str] = ()) -> Iterator[str]:
    """Every text of a row, however deep; with fields, those of these fields alone.

    Raises:
        UserError: the row lacks a field.
    """
    if fields:
        assert isinstance(value, Mapping), "a row"
        for name in fields:
            if name not in value:
                raise UserError(unknown_name("field", name, map(str, value)))
            yield from texts_in(value[name])
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def asked_in(row: Mapping[str, Any], fields: Sequence[str] = ()) -> list[str]:
    """The texts of an evaluation row: of these fields, or of the first that usually asks something.

    None where it has no such field.
    """
    chosen = fields or [name for name in ASKING if row.get(name)][:1]
    return list(texts_in(row, chosen)) if chosen else []


def _batches(source: str) -> Iterator[tuple[list[Mapping[str, Any]], Any]]:
    """Rows, and the same as they are written again: lines or a table."""
    path = Path(source)
    if path.is_dir() and not (path / "dataset_infos.json").exists():
        saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
        if not saved and not any(path.rglob("*.parquet")) and not any(path.rglob("*.json*")):
            raise UserError(f"{source} holds no data: give a file, or a data set's folder or name")
    if path.is_file():
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        if plain.suffix in LINES:
            yield from _lines(path)
        elif path.suffix == ".parquet":
            yield from _tables(path)
        else:
            raise UserError(f"{source}: unknown file type (known: {', '.join(LINES)}, .parquet)")
        return
    if path.suffix in (*LINES, ".parquet", ".gz"):
        raise UserError(f"file {source} does not exist: check the path")
    name, _, split = source.partition(":")
    table = load_split(name, "", split or "train").with_format("arrow")
    for start in range(0, len(table), 1000):
        part = table[start : start + 1000]
        yield part.to_pylist(), part


def _lines(path: Path) -> Iterator[tuple[list[Mapping[str, Any]], bytes]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with as_user_error(str(path), OSError, EOFError, zlib.error), opened(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number} is not JSON: {reason(error)}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number} is not a JSON object")
            yield [row], line if line.endswith(b"\n") else line + b"\n"


def _tables(path: Path) -> Iterator[tuple[list[Mapping[str, Any]], pa.RecordBatch]]:
    with as_user_error(str(path), OSError, pa.ArrowException):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1000):
            yield batch.to_pylist(), batch


def _writer(out: Path, first: Any, files: ExitStack) -> Callable[[Any, list[bool]], None]:
    if isinstance(first, bytes):
        opened = gzip.open if out.suffix == ".gz" else open
        file = files.enter_context(opened(out, "wb"))
        return lambda line, kept: _write_line(file, line, kept)
    parquet = files.enter_context(pq.ParquetWriter(out, first.schema))
    return lambda part, kept: parquet.write(_as_table(part).filter(pa.array(kept)))


def _write_line(file: Any, line: bytes, kept: list[bool]) -> None:
    if kept[0]:
        file.write(line)


def _as_table(part: Any) -> pa.Table:
    return pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
