"""Data sets of a few lines, written as `sparring-data generate` writes them, without a model."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from data.dataset_folder import DatasetFolder, Progress
from data.held_out import HeldOut, write_held_out
from data.records import Generator, Record, SampledWith, make_task
from data.sealed import ADDED_IN_2, make_record, seal
from data.shard import Shard
from rewards.answers import VERSION
from rewards.dialect import dialect
from rewards.verdict import Verdict

SETTINGS: dict[str, object] = {
    "num": 4, "seed": 0, "split": "train", "group": 1, "batch": 2, "criticised": False,
    "tasks.dialect": "free", "tasks.answer_in": "boxed", "rewards.timeout_seconds": 5.0,
}  # fmt: skip
NUMERIC = f"1 with answers {VERSION}"
WEIGHTS = {"learner": "aa"}


def sum_record(
    number: int, *, round_: int = 0, solution: str = "", reason: str = "", seed: int = 0,
    question: str = "", version: str = NUMERIC, group_passed: float = 0.5,
) -> Record:  # fmt: skip
    """A sum's solution; with a reason it is wrong and rejected."""
    task = make_task(
        family="sums", question=question or f"Add one to the number {number} now.",
        reference=str(number + 1), verifier="numeric",
        generator=Generator(name="case", version="1", seed=0, difficulty=""),
        shown=dialect("free", "boxed", "").shown,
    )  # fmt: skip
    answer = str(number + (2 if reason else 1))
    verdict = Verdict("incorrect" if reason else "correct", "numeric", version, 0.0)
    return make_record(
        task, solution=solution or f"It is \\boxed{{{answer}}}", answer=answer, verdict=verdict,
        sampling=SampledWith(temperature=1.0, top_p=1.0, seed=seed), learner_hash="aa",
        round=round_, pass_rate=group_passed, reject_reason=reason,
    )  # fmt: skip


def as_version_1(record: Record) -> Record:
    """A record as the first version of the schema sealed it."""
    return seal(replace(record, **ADDED_IN_2))


def make_shards_old(*folders: Path) -> None:
    """Give shards of records of version 1 the columns that the first version wrote."""
    for path in (path for folder in folders for path in folder.glob("round_*.parquet")):
        table = pq.read_table(path)
        assert set(table["schema_version"].to_pylist()) == {1}
        pq.write_table(table.drop_columns(list(ADDED_IN_2)), path)


def write_set(
    path: Path,
    batches: Iterable[Sequence[Record]],
    *,
    shard: Shard | None = None,
    held_out: Iterable[HeldOut] = (),
    status: str = "complete",
    weights: dict[str, str] | None = None,
    **changed: object,
) -> Path:
    """A data set of these batches; `changed` are arguments."""
    arguments = SETTINGS | changed | ({} if shard is None else {"shard": str(shard)})
    folder = DatasetFolder(path)
    progress = Progress(arguments, weights or WEIGHTS, {"torch": "2"})
    folder.save(progress)
    write_held_out(path, held_out)
    for records in batches:
        progress = folder.commit(records, progress)
    folder.save(replace(progress, status=status))
    folder.write_card()
    return path
