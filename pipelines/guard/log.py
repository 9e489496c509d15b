"""A guarded run's files: its rows, the thresholds they were judged by, its incident.

DIRECTORY/metrics.jsonl             a row before training and one per check, as a run of ours has
DIRECTORY/monitor.json              thresholds, and how the gold tasks are sampled
DIRECTORY/status.json               running, finished or halted
DIRECTORY/incident.md incident.json of a halted run
DIRECTORY/start/                    the weights before training, where they may be asked for

Only rank 0 writes. Leaves out checkpoints, which the trainer writes.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState

from critic.monitor.incident import incident_markdown, incident_record
from critic.monitor.readings import Reading
from critic.monitor.replay import COLD_START, first_row, readings_row
from critic.monitor.settings import GOLD, MonitorSettings
from critic.monitor.state import Health, MonitorState
from data.atomic import write_text_atomic
from data.errors import UserError
from pipelines.guard.gold import Found

Readings = Mapping[str, Reading | None]


class GuardLog:
    """Writes a guarded run's files.

    Args:
        directory: theirs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metrics, self.start = directory / "metrics.jsonl", directory / "start"
        self.incident = directory / "incident.md"

    def open(self, step: int) -> list[dict]:
        """The rows up to a step, the later ones forgotten; none where a run begins.

        Raises:
            UserError: a run begins, and there are the rows of another.
        """
        rows = self.rows()
        if rows and step == 0:
            raise UserError(
                f"{self.metrics} is the log of another run: give the monitor a directory of its "
                "own, or resume that run from one of its checkpoints"
            )
        kept = [row for row in rows if row["step"] <= step]
        if PartialState().is_main_process:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_text_atomic(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def rows(self) -> list[dict]:
        """All rows; a line cut short by a kill is dropped."""
        rows = []
        for line in self.metrics.read_text().splitlines() if self.metrics.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def cold_start(
        self, found: Found, settings: MonitorSettings, conditions: dict[str, object], step: int
    ) -> None:
        """Log the reading before training, and what it is judged by."""
        table = {"conditions": conditions, "settings": settings.model_dump(mode="json")}
        self._write("monitor.json", table)
        self._append(
            {"kind": COLD_START, "round": 0, "step": step, **_probe_row(found.readings, found)}
        )

    def check(
        self, health: Health, readings: Readings, found: Found, step: int, share: float
    ) -> None:
        """Log one check.

        Args:
            share: of the run's seconds that checks took so far.
        """
        self._append({
            "kind": "round", "round": health.check, "step": step, **_probe_row(readings, found),
            "monitor/state": health.state, "monitor/alarms": list(health.alarms),
            "monitor/reasons": list(health.reasons), "monitor/actions": [],
            "monitor/seconds_share": share,
        })  # fmt: skip

    def halt(
        self,
        health: Health,
        state: MonitorState,
        found: Found,
        settings: MonitorSettings,
        advice: str,
    ) -> None:
        """Leave the incident record."""
        checks = [row["monitor/signals"] for row in self.rows() if row["kind"] == "round"]
        record = incident_record(health, state, checks, found.samples, settings)
        self._write("incident.json", record | {"advice": advice})
        if PartialState().is_main_process:
            write_text_atomic(self.incident, f"{incident_markdown(record)}\n{advice}\n")
        self.status("halted", reasons=list(health.reasons))

    def status(self, state: str, **facts: object) -> None:
        """Record how the run stands: running, finished or halted."""
        self._write("status.json", {"state": state, **facts})

    def _append(self, row: Mapping[str, object]) -> None:
        if PartialState().is_main_process:
            with self.metrics.open("a") as stream:
                stream.write(json.dumps(row, allow_nan=False) + "\n")

    def _write(self, name: str, content: object) -> None:
        if PartialState().is_main_process:
            write_text_atomic(self.directory / name, json.dumps(content, indent=2))


def _probe_row(readings: Readings, found: Found) -> dict[str, object]:
    """What a probe read, as metrics; those that cannot be judged as null."""
    readable = {name: one if one and one.is_readable else None for name, one in readings.items()}
    gold = readable[GOLD]
    row: dict[str, object] = readings_row(readable) | first_row(found.first)
    if gold is not None:
        row["probe/mean_at_k"] = gold.value
    spent = {"probe/reads": found.num_reads, "probe/tokens": found.num_tokens}
    return row | spent | {"probe/faults": dict(found.faults)}
