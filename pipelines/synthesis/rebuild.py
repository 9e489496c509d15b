"""What a record says, rebuilt from the record alone: its task, its solution, its critiques.

Leaves out whether that still holds (`synthesis/verify.py`).
"""

import json

from critic.critique import ParseFailure
from critic.format import critique_dialect
from data.dataset_folder import Reader
from data.errors import UserError
from data.records import VERIFIER_NAMES, CritiqueNote, Generator, Record, Task, VerifierName
from rewards.dialect import dialect
from rewards.solution import Dialect, Solution

TRUNCATED = "malformed: truncated"


def dialect_of(reader: Reader) -> Dialect:
    """The dialect of a reader's solutions, worded as when they were sampled.

    Raises:
        UserError: nothing says which one.
    """
    return dialect(reader.require_dialect(), reader.answer_in, reader.prompt_template)


def read_solution(record: Record, parser: Dialect) -> Solution:
    """Parse a record's solution as it was parsed when it was sampled."""
    truncated = record.reject_reason == TRUNCATED
    return parser.parse_solution(record.solution, truncated=truncated)


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


def critique_verdict(note: CritiqueNote, solution: Solution, name: str) -> str:
    """ "sound", "flawed" or "unparsed"."""
    if note.meta_check.startswith("unparsed"):
        return "unparsed"
    critique = critique_dialect(name).parse(note.content, solution, truncated=False)
    return "unparsed" if isinstance(critique, ParseFailure) else critique.verdict


def _verifier(name: str) -> VerifierName:
    for known in VERIFIER_NAMES:
        if known == name:
            return known
    raise UserError(f"its verifier {name!r} is unknown")
