"""`sparring-data verify`: every record judged again by rule, from its own entry.

Repeats what the gates decided (verdict, form, duplicates, contamination) and holds the shards
against the ledger of batches. Leaves out the critiques, whose model is not here.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from data.contamination import Contamination
from data.dataset_folder import DatasetFolder, Reader
from data.dedup import DuplicateIndex
from data.errors import UserError
from data.held_out import contamination_of, read_held_out
from data.rebuild import task_of
from data.records import Record, identity, signature
from data.sealed import record_digest
from pipelines.synthesis.rebuild import dialect_of, read_solution
from rewards.solution import Dialect
from rewards.verifiers import Verifiers


@dataclass(frozen=True)
class Difference:
    """A record that is not what it says it is."""

    id: str
    why: str


@dataclass
class Verification:
    """What verifying a data set found.

    Attributes:
        records: how many were judged.
        differing: those that do not hold.
        missing: shards that are not as they were written, one line each.
        versions: verifiers that judge in another version now: (name, then, now) and how many.
        unchecked: what could not be repeated, and why.
    """

    records: int = 0
    differing: list[Difference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    versions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unchecked: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether everything is as it says; another version that agrees changes nothing."""
        return not self.differing and not self.missing

    def lines(self) -> Iterator[str]:
        """What a person should know, one line each."""
        yield from (f"{found.id}: {found.why}" for found in self.differing)
        yield from self.missing
        for (name, before, now), num in self.versions.items():
            yield f'{name} judged {num} records in version "{before}", and is now "{now}"'
        yield from self.unchecked


def verify_records(reader: Reader) -> Verification:
    """Judge every record again by rule, from its own entry and reference.

    A record whose verifier once timed out or failed has no verdict to repeat and is passed over.

    Raises:
        UserError: a shard cannot be read, or nothing says how solutions are written.
    """
    parser, ids, found = dialect_of(reader), set[str](), Verification()
    folder = DatasetFolder(reader.path)
    progress = folder.progress()
    if progress is not None:
        found.missing = folder.missing(progress)
    contamination = _contamination(reader, found)
    firsts = {one.signature for one in reader.records() if one.reject_reason != "duplicate"}
    duplicates = DuplicateIndex()
    with closing(Verifiers(reader.timeout_seconds)) as verifiers:
        for record in reader.records():
            found.records += 1
            why = "its id occurs twice" if record.id in ids else ""
            ids.add(record.id)
            why = why or _difference(record, parser, verifiers, found.versions)
            why = why or _gate_difference(record, duplicates, contamination, firsts)
            if why:
                found.differing.append(Difference(record.id, why))
    return found


def _contamination(reader: Reader, found: Verification) -> Contamination | None:
    held_out = read_held_out(reader.path)
    if held_out is None:
        found.unchecked.append("contamination: there is no held_out.jsonl to compare with")
        return None
    return contamination_of(held_out)


def _difference(
    record: Record, parser: Dialect, verifiers: Verifiers, versions: Counter[tuple[str, str, str]]
) -> str:
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
        verdict = verifiers.verify(task_of(record), solution)
    except UserError as error:
        return str(error)
    said, was = record.verdict_outcome, record.verdict_version
    changed = "" if verdict.version == was else f" (version {was} then, {verdict.version} now)"
    if changed:
        versions[verdict.verifier, was, verdict.version] += 1
    if verdict.outcome == said:
        return ""
    return f"the verifier now says {verdict.outcome}, not {said}{changed}"


def _gate_difference(
    record: Record,
    duplicates: DuplicateIndex,
    contamination: Contamination | None,
    firsts: set[str],
) -> str:
    """What the gates that compare records would now say otherwise of one, or ""."""
    reason = record.reject_reason
    if reason.startswith("verifier: ") and reason != f"verifier: {record.verdict_outcome}":
        return f"it was rejected by its {reason}, with verdict {record.verdict_outcome}"
    if reason == "duplicate" and record.signature not in firsts:
        return "it was rejected as a duplicate, and no other record is like it"
    if not record.accepted:
        return ""
    if again := duplicates.find(record.prompt, record.solution):
        return f"it is accepted, and a {again.replace('_', ' ')} of another accepted record"
    duplicates.add(record.prompt, record.solution)
    if contamination is None:
        return ""
    overlap = contamination.overlap(record.prompt) or contamination.overlap(record.solution)
    return f"it is accepted, and shares with an evaluation text: {overlap}" if overlap else ""
