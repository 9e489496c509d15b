"""The critic's audit: a fixed set of solutions, on disk, that judges the critic in every round."""

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from critic.calibration import AuditReport, audit, auroc, class_balance
from critic.critique import Critique
from data.atomic import write_text_atomic
from data.records import Generator, Task
from pipelines.game.bout import Bout, CritiqueItem
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Player, Sample


@dataclass(frozen=True)
class AuditedSolution:
    """A solution for the critic's audit, with the scores of the two baselines."""

    item: CritiqueItem
    mean_logprob: float
    num_tokens: int


@dataclass(frozen=True)
class CriticAudit:
    """The critic's report and the AUROC of what it must beat."""

    report: AuditReport
    parsed: float
    length_auroc: float | None
    logprob_auroc: float | None


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


def load_audit(path: Path, referee: Referee) -> list[AuditedSolution]:
    """Read what `save_audit` wrote; solutions are parsed and verified again."""
    solutions = []
    for row in json.loads(path.read_text()):
        task = Task(**{**row["task"], "generator": Generator(**row["task"]["generator"])})
        solution, verdict = referee.read(task, Sample(row["text"], [], [], False))
        item = referee.item(task, solution, verdict.passed)
        solutions.append(AuditedSolution(item, row["mean_logprob"], row["num_tokens"]))
    return solutions


def audit_set(
    referee: Referee, groups: Sequence[Sequence[Bout]], seed: int
) -> list[AuditedSolution]:
    """Class-balanced, distinct, well-formed, untruncated solutions from unrewarded bouts."""
    distinct = {
        (b.task.id, b.solution.text): b for group in groups for b in group if b.solution.well_formed
    }
    found = [
        AuditedSolution(
            referee.item(b.task, b.solution, b.verdict.passed),
            math.fsum(b.sample.logprobs) / len(b.sample.logprobs),
            len(b.sample.token_ids),
        )
        for b in distinct.values()
        if b.verdict.outcome in ("correct", "incorrect")
    ]
    return class_balance(found, lambda solution: solution.item.sound, random.Random(seed))


def audit_critic(
    referee: Referee, critic: Player, solutions: Sequence[AuditedSolution], purpose: str
) -> CriticAudit | None:
    """Ask the critic about each solution several times; None where there is nothing to ask.

    Its p_sound is the mean over its parsed critiques (0.5 where none parses), its first flaw the
    one most of them name.
    """
    if not solutions:
        return None
    prompts = [referee.critique_prompt(s.item.task, s.item.solution) for s in solutions]
    k = referee.settings.critic.critiques_per_audit
    drawn = critic.sample(prompts, purpose, k, referee.settings.critic.temperature)
    p_sound, flaws, num_parsed = [], [], 0
    for solution, samples in zip(solutions, drawn, strict=True):
        parsed = _parsed(referee, solution.item, samples)
        num_parsed += len(parsed)
        p_sound.append(float(np.mean([c.p_sound for c in parsed])) if parsed else 0.5)
        flaws.append(_first_flaw(parsed))
    labels = [int(s.item.sound) for s in solutions]
    report = audit(p_sound, labels, flaws, [s.item.first_bad for s in solutions])
    return CriticAudit(
        report=report,
        parsed=num_parsed / (len(solutions) * k),
        length_auroc=_best_direction(auroc([-s.num_tokens for s in solutions], labels)),
        logprob_auroc=_best_direction(auroc([s.mean_logprob for s in solutions], labels)),
    )


def _best_direction(value: float | None) -> float | None:
    """A baseline may be used either way round: count it at its better."""
    return None if value is None else max(value, 1 - value)


def _parsed(referee: Referee, item: CritiqueItem, samples: Sequence[Sample]) -> list[Critique]:
    judged = (referee.check(item.task, item.solution, sample).critique for sample in samples)
    return [critique for critique in judged if isinstance(critique, Critique)]


def _first_flaw(critiques: Sequence[Critique]) -> str | None:
    named = Counter(c.flaws[0].step if c.flaws else None for c in critiques)
    return named.most_common(1)[0][0] if named else None
