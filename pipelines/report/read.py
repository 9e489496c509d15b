"""What a report shows: a run directory read into memory, tolerantly.

Any file may be missing, cut off by a kill, or lack keys: what is not there becomes a note for the
reader, never an exception. Left out: drawing (`report/figures.py`) and the page (`report/page.py`).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UserError

Row = dict[str, object]

TRANSCRIPT_FOLDERS = ("transcripts", "samples")
TRANSCRIPT_SUFFIXES = {".jsonl", ".json", ".md", ".txt"}
DOCUMENTS = {
    "status.json": "how the run ended is unknown",
    "config.json": "the settings are unknown",
    "versions.json": "the versions are unknown",
    "summary.json": "there is no final table",
}


@dataclass(frozen=True, slots=True)
class RunData:
    """A run directory's files; `notes` says what was missing or unreadable, and what follows."""

    directory: Path
    rows: tuple[Row, ...]
    status: Row
    config: Row
    versions: Row
    summary: Row
    transcripts: tuple[Path, ...]
    notes: tuple[str, ...]

    @property
    def rounds(self) -> tuple[Row, ...]:
        """The round rows, in order."""
        found = (row for row in self.rows if row.get("kind") == "round")
        return tuple(sorted(found, key=round_of))

    def steps(self, role: str) -> tuple[Row, ...]:
        """One role's step rows, in order."""
        found = (r for r in self.rows if r.get("kind") == "step" and r.get("role") == role)
        return tuple(sorted(found, key=lambda row: (round_of(row), number(row, "step") or 0)))

    @property
    def samples_per_task(self) -> int | None:
        """The k of mean@k: as it was measured, else as it was configured."""
        for source in (table(self.summary, "before"), table(self.config, "evaluate")):
            if (k := number(source, "num_samples")) is not None:
                return int(k)
        return None

    @property
    def rounds_in_all(self) -> int | None:
        """How many rounds the run was to have."""
        rounds = number(table(self.config, "run"), "rounds")
        return None if rounds is None else int(rounds)


def read_run(directory: Path) -> RunData:
    """Read whatever a run directory holds.

    Raises:
        UserError: there is no such directory.
    """
    if not directory.is_dir():
        raise UserError(f"no run directory {directory}: give the folder that holds metrics.jsonl")
    notes: list[str] = []
    rows = _read_rows(directory / "metrics.jsonl", notes)
    tables = {
        name: _read_table(directory / name, consequence, notes)
        for name, consequence in DOCUMENTS.items()
    }
    transcripts = sorted(
        path
        for folder in TRANSCRIPT_FOLDERS
        for path in (directory / folder).rglob("*")
        if path.is_file() and path.suffix in TRANSCRIPT_SUFFIXES
    )
    if not transcripts:
        notes.append(f"No sample transcripts under {' or '.join(TRANSCRIPT_FOLDERS)}.")
    return RunData(
        directory=directory,
        rows=rows,
        status=tables["status.json"],
        config=tables["config.json"],
        versions=tables["versions.json"],
        summary=tables["summary.json"],
        transcripts=tuple(transcripts),
        notes=tuple(notes),
    )


def number(row: Mapping[str, object], key: str) -> float | None:
    """The finite number under a key; None where there is none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def table(row: Mapping[str, object], key: str) -> Row:
    """The table under a key; empty where there is none."""
    value = row.get(key)
    return {str(name): item for name, item in value.items()} if isinstance(value, dict) else {}


def round_of(row: Mapping[str, object]) -> int:
    """The round a row belongs to; 0 where it does not say."""
    return int(number(row, "round") or 0)


def series(
    rows: tuple[Row, ...], key: str, inside: str | None = None
) -> tuple[list[float], list[float]]:
    """Rounds and values of a key of round rows, where it is a number.

    Args:
        rows: round rows.
        key: the key, looked up in the row or in its table `inside`.
        inside: name of a table in the row.
    """
    found = [(round_of(row), number(table(row, inside) if inside else row, key)) for row in rows]
    pairs = [(float(x), y) for x, y in found if y is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def step_positions(steps: tuple[Row, ...]) -> Iterator[tuple[float, Row]]:
    """Place a role's steps on the axis of rounds: round r's block spans r - 1/2 to r + 1/2."""
    sizes: dict[int, int] = {}
    for row in steps:
        sizes[round_of(row)] = sizes.get(round_of(row), 0) + 1
    seen: dict[int, int] = {}
    for row in steps:
        block = round_of(row)
        yield block - 0.5 + (seen.get(block, 0) + 0.5) / sizes[block], row
        seen[block] = seen.get(block, 0) + 1


def times_of(run: RunData) -> list[tuple[int, dict[str, float]]]:
    """Each round's wall-clock seconds by stage; what no stage claims is "other".

    The parts of a block ("learner: generate") are left out, so that each second stands there once:
    the first round's also hold the run's start.
    """
    found, before = list[tuple[int, dict[str, float]]](), 0.0
    for row in run.rounds:
        stages = {
            key.removeprefix("time/"): seconds
            for key in row
            if key.startswith("time/") and ":" not in key and (seconds := number(row, key))
        }
        now = number(row, "run/seconds")
        if now is not None:
            stages["other"] = max(0.0, now - before - sum(stages.values()))
            before = now
        if stages:
            found.append((round_of(row), stages))
    return found


def _read_rows(path: Path, notes: list[str]) -> tuple[Row, ...]:
    """Rows of a JSON-lines file; the rerun of a killed round replaces its first attempt."""
    if not path.is_file():
        notes.append(f"{path.name} is missing: there is nothing to plot.")
        return ()
    rows: dict[tuple[object, ...], Row] = {}
    for line_number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        row = _parsed(line)
        if not isinstance(row, dict):
            notes.append(f"{path.name}, line {line_number} is not a JSON object and was left out.")
            continue
        name = tuple(repr(row.get(key)) for key in ("kind", "role", "round", "step"))
        anonymous = row.get("round") is None and row.get("step") is None
        rows[(line_number,) if anonymous else name] = row
    return tuple(rows.values())


def _read_table(path: Path, consequence: str, notes: list[str]) -> Row:
    if not path.is_file():
        notes.append(f"{path.name} is missing: {consequence}.")
        return {}
    value = _parsed(path.read_text(errors="replace"))
    if not isinstance(value, dict):
        notes.append(f"{path.name} is not a JSON object: {consequence}.")
        return {}
    return value


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
