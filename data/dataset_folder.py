"""A generated data set on disk, and what reads any folder of records.

DIR/README.md                        dataset card
DIR/train/round_00003.parquet        accepted records of batch 3
DIR/rejected/round_00003.parquet     the batch's other samples, each with its reason
DIR/generate.json                    what was asked for, and how many batches are complete
DIR/batches.jsonl                    the ledger of complete batches (`data/batches.py`)
DIR/held_out.jsonl                   the evaluation texts that it was decontaminated against

`datasets.load_dataset("parquet", data_dir=DIR)` reads `train/` alone: a folder of that name is a
split to it, and other folders are then left out. A batch counts once generate.json says so; shards
beyond it are a killed process's, and the batch is made again. A run's `corpus/` can be read too.
"""

import json
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

from data.atomic import remove_stale, write_text_atomic
from data.batches import append_batch, batch_of, keep_batches, read_batches
from data.card import UNKNOWN, card
from data.corpus import Corpus
from data.errors import UserError
from data.json_table import read_table
from data.records import Record
from data.sealed import seal

STATE_FILE = "generate.json"
_WORDING = {"tasks.answer_in": "any", "tasks.prompt_template": "", "learner.system_prompt": ""}
SURPLUS = "surplus: enough were accepted before it"


@dataclass(frozen=True)
class Progress:
    """How far a generation got.

    Attributes:
        arguments: what was asked for, flat and JSON-able; a resumed one must ask for the same.
        weights: fingerprints of learner and critic.
        versions: of the libraries, and the commit.
        status: "open", "interrupted", "exhausted", "failed" or "complete".
        batches: number of complete batches.
        licences: of "models" and of "sources", each by name.
    """

    arguments: Mapping[str, object]
    weights: Mapping[str, str]
    versions: Mapping[str, str]
    status: str = "open"
    batches: int = 0
    accepted: int = 0
    rejected: int = 0
    licences: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class DatasetFolder:
    """The files of one data set; one writer at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.accepted, self.rejected = Corpus(path / "train"), Corpus(path / "rejected")

    def records(self) -> Iterator[Record]:
        """Every record, the accepted ones first."""
        return chain(self.accepted.records(), self.rejected.records())

    def is_empty(self) -> bool:
        """Whether there is nothing here yet.

        Raises:
            UserError: the path is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: give --out a directory")
        return not self.path.exists() or not any(self.path.iterdir())

    def progress(self) -> Progress | None:
        """What generate.json says; None where there is none.

        Raises:
            UserError: it cannot be read.
        """
        path = self.path / STATE_FILE
        if not path.exists():
            return None
        try:
            return Progress(**read_table(path))  # type: ignore[arg-type]
        except (UserError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): generate into another --out") from None

    def save(self, progress: Progress) -> None:
        """Write generate.json."""
        write_text_atomic(self.path / STATE_FILE, json.dumps(asdict(progress), indent=2) + "\n")

    def clean_up(self, progress: Progress) -> None:
        """Remove what a killed writer left: temporary files, and shards of its open batch.

        Raises:
            UserError: shards of complete batches are missing or changed.
        """
        for corpus in (self.accepted, self.rejected):
            for number in corpus.rounds():
                if number >= progress.batches:
                    corpus.path_of(number).unlink()
            if corpus.directory.is_dir():
                remove_stale(corpus.directory)
        remove_stale(self.path)
        keep_batches(self.path, progress.batches)
        self.require_whole(progress)

    def require_whole(self, progress: Progress) -> None:
        """Refuse a data set that lacks records of complete batches.

        Raises:
            UserError: shards of complete batches are missing or changed.
        """
        found = {"accepted": _count(self.accepted), "rejected": _count(self.rejected)}
        counted = {"accepted": progress.accepted, "rejected": progress.rejected}
        if found != counted:
            raise UserError(
                f"{self.path} holds {found}, but its {STATE_FILE} counts {counted}: restore its "
                "shards, or generate into another --out"
            )

    def missing(self, progress: Progress) -> list[str]:
        """What is not as its complete batches were written, one line each; shards are read."""
        found = []
        entries = read_batches(self.path)
        for entry in entries[: progress.batches]:
            shards = [corpus.shard(entry.batch) for corpus in (self.accepted, self.rejected)]
            written, lost = (entry.accepted, entry.rejected), False
            for corpus, shard, num in zip(
                (self.accepted, self.rejected), shards, written, strict=True
            ):
                if len(shard) != num:
                    path, lost = corpus.path_of(entry.batch).relative_to(self.path.absolute()), True
                    had = f"holds {len(shard)} records" if shard else "is lost"
                    found.append(f"{path} {had}: {num} were written")
            if not lost and batch_of(entry.batch, *shards) != entry:
                found.append(f"batch {entry.batch} was changed after it was written")
        if entries and len(entries) < progress.batches:
            found.append(
                f"batches.jsonl has {len(entries)} batches, generate.json {progress.batches}"
            )
        return found

    def reopen(self, progress: Progress) -> Progress:
        """Take back the last batch if enough was accepted before its end: it will be made again.

        So a set that grows gets what a set of its new size would have.
        """
        last = progress.batches - 1
        good, bad = self.accepted.shard(last), self.rejected.shard(last)
        if not any(record.reject_reason == SURPLUS for record in bad):
            return progress
        before = replace(
            progress, batches=last, accepted=progress.accepted - len(good),
            rejected=progress.rejected - len(bad), status="open",
        )  # fmt: skip
        self.save(before)
        self.clean_up(before)
        return before

    def commit(self, records: Sequence[Record], progress: Progress) -> Progress:
        """Store one batch as a whole; returns the progress after it."""
        good = [record for record in records if record.accepted]
        bad = [record for record in records if not record.accepted]
        after = replace(
            progress, batches=progress.batches + 1, accepted=progress.accepted + len(good),
            rejected=progress.rejected + len(bad),
        )  # fmt: skip
        for corpus, kept in ((self.rejected, bad), (self.accepted, good)):
            if kept:
                corpus.store(progress.batches, kept)
        append_batch(self.path, batch_of(progress.batches, good, bad))
        self.save(after)
        return after

    def write_card(self, title: str = "") -> None:
        """Write the dataset card of everything here; its title is the folder's name by default."""
        progress, name = self.progress(), title or self.path.resolve().name
        licences = progress.licences if progress is not None else {}
        text = card(
            self.records(), title=name, data_files="train/round_*.parquet", request=STATE_FILE,
            models=licences.get("models"), sources=licences.get("sources"), batches="batch",
            loads_accepted=True,
        )  # fmt: skip
        write_text_atomic(self.path / "README.md", text)


