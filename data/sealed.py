"""Records made and sealed with their digest, and as rows of plain values in today's columns.

    version 1   the first
    version 2   rendered, model, adapter, max_new_tokens, schema_version

A record of an earlier version is read with what its version had, keeps its version and its digest,
and has no value where a later one has one. Leaves out what a record is (`data/records.py`) and
where it is kept (`data/corpus.py`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from data.columns import Column, columns_of
from data.errors import UserError
from data.records import (
    CritiqueNote,
    JudgedOutcome,
    LabelSource,
    Record,
    SampledWith,
    Task,
    canonical_json,
    signature,
)

RECORD_COLUMNS = columns_of(Record)
SCHEMA_VERSION = 2
# What version 1 lacked, and what a record of it has there.
ADDED_IN_2: Mapping[str, Any] = {
    "rendered": "", "model": "", "adapter": "", "max_new_tokens": 0, "schema_version": 1,
}  # fmt: skip


def make_record(
    task: Task,
    *,
    solution: str,
    answer: str | None,
    verdict: JudgedOutcome,
    sampling: SampledWith,
    learner_hash: str,
    round: int,
    pass_rate: float | None,
    reject_reason: str = "",
    critiques: Sequence[CritiqueNote] = (),
    contamination: str = "",
    label_source: LabelSource = "rule",
    parents: Sequence[str] = (),
    revision_of: str = "",
) -> Record:
    """Build a record and seal it with its digest.

    The arguments are `Record`'s; a `reject_reason` of "" makes the record an accepted one.

    Raises:
        ValueError: `pass_rate` lies outside [0, 1], `round` is negative, or the seed exceeds
            64 bits.
    """
    _check_ranges(pass_rate, round, sampling.seed)
    origin = task.generator
    record = Record(
        id=signature(task.id, solution, learner_hash, str(sampling.seed)),
        task_id=task.id, family=task.family, prompt=task.question, reference=task.reference,
        entry=canonical_json(task.entry), split=task.split,
        generator_name=origin.name, generator_version=origin.version,
        generator_seed=origin.seed, generator_difficulty=origin.difficulty,
        rendered=sampling.rendered, model=sampling.model, adapter=sampling.adapter,
        learner_hash=learner_hash, temperature=float(sampling.temperature),
        top_p=float(sampling.top_p), sampling_seed=sampling.seed,
        max_new_tokens=sampling.max_new_tokens,
        solution=solution, answer=answer, signature=signature(task.question, solution),
        verdict_verifier=verdict.verifier, verdict_version=verdict.version,
        verdict_outcome=verdict.outcome, label_source=label_source,
        pass_rate=None if pass_rate is None else float(pass_rate),
        critiques=tuple(critiques), parents=tuple(parents), revision_of=revision_of, round=round,
        contamination=contamination, accepted=not reject_reason, reject_reason=reject_reason,
        schema_version=SCHEMA_VERSION,
    )  # fmt: skip
    return seal(record)


def _check_ranges(pass_rate: float | None, round: int, sampling_seed: int) -> None:
    if pass_rate is not None and not 0 <= pass_rate <= 1:
        raise ValueError(f"pass_rate must lie in [0, 1], got {pass_rate}: give passes / counted")
    if round < 0:
        raise ValueError(f"round must be 0 or more, got {round}")
    if not -(2**63) <= sampling_seed < 2**63:
        raise ValueError(f"sampling.seed must fit in 64 signed bits, got {sampling_seed}")


def seal(record: Record) -> Record:
    """Return the record with the digest of its present contents (call it after any `replace`)."""
    return replace(record, sha256=record_digest(record))


def record_digest(record: Record) -> str:
    """Return the SHA-256 hex digest of a record's canonical JSON, without its `sha256` field.

    A record of version 1 keeps the digest that it was sealed with, without what came later.
    """
    row = record_row(record)
    del row["sha256"]
    if record.schema_version == 1:
        row = {n: v for n, v in row.items() if n not in ADDED_IN_2 or v != ADDED_IN_2[n]}
    return hashlib.sha256(canonical_json(row).encode()).hexdigest()


def record_row(record: Record) -> dict[str, Any]:
    """Return the record as one row of plain JSON values, in `RECORD_COLUMNS`' order."""
    values = asdict(record)
    return {c.name: [*values[c.name]] if c.many else values[c.name] for c in RECORD_COLUMNS}


def record_from_row(row: Mapping[str, Any]) -> Record:
    """Rebuild the record that `record_row` wrote, in this version of the schema or an earlier one.

    Raises:
        UserError: it is of a later version.
    """
    if "schema_version" not in row:
        row = {**ADDED_IN_2, **row}
    if row["schema_version"] > SCHEMA_VERSION:
        raise UserError(
            f"record {row['id']} is of schema {row['schema_version']}, and this version of "
            f"Sparring reads schemas up to {SCHEMA_VERSION}: update it"
        )
    return Record(**{column.name: _value(column, row[column.name]) for column in RECORD_COLUMNS})


def _value(column: Column, stored: Any) -> Any:
    if not column.many:
        return stored
    return tuple(column.kind(**item) if is_dataclass(column.kind) else item for item in stored)
