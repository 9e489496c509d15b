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

from critic.resampling import Estimate, Floats, Interval, share_estimate, task_counts
from data.records import Task
from pipelines.game.bout import Bout
from pipelines.game.referee import Referee
from pipelines.rollouts.sample import Examinee


@dataclass(frozen=True)
class Evaluation:
    """mean@k over tasks with 95% bootstrap intervals (tasks resampled).

    Attributes:
        mean: share of correct samples; a masked one counts as wrong.
        well_formed: share of well-formed samples.
        mean_well_formed: share of correct ones among the well-formed; None where none is.
        pass_at_k: share of tasks with at least one correct sample.
        num_masked: samples that the verifier reached no judgement on (timeouts, errors).
        correct_by_task: how many samples of each task are correct.
    """

    num_tasks: int
    num_samples: int
    mean: float
    mean_interval: Interval | None
    well_formed: float
    mean_well_formed: float | None
    mean_well_formed_interval: Interval | None
    pass_at_k: float
    num_masked: int
    correct_by_task: tuple[int, ...]

    def row(self) -> dict[str, object]:
        """The figures as one flat table."""
        return {
            "mean_at_k": self.mean,
            "mean_at_k_interval": self.mean_interval,
            "mean_well_formed": self.mean_well_formed,
            "mean_well_formed_interval": self.mean_well_formed_interval,
            "well_formed": self.well_formed,
            "pass_at_k": self.pass_at_k,
            "masked_samples": self.num_masked,
            "num_tasks": self.num_tasks,
            "num_samples": self.num_samples,
        }


@dataclass(frozen=True)
class RolloutFigures:
    """What the rule says of a round's training rollouts.

    Attributes:
        pass_rate: share of correct ones; a masked one counts as wrong. None without rollouts.
        num_masked: those that the verifier reached no judgement on.
    """

    pass_rate: float | None
    num_masked: int


def play_unrewarded(
    referee: Referee, learner: Examinee, tasks: Sequence[Task], k: int, purpose: str
) -> list[list[Bout]]:
    """Sample k solutions per task at the configured temperature and verify them; no update."""
    temperature = referee.settings.learner.temperature
    drawn = learner.sample([referee.problem(task) for task in tasks], purpose, k, temperature)
    flat = [(task, s, "") for task, samples in zip(tasks, drawn, strict=True) for s in samples]
    read = zip(flat, referee.read_all(flat), strict=True)
    bouts = [Bout(task, sample, *judged, None, None) for (task, sample, _), judged in read]
    return [bouts[first : first + k] for first in range(0, len(bouts), k)]


def mean_at_k(groups: Sequence[Sequence[Bout]], seed: int = 0) -> Evaluation:
    """Summarise groups of k bouts; a sample that could not be judged counts as wrong.

    Raises:
        ValueError: there is no group, or one is empty.
    """
    if not groups or not all(groups):
        raise ValueError("mean@k needs at least one task, and samples of each")
    correct_NK = np.array([[b.verdict.passed for b in g] for g in groups], dtype=float)
    formed_NK = np.array([[b.solution.well_formed for b in g] for g in groups], dtype=float)
    counts_RN = task_counts(len(groups), seed=seed)

    def ratio(top_N: Floats, bottom_N: Floats) -> Estimate:
        bottom_R = counts_RN @ bottom_N
        resampled_R = np.where(bottom_R > 0, counts_RN @ top_N, np.nan) / np.maximum(bottom_R, 1)
        value = top_N.sum() / bottom_N.sum() if bottom_N.any() else math.nan
        return share_estimate(float(value), resampled_R, int((bottom_N > 0).sum()))

    correct_N = correct_NK.sum(1)
    everything = ratio(correct_N, np.ones_like(correct_NK).sum(1))
    formed = ratio((correct_NK * formed_NK).sum(1), formed_NK.sum(1))
    assert everything.value is not None, "there are samples"
    return Evaluation(
        num_tasks=len(groups),
        num_samples=correct_NK.shape[1],
        mean=everything.value,
        mean_interval=everything.interval,
        well_formed=float(formed_NK.mean()),
        mean_well_formed=formed.value,
        mean_well_formed_interval=formed.interval,
        pass_at_k=float(correct_NK.any(1).mean()),
        num_masked=sum(not b.verdict.counted for g in groups for b in g),
        correct_by_task=tuple(int(num) for num in correct_N),
    )


def rollout_figures(bouts: Sequence[Bout]) -> RolloutFigures:
    """The pass rate of a round's rollouts, and how many of them were masked.

    Those that begin within an earlier solution are left out of the rate.
    """
    whole = [bout for bout in bouts if not bout.prefix]
    passed = sum(bout.verdict.passed for bout in whole)
    masked = sum(not bout.verdict.counted for bout in bouts)
    return RolloutFigures(passed / len(whole) if whole else None, masked)


def gold_logprobs(referee: Referee, learner: Examinee, tasks: Sequence[Task]) -> list[list[float]]:
    """Log-likelihoods under the policy of each token of the gold solutions, in nats.

    Where the dialect can write a gold solution it is scored whole, else the reference answer is.
    """
    gold = [_gold_text(referee, task, random.Random(0)) for task in tasks]
    return learner.score([referee.problem(task) for task in tasks], gold)


def mean_nll(logprobs: Sequence[Sequence[float]]) -> float:
    """Mean negative log-likelihood per token, in nats: every token weighs the same."""
    return -math.fsum(map(math.fsum, logprobs)) / sum(map(len, logprobs))


def _gold_text(referee: Referee, task: Task, rng: random.Random) -> str:
    if referee.dialect.name == "chain":
        return referee.dialect.write_solution(task, rng, 0.0)
    return f"<answer>{task.reference}</answer>"
