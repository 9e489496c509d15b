"""What the loop passes around and what it keeps: tasks, splits and corpus records.

Everything here is frozen and built from plain values, so that it survives JSON, Parquet and a
process boundary unchanged. Left out: where tasks come from (`data.sources`), how records are
made and sealed (`data.sealed`), what admits and stores them (`data.corpus`).
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

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
    """What a completion was sampled with, so that the same weights can sample it again.

    Attributes:
        seed: the completion's own.
        rendered: the prompt as the policy was given it: its tokens as text, special ones included.
            A server renders a conversation itself; what it was sent is here, as canonical JSON: the
            messages, in a table with `chat_template_kwargs` where there were any.
        model: what the model is called: a hub id, or its folder's name without its place.
        adapter: what the LoRA adapter on it is called; "" for none.
        max_new_tokens: the most tokens of the completion; 0 where that is not known.
    """

    temperature: float
    top_p: float
    seed: int
    rendered: str = ""
    model: str = ""
    adapter: str = ""
    max_new_tokens: int = 0


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
    """One judged solution, flat: a row of the corpus. Build it with `data.sealed.make_record`.

    Attributes:
        id: identity of this sample: its task, solution, learner and sampling seed.
        task_id: the task that it solves.
        parents: ids of the records that it descends from.
        generator_difficulty: the generator's parameters as JSON text, or "".
        prompt: the task's question, before any dialect renders it.
        rendered: the prompt as the policy was given it, as in `SampledWith`; where it begins the
            solution, the sample is the rest.
        answer: the answer read from the solution; None where there is none.
        reference: the task's gold answer; with `entry` it lets anyone verify the sample again.
        entry: the task's entry as JSON text, "{}" if empty.
        revision_of: id of the record that this one revises, or "".
        model: what the model is called, as in `SampledWith`, and so `adapter`.
        learner_hash: fingerprint of the weights that sampled it, the adapter's included.
        pass_rate: share of this task's group that the verifier passed; None if it had no group.
        signature: `signature(prompt, solution)`, the key of exact deduplication.
        contamination: "" if unchecked or clean, else what it overlaps with.
        reject_reason: "" iff accepted.
        schema_version: of the record; it has these columns as of `SCHEMA_VERSION`.
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
    rendered: str
    solution: str
    answer: str | None
    reference: str
    entry: str
    verdict_verifier: str
    verdict_version: str
    verdict_outcome: str
    critiques: tuple[CritiqueNote, ...]
    revision_of: str
    model: str
    adapter: str
    learner_hash: str
    temperature: float
    top_p: float
    sampling_seed: int
    max_new_tokens: int
    pass_rate: float | None
    label_source: LabelSource
    round: int
    split: Split
    signature: str
    contamination: str
    accepted: bool
    reject_reason: str
    schema_version: int
    sha256: str = ""


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
