"""What a person reads of a round: console lines, metrics rows, transcripts.

Leaves out the table at the end (`run/summary.py`) and the page (`report/`).
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from critic.critique import Critique, ParseFailure
from critic.monitor.decide import Readings
from critic.monitor.replay import COLD_START, readings_row
from critic.monitor.state import Health
from data.atomic import write_text_atomic
from data.records import Record
from pipelines.game.bout import Bout
from pipelines.game.examiner import Probe
from pipelines.game.gate import reject_counts
from pipelines.rollouts.stage_seconds import StageSeconds
from pipelines.run.directory import RunDirectory
from pipelines.run.progress import Progress
from rewards.proof import Proof, table

NUM_TRANSCRIPTS = 24
ROUND_STAGES = (
    *(
        "proposals",
        "learner block",
        "critic block",
        "gate",
        "feedback",
        "probe and audit",
        "monitor",
        "evaluation",
    ),
    "commit",
)
BLOCK_STAGES = ("generate", "sync", "verify", "critique", "confirm", "update")
Row = Mapping[str, object]


class Stages(StageSeconds):
    """Wall-clock seconds by stage, over the whole run.

    Args:
        on_begin: is given each stage's name when it begins.
    """

    def __init__(self, on_begin: Callable[[str], None] = lambda stage: None) -> None:
        super().__init__()
        self._on_begin = on_begin
        self._taken: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what happens within the block to a stage, blocks of the roles included."""
        start = time.perf_counter()
        self._on_begin(stage)
        yield
        self[stage] += time.perf_counter() - start

    def take_round(self) -> dict[str, float]:
        """Seconds by stage since the previous call, to the millisecond."""
        fresh = {name: round(s - self._taken.get(name, 0.0), 3) for name, s in self.items()}
        self._taken = dict(self)
        return {name: seconds for name, seconds in fresh.items() if seconds > 0}

    def state_dict(self) -> dict[str, object]:
        """What a later process needs to go on."""
        return dict(self)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Add what earlier processes of this run spent."""
        for name, spent in state.items():
            self[name] += spent
        self._taken = dict(self)


class RoundLog:
    """Takes each optimizer step's row as it comes, and writes it.

    Args:
        directory: whose metrics it appends to.
        stages: get the seconds inside the blocks.
        progress: hears when something is said.
    """

    def __init__(
        self, directory: RunDirectory, stages: Stages, progress: Progress | None = None
    ) -> None:
        self.directory, self.stages = directory, stages
        self.progress = progress or Progress()
        self.round = 0

    def begin(self, round_: int) -> None:
        """A round begins."""
        self.round = round_

    def note(self, step: Row) -> None:
        """Log one optimizer step."""
        row = {"round": self.round, **step}
        self.directory.log(row)
        for stage in BLOCK_STAGES:
            self.stages[f"{row['role']}: {stage}"] += number(row, f"time/{stage}", 0.0)
        self._say(console_line(row))

    def remark(self, text: str) -> None:
        """Log something that a reader of the metrics should know."""
        self.directory.log({"kind": "note", "round": self.round, "note": text})

    def announce(self, text: str) -> None:
        """Log something that a person should see at once, too."""
        self.remark(text)
        self._say(text)

    def _say(self, text: str) -> None:
        if self.directory.is_main:
            tqdm.write(text)
            sys.stdout.flush()  # a log file is read while the run goes on
            self.progress.heard()

    def show_proofs(self, proofs: Sequence[Proof]) -> None:
        """Keep in verifiers.json, and print, how the verifiers did before the run."""
        self.directory.write_json("verifiers.json", [proof.row() for proof in proofs])
        if proofs:
            self._say(table(proofs))


def number(row: Row, key: str, absent: float = float("nan")) -> float:
    """A row's figure."""
    value = row.get(key, absent)
    assert isinstance(value, int | float), f"{key} = {value!r} is not a number"
    return float(value)


