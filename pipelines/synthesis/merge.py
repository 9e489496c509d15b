"""`sparring-data merge`: shards of one generation as one data set.

    SHARD 1 ─┐
    SHARD 2 ─┼─► same settings, weights, verifiers? ─► duplicates, contamination ─► OUT, whole
    SHARD 3 ─┘

Shards were generated apart, so that each knows only its own records: here all pass the gates that
compare records, in the order of the shards. What these refuse is kept as rejected, with its reason;
what a shard itself rejected stays so. OUT appears when everything is in it. Leaves out generation,
and verdicts (`sparring-data verify` repeats them).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.atomic import atomic_folder
from data.dataset_folder import DatasetFolder, Progress, joined_licences
from data.dedup import DuplicateIndex
from data.errors import UserError
from data.held_out import HeldOut, contamination_of, read_held_out, write_held_out
from data.records import Record
from data.sealed import record_digest, seal
from data.shard import WHOLE, Shard, read_shard
from pipelines.synthesis.request import changes

MAY_DIFFER = ("num", "shard", "seed")  # of arguments: seeds and shards have a check of their own
ENDED = ("complete", "exhausted")


@dataclass
class Merged:
    """What became of the shards' records.

    Attributes:
        accepted: records in OUT.
        rejected: the others, which OUT keeps too.
        dropped: records that their shard had accepted, by the reason why OUT does not.
        shards: what each shard gave: its name, and its accepted records before and after.
    """

    accepted: int = 0
    rejected: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    shards: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    folder: DatasetFolder
    progress: Progress
    shard: Shard

    @property
    def name(self) -> str:
        return str(self.folder.path)


def merge(out: Path, paths: Sequence[Path], *, partial: bool = False) -> Merged:
    """Merge data sets that `generate` wrote into a new one, wholly or not at all.

    Args:
        out: directory to write, empty or not there.
        paths: the shards.
        partial: take unfinished shards, and fewer than there are.

    Raises:
        UserError: a shard is damaged or unfinished, is missing or given twice, or was made with
            other settings, weights or verifiers than the first.
    """
    if not DatasetFolder(out).is_empty():
        raise UserError(f"{out} is not empty: give another OUT")
    parts = [_open(path, partial) for path in paths]
    _require_one_generation(parts)
    _require_disjoint(parts, partial)
    _require_sound(parts)
    held_out = _held_out(parts)
    with atomic_folder(out) as unfinished:
        folder = DatasetFolder(unfinished)
        write_held_out(unfinished, held_out)
        merged = _Merging(folder, parts, held_out).run()
        folder.write_card(out.resolve().name)
    return merged


class _Merging:
    """A merge in progress."""

    def __init__(
        self, folder: DatasetFolder, parts: Sequence[_Part], held_out: Sequence[HeldOut]
    ) -> None:
        self.folder, self.parts, self.merged = folder, parts, Merged()
        self.duplicates = DuplicateIndex()
        self.contamination = contamination_of(held_out)

    def run(self) -> Merged:
        """Write every record; returns what became of them."""
        progress = Progress(
            _arguments(self.parts), self.parts[0].progress.weights, self._libraries,
            licences=joined_licences(part.progress.licences for part in self.parts),
        )  # fmt: skip
        for part in self.parts:
            before = self.merged.accepted
            for records in _batches(part):
                progress = self.folder.commit([self._judge(one) for one in records], progress)
                self.merged.accepted, self.merged.rejected = progress.accepted, progress.rejected
            kept = self.merged.accepted - before
            self.merged.shards.append(
                {"shard": part.name, "accepted": part.progress.accepted, "kept": kept}
            )
        self.folder.save(replace(progress, status="complete"))
        return self.merged

    def _judge(self, record: Record) -> Record:
        """The record as it is, or rejected by what it shares with others."""
        if not record.accepted:
            return record
        overlap = self.contamination.overlap(record.prompt)
        overlap = overlap or self.contamination.overlap(record.solution)
        why = "contaminated" if overlap else self.duplicates.find(record.prompt, record.solution)
        if not why:
            self.duplicates.add(record.prompt, record.solution)
            return record
        self.merged.dropped[why] = self.merged.dropped.get(why, 0) + 1
        return seal(replace(record, accepted=False, reject_reason=why, contamination=overlap))

    @property
    def _libraries(self) -> dict[str, str]:
        """Of all shards; several versions of one, separated by bars."""
        found: dict[str, dict[str, None]] = {}
        for part in self.parts:
            for name, version in part.progress.versions.items():
                found.setdefault(name, {})[version] = None
        return {name: " | ".join(versions) for name, versions in found.items()}


def _open(path: Path, partial: bool) -> _Part:
    if not path.is_dir():
        raise UserError(
            f"shard {path} is not a directory: give what `sparring-data generate` wrote"
        )
    folder = DatasetFolder(path)
    progress = folder.progress()
    if progress is None:
        raise UserError(f"shard {path} has no generate.json: give what `generate` wrote")
    if "merged" in progress.arguments:
        raise UserError(f"shard {path} is itself merged: give the shards that it was made of")
    if progress.status not in ENDED and not partial:
        raise UserError(
            f"shard {path} is {progress.status}, with {progress.accepted} records: finish it with "
            "--resume, or merge what there is with --partial"
        )
    folder.require_whole(progress)
    return _Part(folder, progress, read_shard(str(progress.arguments.get("shard", WHOLE))))


def _require_one_generation(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for what, before, now in (
            ("settings", _shared(first.progress), _shared(part.progress)),
            ("weights", first.progress.weights, part.progress.weights),
        ):
            changed = changes(before, now, "and")
            if changed:
                raise UserError(
                    f"shards {first.name} and {part.name} have other {what} "
                    f"({', '.join(changed)}): merge shards of one generation"
                )


def _require_disjoint(parts: Sequence[_Part], partial: bool) -> None:
    """Refuse shards that hold the same samples, and a generation that lacks one."""
    taken: dict[tuple[object, Shard], _Part] = {}
    for part in parts:
        key = part.progress.arguments.get("seed"), part.shard
        if key in taken:
            raise UserError(
                f"{taken[key].name} and {part.name} are both shard {part.shard} of seed {key[0]}: "
                "they hold the same samples; give each once"
            )
        taken[key] = part
    numbers = sorted({part.shard.of for part in parts})
    if len(numbers) > 1:
        raise UserError(
            f"shards of {' and of '.join(map(str, numbers))} parts overlap: merge those of one n"
        )
    for seed in dict.fromkeys(seed for seed, _ in taken):
        had = {shard.number for other, shard in taken if other == seed}
        lost = [str(Shard(n, numbers[0])) for n in range(1, numbers[0] + 1) if n not in had]
        if lost and not partial:
            raise UserError(
                f"shards {', '.join(lost)} of seed {seed} are missing: give them, or merge the "
                "others with --partial"
            )


def _require_sound(parts: Sequence[_Part]) -> None:
    """Refuse edited records, and verdicts of one verifier's several versions."""
    versions: dict[str, tuple[str, str]] = {}
    for part in parts:
        for record in part.folder.records():
            if record.sha256 != record_digest(record):
                raise UserError(
                    f"shard {part.name}: record {record.id} was edited (its sha256 is another's): "
                    "generate the shard again"
                )
            name, version = record.verdict_verifier, record.verdict_version
            first, where = versions.setdefault(name, (version, part.name))
            if first != version:
                raise UserError(
                    f'verifier {name} judged {where} in version "{first}", {part.name} in '
                    f'"{version}": generate both with one version'
                )


def _held_out(parts: Sequence[_Part]) -> list[HeldOut]:
    """The evaluation texts of all shards."""
    texts: dict[HeldOut, None] = {}
    for part in parts:
        found = read_held_out(part.folder.path)
        if found is None:
            raise UserError(
                f"shard {part.name} has no held_out.jsonl, so that nothing says which texts are "
                "evaluated on: generate it again"
            )
        texts |= dict.fromkeys(found)
    return list(texts)


def _batches(part: _Part) -> Iterator[list[Record]]:
    for number in range(part.progress.batches):
        yield [*part.folder.accepted.shard(number), *part.folder.rejected.shard(number)]


def _shared(progress: Progress) -> Mapping[str, object]:
    return {key: value for key, value in progress.arguments.items() if key not in MAY_DIFFER}


def _arguments(parts: Sequence[_Part]) -> dict[str, object]:
    """What OUT was asked for: what its shards were, and which they are."""
    merged = [
        {"seed": part.progress.arguments.get("seed"), "shard": str(part.shard)} for part in parts
    ]
    num = sum(int(str(part.progress.arguments.get("num", 0))) for part in parts)
    return {**_shared(parts[0].progress), "num": num, "merged": merged}
