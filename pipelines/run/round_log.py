"""What a person reads: console lines, metrics rows, transcripts, and the final table."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from critic.critique import ParseFailure
from critic.monitor.state import Health
from data.atomic import write_text_atomic
from data.records import Record
from pipelines.game.bout import Bout
from pipelines.game.gate import reject_counts
from pipelines.run.monitoring import Probe
from pipelines.training.trainer import RoleTrainer

NUM_TRANSCRIPTS = 24
ROUND_STAGES = ("learner block", "critic block", "gate", "probe and audit", "monitor", "commit")


class Stages:
    """Wall-clock seconds by stage, over the whole run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._reported: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def restore(self, seconds: Mapping[str, float]) -> None:
        """Add what earlier processes of this run spent."""
        for name, spent in seconds.items():
            self.add(name, spent)
        self._reported = dict(self.seconds)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def since_last_round(self) -> dict[str, float]:
        """Seconds by stage since the previous call."""
        fresh = {n: round(s - self._reported.get(n, 0.0), 3) for n, s in self.seconds.items()}
        self._reported = dict(self.seconds)
        return {name: seconds for name, seconds in fresh.items() if seconds > 0}


def console_line(row: Mapping[str, object]) -> str:
    """One optimizer step in one line."""
    numbers = {
        "reward": row.get("reward/mean"),
        "entropy": row.get("rollout/token_entropy"),
        "length": row.get("rollout/mean_length"),
        "logprob gap": row.get("rollout/mismatch_max"),
    }
    shown = "  ".join(
        f"{name} {value:.3g}" for name, value in numbers.items() if isinstance(value, float)
    )
    parts = [k for k in row if k.startswith("time/") and k != "time/step" and k.count("/") == 1]
    seconds = sum(float(str(row[key])) for key in parts)
    return f"round {row['round']}  {row['role']:<7} step {row['step']:>4}  {shown}  {seconds:.1f} s"


def round_row(
    round_: int,
    probe: Probe,
    health: Health,
    readings: Mapping[str, float | None],
    candidates: Sequence[Record],
    learner: RoleTrainer,
    stages: Stages,
) -> dict[str, object]:
    """The metrics row of a finished round."""
    row: dict[str, object] = {
        "kind": "round",
        "round": round_,
        "probe/mean_at_8": probe.evaluation.mean,
        "probe/well_formed": probe.evaluation.well_formed,
        "probe/nll": probe.nll,
        "monitor/state": health.state,
        "monitor/signals": dict(readings),
        "monitor/reasons": list(health.reasons),
        "monitor/actions": [a.model_dump() for a in health.actions],
        "gate/admitted": sum(r.accepted for r in candidates),
        "gate/rejected": reject_counts(candidates),
    }
    if probe.audit is not None:
        row |= {"critic/auroc": probe.audit.report.auroc, "critic/ece": probe.audit.report.ece}
        row |= {"critic/first_flaw_accuracy": probe.audit.report.first_flaw_accuracy}
        row |= {"critic/parsed": probe.audit.parsed}
    if learner.expert_load:
        row["moe/load"] = [load_E.tolist() for load_E in learner.expert_load.values()]
        learner.expert_load = {}
    if learner.sync is not None:
        row["rollout/probe_difference"] = learner.sync.probe_difference
    return row | {f"time/{name}": seconds for name, seconds in stages.since_last_round().items()}


def transcript(bout: Bout) -> dict[str, object]:
    """One bout as a person reads it."""
    judged = bout.judged
    return {
        "task": bout.task.id,
        "question": bout.task.question,
        "reference": bout.task.reference,
        "solution": bout.sample.text,
        "defect": bout.solution.defect,
        "outcome": bout.verdict.outcome,
        "reward": bout.reward,
        "critique": None if judged is None else judged.text,
        "critique_failure": judged.critique.reason
        if judged and isinstance(judged.critique, ParseFailure)
        else None,
        "claims": [] if judged is None else [f"{c.flaw.step}: {c.status}" for c in judged.claims],
    }


def write_transcripts(directory: Path, round_: int, bouts: Sequence[Bout]) -> None:
    """Keep some bouts of a round, spread evenly over it."""
    every = max(1, len(bouts) // NUM_TRANSCRIPTS)
    lines = [json.dumps(transcript(bout)) for bout in bouts[::every][:NUM_TRANSCRIPTS]]
    folder = directory / "transcripts"
    folder.mkdir(exist_ok=True)
    write_text_atomic(folder / f"round_{round_:05d}.jsonl", "\n".join(lines) + "\n")
