"""What the loop passes around and what it keeps: tasks, splits and corpus records.

Everything here is frozen and built from plain values, so that it survives JSON, Parquet and a
process boundary unchanged. Left out: where tasks come from (`data.sources`), what admits and
stores records (`data.corpus`).
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Literal, Protocol, get_args

from data.columns import Column, columns_of

Split = Literal["train", "audit", "probe", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

VerifierName = Literal[
    "puzzle", "math", "exact", "numeric", "json_schema", "regex", "code", "composite"
]
VERIFIER_NAMES: tuple[VerifierName, ...] = get_args(VerifierName)

# What a question comes to when a dialect renders it; None where the dialect passes it over.
Shown = Callable[[str], str | None]
# Whether the context holds what a task's roles are asked, with their longest replies.
Fits = Callable[["Task"], bool]

LabelSource = Literal["rule", "consensus", "human"]

DEFAULT_SHARES: Mapping[Split, float] = {"train": 0.85, "audit": 0.05, "probe": 0.05, "test": 0.05}


@dataclass(frozen=True, kw_only=True)
class Generator:
    """What produced a task, in enough detail to produce it again.

    Attributes:
        name: the generator's name, such as `reasoning_gym/basic_arithmetic` or a file name.
        version: its release, or a hash of the file it read.
        seed: the seed it ran with.
        difficulty: its parameters as JSON text, or "".
    """

    name: str
    version: str
    seed: int
    difficulty: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One problem with its reference answer; build it with `make_task`.

    Attributes:
        id: `identity` of the question, which also fixes the split.
        reference: the gold answer.
        entry: what the verifier needs besides, JSON-able: the reasoning-gym entry, or parameters
            (`data/verifier_parameters.py`).
    """

    id: str
    family: str
    question: str
    reference: str
    verifier: VerifierName
    split: Split
    entry: dict[str, object] = field(hash=False)
    generator: Generator


@dataclass(frozen=True, kw_only=True)
class SampledWith:
    """How a completion was sampled."""

    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class CritiqueNote:
    """One critique as the corpus keeps it.

    Attributes:
        critic_hash: fingerprint of the critic's weights.
        content: the critique as written.
        meta_check: what checking its claims by code found, such as "confirmed".
    """

    critic_hash: str
    content: str
    meta_check: str