@dataclass(frozen=True)
class Reader:
    """Records to read, from a data set or a run's corpus.

    Attributes:
        dialect: how solutions are written; "" where nothing says.
        timeout_seconds: the verifiers' deadline they were made with.
        answer_in: where a free solution's answer is read.
        prompt_template: the wording of problems; "" where it is the dialect's own.
        system_prompt: the learner's; "" for none.
    """

    path: Path
    corpora: tuple[Corpus, ...]
    dialect: str
    timeout_seconds: float
    answer_in: str = "any"
    prompt_template: str = ""
    system_prompt: str = ""

    def records(self, accepted: bool | None = None) -> Iterator[Record]:
        """Yield the accepted records, then the rejected ones, or one kind of them."""
        for corpus in self.corpora:
            for record in corpus.records():
                if accepted is None or record.accepted == accepted:
                    yield record

    def require_dialect(self) -> str:
        """The dialect.

        Raises:
            UserError: nothing says which one.
        """
        if not self.dialect:
            raise UserError(
                f"nothing in {self.path} says in which dialect its solutions are: add --dialect "
                "chain or --dialect tagged"
            )
        return self.dialect


def open_records(path: Path, dialect: str = "") -> Reader:
    """Open a generated data set, a run directory's corpus, or any folder of shards.

    Raises:
        UserError: there are no records.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a directory: give what `sparring-data generate` wrote")
    folder, corpora = DatasetFolder(path), [Corpus(path)]
    progress = folder.progress()
    if progress is not None:
        corpora = [folder.accepted, folder.rejected]
        tables: Mapping[str, object] = progress.arguments
    else:
        runs = [place for place in (path, path.parent) if (place / "config.json").is_file()]
        tables = _flat(read_table(runs[0] / "config.json")) if runs else {}
        corpora += [Corpus(path / "corpus")]
    if not any(corpus.rounds() for corpus in corpora):
        raise UserError(f"{path} holds no records: give a folder of round_*.parquet shards")
    dialect = dialect or str(tables.get("tasks.dialect", ""))
    seconds = float(str(tables.get("rewards.timeout_seconds", 5.0)))
    wording = (str(tables.get(key, usual)) for key, usual in _WORDING.items())
    return Reader(path, tuple(corpora), dialect, seconds, *wording)


def joined_licences(
    parts: Iterable[Mapping[str, Mapping[str, str]]],
) -> dict[str, dict[str, str]]:
    """Licences of all parts; one that any of them knows is known."""
    joined: dict[str, dict[str, str]] = {"models": {}, "sources": {}}
    for part in parts:
        for kind, licences in part.items():
            joined[kind] |= {
                name: terms for name, terms in licences.items()
                if terms != UNKNOWN or name not in joined[kind]
            }  # fmt: skip
    return joined


def flat_arguments(tables: Mapping[str, object]) -> dict[str, object]:
    """Nested settings as one table of dotted names, as JSON gives it back."""
    return _flat(json.loads(json.dumps(tables)))


def cut_surplus(records: Sequence[Record], room: int) -> list[Record]:
    """Reject what was accepted beyond `room`, by name; nothing is dropped."""
    kept = []
    for record in records:
        if record.accepted and room == 0:
            record = seal(replace(record, accepted=False, reject_reason=SURPLUS))
        room -= record.accepted
        kept.append(record)
    return kept


def _flat(tables: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tables.items():
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}  # type: ignore[arg-type]
    return flat


def _count(corpus: Corpus) -> int:
    return sum(1 for _ in corpus.records())


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended."""
    received: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if received:
        raise KeyboardInterrupt
