"""The ledger of a data set's batches: what was written when, to be held against what is there.

    DIR/batches.jsonl   {"batch": 3, "accepted": 12, "rejected": 4, "digest": "9f.."}

One line per complete batch, only ever appended to. A record that was edited and sealed anew, and a
shard that was lost, can be seen against it. Leaves out the shards (`data/corpus.py`).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.atomic import write_text_atomic
from data.errors import UserError, reason
from data.records import Record

BATCHES_FILE = "batches.jsonl"


@dataclass(frozen=True)
class Batch:
    """One complete batch.

    Attributes:
        digest: SHA-256 of its records' digests, the accepted ones first.
    """

    batch: int
    accepted: int
    rejected: int
    digest: str


def batch_of(number: int, accepted: Sequence[Record], rejected: Sequence[Record]) -> Batch:
    """The ledger's entry for these records."""
    return Batch(number, len(accepted), len(rejected), _digest((*accepted, *rejected)))


def append_batch(folder: Path, batch: Batch) -> None:
    """Add an entry, flushed to disk."""
    with (folder / BATCHES_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(batch)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_batches(folder: Path) -> list[Batch]:
    """All entries; none where there is no ledger.

    Raises:
        UserError: it is damaged.
    """
    path = folder / BATCHES_FILE
    if not path.exists():
        return []
    try:
        return [Batch(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({reason(error)}): restore it") from None


def keep_batches(folder: Path, num: int) -> None:
    """Take off what a killed writer left: entries from batch `num` on, and half a line."""
    path = folder / BATCHES_FILE
    if not path.exists():
        return
    whole = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or entry["batch"] >= num:
            break
        whole.append(line.decode())
    if path.read_bytes() != "".join(whole).encode():
        write_text_atomic(path, "".join(whole))


def _digest(records: Iterable[Record]) -> str:
    return hashlib.sha256("\n".join(record.sha256 for record in records).encode()).hexdigest()