class JudgedOutcome(Protocol):
    """The part of a verdict that a record keeps (`rewards.verdict.Verdict` has it)."""

    @property
    def verifier(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def outcome(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Record:
    """One judged solution, flat: a row of the corpus. Build it with `make_record`.

    Attributes:
        id: identity of this sample: its task, solution, learner and sampling seed.
        task_id: the task that it solves.
        parents: ids of the records that it descends from.
        generator_difficulty: the generator's parameters as JSON text, or "".
        prompt: the task's question, before any dialect renders it.
        answer: the answer read from the solution; None where there is none.
        reference: the task's gold answer; with `entry` it lets anyone verify the sample again.
        entry: the task's entry as JSON text, "{}" if empty.
        revision_of: id of the record that this one revises, or "".
        pass_rate: share of this task's group that the verifier passed; None if it had no group.
        signature: `signature(prompt, solution)`, the key of exact deduplication.
        contamination: "" if unchecked or clean, else what it overlaps with.
        reject_reason: "" iff accepted.
        sha256: `record_digest` of every other field.
    """

    id: str
    task_id: str
    parents: tuple[str, ...]
    family: str
    generator_name: str
    generator_version: str
    generator_seed: int
    generator_difficulty: str
    prompt: str
    solution: str
    answer: str | None
    reference: str
    entry: str
    verdict_verifier: str
    verdict_version: str
    verdict_outcome: str
    critiques: tuple[CritiqueNote, ...]
    revision_of: str
    learner_hash: str
    temperature: float
    top_p: float
    sampling_seed: int
    pass_rate: float | None
    label_source: LabelSource
    round: int
    split: Split
    signature: str
    contamination: str
    accepted: bool
    reject_reason: str
    sha256: str = ""


RECORD_COLUMNS = columns_of(Record)


def normalise(text: str) -> str:
    """Return `text` in Unicode NFC with every run of whitespace as one space, ends trimmed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def signature(*parts: str) -> str:
    """Fingerprint texts up to whitespace: 16 hex digits of SHA-256 over the normalised parts."""
    joined = "\n".join(normalise(part) for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def canonical_json(value: object) -> str:
    """Return the one JSON text of a JSON-able value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def split_of(task_id: str, shares: Mapping[Split, float] = DEFAULT_SHARES) -> Split:
    """Return the one split a task belongs to, by hash: splits are disjoint by construction.

    Args:
        task_id: the task's id.
        shares: share of every split; they sum to 1.

    Raises:
        ValueError: the shares are negative, incomplete, or do not sum to 1.
    """
    complete = set(shares) == set(SPLITS) and min(shares.values()) >= 0
    if not complete or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(
            f"shares must name exactly {', '.join(SPLITS)} and sum to 1, none negative, "
            f"got {dict(shares)}"
        )
    digest = hashlib.sha256(f"split\n{task_id}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for split in SPLITS:
        position -= shares[split]
        if position < 0:
            return split
    return max(SPLITS, key=lambda split: shares[split])  # the shares' rounding error


def identity(family: str, question: str, shown: Shown | None = None) -> str | None:
    """A task's id: of what a model sees of it, so that no two splits show the same problem.

    Args:
        shown: how the question is rendered; without it, identity is that of family and question.

    Returns:
        The id, or None where the question is passed over.
    """
    if shown is None:
        return signature(family, question)
    rendered = shown(question)
    return None if rendered is None else signature(rendered)


def make_task(
    *,
    family: str,
    question: str,
    reference: str,
    verifier: VerifierName,
    generator: Generator,
    entry: dict[str, object] | None = None,
    shown: Shown | None = None,
) -> Task:
    """Build a task, whose id and split follow from `identity`.

    Raises:
        ValueError: the question is one to pass over.
    """
    task_id = identity(family, question, shown)
    if task_id is None:
        raise ValueError(f"the question {question!r:.80} is passed over: make no task of it")
    return Task(
        id=task_id,
        family=family,
        question=question,
        reference=reference,
        verifier=verifier,
        split=split_of(task_id),
        entry={} if entry is None else entry,
        generator=generator,
    )


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
        task_id=task.id,
        parents=tuple(parents),
        family=task.family,
        generator_name=origin.name,
        generator_version=origin.version,
        generator_seed=origin.seed,
        generator_difficulty=origin.difficulty,
        prompt=task.question,
        solution=solution,
        answer=answer,
        reference=task.reference,
        entry=canonical_json(task.entry),
        verdict_verifier=verdict.verifier,
        verdict_version=verdict.version,
        verdict_outcome=verdict.outcome,
        critiques=tuple(critiques),
        revision_of=revision_of,
        learner_hash=learner_hash,
        temperature=float(sampling.temperature),
        top_p=float(sampling.top_p),
        sampling_seed=sampling.seed,
        pass_rate=None if pass_rate is None else float(pass_rate),
        label_source=label_source,
        round=round,
        split=task.split,
        signature=signature(task.question, solution),
        contamination=contamination,
        accepted=not reject_reason,
        reject_reason=reject_reason,
    )
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
    """Return the SHA-256 hex digest of a record's canonical JSON, without its `sha256` field."""
    row = record_row(record)
    del row["sha256"]
    return hashlib.sha256(canonical_json(row).encode()).hexdigest()


def record_row(record: Record) -> dict[str, Any]:
    """Return the record as one row of plain JSON values, in `RECORD_COLUMNS`' order."""
    values = asdict(record)
    return {c.name: [*values[c.name]] if c.many else values[c.name] for c in RECORD_COLUMNS}


def record_from_row(row: Mapping[str, Any]) -> Record:
    """Rebuild the record that `record_row` wrote."""
    return Record(**{column.name: _value(column, row[column.name]) for column in RECORD_COLUMNS})


def _value(column: Column, stored: Any) -> Any:
    if not column.many:
        return stored
    return tuple(column.kind(**item) if is_dataclass(column.kind) else item for item in stored)
