"""The critic's fixed audit set on disk: the same solutions judge the critic in every round."""

import json
from dataclasses import asdict
from pathlib import Path

from data.atomic import write_text_atomic
from data.records import Generator, Task
from pipelines.evaluate import AuditedSolution
from pipelines.games import Judging
from pipelines.roles import Sample


def save_audit(path: Path, solutions: list[AuditedSolution]) -> None:
    """Write the set as JSON, atomically."""
    rows = [
        {
            "task": asdict(s.item.task),
            "text": s.item.solution.text,
            "mean_logprob": s.mean_logprob,
            "num_tokens": s.num_tokens,
        }
        for s in solutions
    ]
    write_text_atomic(path, json.dumps(rows))


def load_audit(path: Path, judging: Judging) -> list[AuditedSolution]:
    """Read what `save_audit` wrote; solutions are parsed and verified again."""
    solutions = []
    for row in json.loads(path.read_text()):
        task = Task(**{**row["task"], "generator": Generator(**row["task"]["generator"])})
        solution, verdict = judging.read(task, Sample(row["text"], [], [], False))
        item = judging.item(task, solution, verdict.passed)
        solutions.append(AuditedSolution(item, row["mean_logprob"], row["num_tokens"]))
    return solutions