def console_line(row: Row) -> str:
    """One optimizer step in one line.

    Of one that imitates the nats per token of what it imitates: its replies all earn 1.
    """
    numbers = {
        "imitation nll": row.get("imitation/nll"),
        "reward": row.get("reward/mean"),
        "passed": row.get("reward/pass_rate"),
        "entropy": row.get("rollout/token_entropy"),
        "length": row.get("rollout/mean_length"),
        "logprob gap": row.get("rollout/mismatch_max"),
    }
    if row.get("block") == "imitation":
        del numbers["reward"]
    shown = "  ".join(
        f"{name} {value:.3g}" for name, value in numbers.items() if isinstance(value, float)
    )
    parts = [k for k in row if k.startswith("time/") and k != "time/step" and k.count("/") == 1]
    seconds = sum(number(row, key) for key in parts)
    return f"round {row['round']}  {row['role']:<7} step {row['step']:>4}  {shown}  {seconds:.1f} s"


def round_row(
    round_: int,
    probe: Probe,
    health: Health,
    readings: Readings,
    records: Sequence[Record],
) -> dict[str, object]:
    """The metrics row of a finished round: its examination, the monitor's verdict, the gate."""
    return {
        "kind": "round",
        "round": round_,
        **probe.row(),
        "monitor/state": health.state,
        **readings_row(readings),
        "monitor/alarms": list(health.alarms),
        "monitor/reasons": list(health.reasons),
        "monitor/actions": [a.model_dump() for a in health.actions],
        "gate/admitted": sum(r.accepted for r in records),
        "gate/rejected": reject_counts(records),
    }


def cold_start_row(probe: Probe, readings: Readings) -> dict[str, object]:
    """The metrics row of the examination before the first round."""
    return {"kind": COLD_START, "round": 0, **probe.row(), **readings_row(readings)}


def transcript(bout: Bout) -> dict[str, object]:
    """One bout as a person reads it."""
    judged = bout.judged
    critique = None if judged is None else judged.critique
    return {
        "task": bout.task.id,
        "question": bout.task.question,
        "reference": bout.task.reference,
        "solution": bout.solution.text,
        "begun_with": bout.prefix,
        "defect": bout.solution.defect,
        "outcome": bout.verdict.outcome,
        "reward": bout.reward,
        "pointing": None if bout.pointing is None else asdict(bout.pointing),
        "critique": None if judged is None else judged.text,
        "critique_failure": critique.reason if isinstance(critique, ParseFailure) else None,
        "critic_says": critique.verdict if isinstance(critique, Critique) else None,
        "p_sound": None if judged is None else judged.p_sound,
        "claims": [] if judged is None else [f"{c.flaw.step}: {c.status}" for c in judged.claims],
        "steps": [[step.start, step.end] for step in bout.solution.steps],
        "marks": _marks(bout),
    }


def _marks(bout: Bout) -> list[dict[str, object]]:
    """Who called which step wrong, and what testing that found."""
    pointing, judged = bout.pointing, bout.judged
    places = {step.id: index for index, step in enumerate(bout.solution.steps)}
    marks: list[dict[str, object]] = []
    if pointing is not None:
        marks.append(
            {"step": pointing.index, "by": pointing.source, "found": pointing.status,
             "should_be": pointing.right_step}
        )  # fmt: skip
    for claim in () if judged is None else judged.claims:
        if claim.flaw.step in places:
            marks.append(
                {"step": places[claim.flaw.step], "by": "critic's claim", "found": claim.status,
                 "should_be": claim.flaw.payload or None}
            )  # fmt: skip
    return marks


def write_transcripts(directory: Path, round_: int, bouts: Sequence[Bout]) -> None:
    """Keep some bouts of a round, spread evenly over it."""
    every = max(1, len(bouts) // NUM_TRANSCRIPTS)
    lines = [json.dumps(transcript(bout)) for bout in bouts[::every][:NUM_TRANSCRIPTS]]
    folder = directory / "transcripts"
    folder.mkdir(exist_ok=True)
    write_text_atomic(folder / f"round_{round_:05d}.jsonl", "\n".join(lines) + "\n")
