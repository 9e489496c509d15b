"""`sparring-data verify`: every record judged again by rule, from its own entry."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from data.dataset_folder import Reader
from data.errors import UserError
from data.records import (
    Record,
    identity,
    record_digest,
    signature,
)
from pipelines.synthesis.rebuild import dialect_of, read_solution, task_of
from rewards.solution import Dialect
from rewards.verifiers import Verifiers


@dataclass(frozen=True)
class Difference:
    """A record that is not what it says it is."""

    id: str
    why: str


def verify_records(reader: Reader) -> Iterator[Difference]:
    """Judge every record again by rule, from its own entry and reference; yield what differs.

    A record whose verifier once timed out or failed has no verdict to repeat and is passed over.
    """
    parser, ids = dialect_of(reader), set[str]()
    with closing(Verifiers(reader.timeout_seconds)) as verifiers:
        for record in reader.records():
            why = "its id occurs twice" if record.id in ids else ""
            ids.add(record.id)
            why = why or _difference(record, parser, verifiers)
            if why:
                yield Difference(record.id, why)


def _difference(record: Record, parser: Dialect, verifiers: Verifiers) -> str:
    """What about a record does not hold, or ""."""
    if record.sha256 != record_digest(record):
        return "its contents do not match its sha256"
    try:
        task_id = identity(record.family, record.prompt, parser.shown)
    except UserError as error:
        return str(error)
    if record.task_id != task_id:
        return "its task_id is not that of its problem"
    if record.signature != signature(record.prompt, record.solution):
        return "its signature is not that of its problem and solution"
    if record.accepted and record.verdict_outcome != "correct":
        return f"it was accepted with verdict {record.verdict_outcome}"
    if record.verdict_outcome in ("timeout", "error"):
        return ""
    solution = read_solution(record, parser)
    if solution.answer != record.answer:
        return f"its solution now reads as {solution.answer!r}, not {record.answer!r}"
    try:
        outcome = verifiers.verify(task_of(record), solution).outcome
    except UserError as error:
        return str(error)
    said = record.verdict_outcome
    return "" if outcome == said else f"the verifier now says {outcome}, not {said}"
