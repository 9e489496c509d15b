"""The corpus: what the gates let through, one Parquet shard per round.

    corpus/round_00003.parquet              records of round 3, accepted and rejected
    corpus_quarantine/round_00003.parquet   taken back by a rollback, kept as evidence

The quarantine lies beside the corpus, since `datasets` reads the folders inside one.

A shard is written atomically and as a whole: admitting a round again replaces its shard, so a
round rerun after a kill leaves no trace of the first try. `datasets.load_dataset("parquet",
data_files="corpus/round_*.parquet")` reads it. Shards of an earlier schema are read, and get the
columns of today's with the next one that is written, or one reader could not take them together;
their records keep their version. Left out: what is let through (the gate decides).
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.atomic import remove_stale, sync_folder, write_parquet_atomic
from data.columns import Column, columns_of
from data.errors import UserError
from data.records import Record
from data.sealed import ADDED_IN_2, RECORD_COLUMNS, record_digest, record_from_row, record_row

_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _type(column: Column) -> pa.DataType:
    if column.kind in _PLAIN:
        one = _PLAIN[column.kind]
    else:
        one = pa.struct([(inner.name, _type(inner)) for inner in columns_of(column.kind)])
    return pa.list_(one) if column.many else one


SCHEMA = pa.schema([pa.field(c.name, _type(c), nullable=c.optional) for c in RECORD_COLUMNS])

_SHARD = re.compile(r"round_(\d{5,})\.parquet")


class Corpus:
    """A folder of shards with one writer and any number of readers.

    Args:
        directory: the folder; it is made at the first admission.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory).absolute()
        self.quarantine = self.directory.with_name(f"{self.directory.name}_quarantine")
        self._is_current = False  # whether every shard has today's columns

    def admit(self, records: Iterable[Record]) -> list[Path]:
        """Store the records, replacing the whole shard of every round among them.

        Returns:
            The shards written, one per round.

        Raises:
            ValueError: a record was changed after it was sealed.
        """
        by_round = sorted(records, key=lambda record: record.round)  # stable: order is kept
        _require_sealed(by_round)
        if self.directory.is_dir():
            remove_stale(self.directory)
        by_number = groupby(by_round, key=lambda record: record.round)
        return [self.store(number, group) for number, group in by_number]

    def store(self, number: int, records: Iterable[Record]) -> Path:
        """Write the shard of a number, whatever rounds its records are of; returns its path.

        Raises:
            ValueError: a record was changed after it was sealed.
        """
        listed = list(records)
        _require_sealed(listed)
        self._bring_up_to_date()
        return self._write(number, listed)

    def rounds(self) -> list[int]:
        """Return the numbers of the rounds that have a shard, ascending."""
        names = (_SHARD.fullmatch(path.name) for path in self.directory.glob("round_*.parquet"))
        return sorted(int(name[1]) for name in names if name)

    def records(self, before: int | None = None, since: int = 0) -> Iterator[Record]:
        """Yield every record in order of round, or those of rounds from `since` up to `before`.

        Args:
            before: the first round that is left out; None for none.
            since: the first round.

        Raises:
            UserError: a shard is damaged or not a shard of ours.
        """
        for number in self._rounds(before):
            if number >= since:
                yield from self.shard(number)

    def shard(self, number: int) -> list[Record]:
        """The records of one shard; none where there is no such shard.

        Raises:
            UserError: it is damaged or not a shard of ours.
        """
        if not self.path_of(number).exists():
            return []
        return [record_from_row(row) for row in self._read(number, SCHEMA.names)]

    def signatures(self, before: int | None = None) -> frozenset[str]:
        """Return the signatures of all accepted records, or of those of rounds below `before`.

        Raises:
            UserError: a shard is damaged or not a shard of ours.
        """
        rows = (
            row
            for number in self._rounds(before)
            for row in self._read(number, ["signature", "accepted"])
        )
        return frozenset(str(row["signature"]) for row in rows if row["accepted"])

    def drop_rounds(self, after: int) -> list[Path]:
        """Take the shards of rounds above `after` out of the corpus, into `quarantine`.

        Returns:
            Where they lie now; an earlier shard of the same round there keeps its name.
        """
        moved = []
        for number in self.rounds():
            if number > after:
                self.quarantine.mkdir(exist_ok=True)
                target = _unused(self.quarantine / f"round_{number:05d}.parquet")
                os.replace(self.path_of(number), target)
                moved.append(target)
        if moved:
            sync_folder(self.quarantine)
            sync_folder(self.directory)
        return moved

    def _bring_up_to_date(self) -> None:
        """Write the shards that have an earlier schema's columns again, in today's."""
        for number in [] if self._is_current else self.rounds():
            if self._open(number).schema_arrow.names != SCHEMA.names:
                self._write(number, self.shard(number))
        self._is_current = True

    def _write(self, number: int, records: Iterable[Record]) -> Path:
        path, rows = self.path_of(number), [record_row(record) for record in records]
        write_parquet_atomic(path, pa.Table.from_pylist(rows, schema=SCHEMA))
        return path

    def _rounds(self, before: int | None) -> list[int]:
        return [number for number in self.rounds() if before is None or number < before]

    def path_of(self, number: int) -> Path:
        """Where the shard of a number lies."""
        return self.directory / f"round_{number:05d}.parquet"

    def _read(self, number: int, columns: list[str]) -> list[dict[str, object]]:
        path, file = self.path_of(number), self._open(number)
        had = set(file.schema_arrow.names)
        if "schema_version" not in had:  # of the first version
            had |= ADDED_IN_2.keys()
        if missing := [name for name in columns if name not in had]:
            raise UserError(f"shard {path} lacks {', '.join(missing)}: it is not one of ours")
        with _readable(path):
            rows: list[dict[str, object]] = file.read(columns=columns).to_pylist()
        return rows

    def _open(self, number: int) -> pq.ParquetFile:
        path = self.path_of(number)
        with _readable(path):
            return pq.ParquetFile(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"shard {path} cannot be read: {reason}; move it away") from error


def _require_sealed(records: Iterable[Record]) -> None:
    for record in records:
        if record.sha256 != record_digest(record):
            raise ValueError(
                f"record {record.id} does not match its sha256: call data.sealed.seal on it"
            )


def _unused(path: Path) -> Path:
    """Return `path`, or its first variant `name.1.parquet`, `name.2.parquet`, ... not yet taken."""
    candidate, number = path, 0
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return candidate
