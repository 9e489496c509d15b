"""A record's task, rebuilt from the record alone; its solution is read by a dialect."""

import json

from data.errors import UserError
from data.records import VERIFIER_NAMES, Generator, Record, Task, VerifierName


def task_of(record: Record) -> Task:
    """The record's task, rebuilt from the record alone.

    Raises:
        UserError: its entry is not a JSON object, or its verifier is unknown.
    """
    try:
        entry = json.loads(record.entry)
    except ValueError as error:
        raise UserError(f"its entry is not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise UserError("its entry is not a JSON object")
    return Task(
        id=record.task_id, family=record.family, question=record.prompt, reference=record.reference,
        verifier=_verifier(record.verdict_verifier), split=record.split, entry=entry,
        generator=Generator(
            name=record.generator_name, version=record.generator_version,
            seed=record.generator_seed, difficulty=record.generator_difficulty,
        ),
    )  # fmt: skip


def _verifier(name: str) -> VerifierName:
    for known in VERIFIER_NAMES:
        if known == name:
            return known
    raise UserError(f"its verifier {name!r} is unknown")
