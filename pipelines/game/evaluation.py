"""Held-out measurements of the learner: mean@k, and the likelihood of gold solutions.

All are taken at the configured temperature whatever the monitor did to the training one. Nothing
measured here ever rewards a policy. Leaves out the critic's audit (`game/audit.py`) and when what
is measured (`game/examiner.py`).

Axes: N tasks, K samples of a task.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.records import Task
from pipelines.game.bout import Bout
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Player

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Evaluation:
    """mean@k over tasks with 95% bootstrap intervals (tasks resampled).

    Attributes:
        mean: share of correct samples, averaged over tasks.
        well_formed: share of well-formed samples.
        mean_well_formed: share of correct ones among the well-formed.
        pass_at_k: share of tasks with at least one correct sample.
    """

    num_tasks: int
    num_samples: int
    mean: float
    mean_interval: tuple[float, float]
    well_formed: float
    mean_well_formed: float
    mean_well_formed_interval: tuple[float, float]
    pass_at_k: float


def play_unrewarded(
    referee: Referee, learner: Player, tasks: Sequence[Task], k: int, purpose: str
) -> list[list[Bout]]:
    """Sample k solutions per task at the configured temperature and verify them; no update."""
    temperature = referee.settings.learner.temperature
    drawn = learner.sample([referee.problem(task) for task in tasks], purpose, k, temperature)
    groups = []
    for task, samples in zip(tasks, drawn, strict=True):
        read = [(sample, *referee.read(task, sample)) for sample in samples]
        groups.append(
            [Bout(task, s, solution, verdict, None, None) for s, solution, verdict in read]
        )
    return groups


def mean_at_k(groups: Sequence[Sequence[Bout]], seed: int = 0) -> Evaluation:
    """Summarise groups of k bouts; timeouts and errors are left out of the shares."""
    correct_NK = np.array([[b.verdict.passed for b in g] for g in groups], dtype=float)
    formed_NK = np.array([[b.solution.well_formed for b in g] for g in groups], dtype=float)
    counted_NK = np.array([[b.verdict.counted for b in g] for g in groups], dtype=float)
    picks = np.random.default_rng(seed).integers(len(groups), size=(NUM_RESAMPLES, len(groups)))

    def ratio(
        numerator_NK: np.ndarray, denominator_NK: np.ndarray
    ) -> tuple[float, tuple[float, float]]:
        top_N, bottom_N = numerator_NK.sum(1), denominator_NK.sum(1)
        if bottom_N.sum() == 0:
            return math.nan, (math.nan, math.nan)
        resampled = top_N[picks].sum(1) / np.maximum(bottom_N[picks].sum(1), 1)
        low, high = np.quantile(resampled, [0.025, 0.975])
        return float(top_N.sum() / bottom_N.sum()), (float(low), float(high))

    mean, interval = ratio(correct_NK, counted_NK)
    formed_mean, formed_interval = ratio(correct_NK * formed_NK, counted_NK * formed_NK)
    return Evaluation(
        num_tasks=len(groups),
        num_samples=correct_NK.shape[1],
        mean=mean,
        mean_interval=interval,
        well_formed=float(formed_NK.mean()),
        mean_well_formed=formed_mean,
        mean_well_formed_interval=formed_interval,
        pass_at_k=float(correct_NK.any(1).mean()),
    )


def probe_nll(referee: Referee, learner: Player, tasks: Sequence[Task]) -> float:
    """Mean negative log-likelihood of gold solutions under the policy (nats/token).

    Where the dialect can write a gold solution it is scored whole, else the reference answer is.
    """
    gold = [_gold_text(referee, task, random.Random(0)) for task in tasks]
    scores = learner.score([referee.problem(task) for task in tasks], gold)
    total, count = 0.0, 0
    for logprobs in scores:
        total, count = total - math.fsum(logprobs), count + len(logprobs)
    return total / count


def _gold_text(referee: Referee, task: Task, rng: random.Random) -> str:
    if referee.dialect.name == "chain":
        return referee.dialect.write_solution(task, rng, 0.0)
    return f"<answer>{task.reference}</answer>"
