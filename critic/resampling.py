"""95% intervals that resample whole tasks: what belongs to one task is drawn together.

The solutions of a task and the critiques of a solution resemble each other, so a task counts as one
observation. Every figure measured here is a function of sums over tasks, so that a resample is a
vector of counts. Leaves out which figures there are (`critic/calibration.py` has the critic's).

Axes: R resamples, N tasks, C sums.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Verdict = Literal["better", "worse", "unchanged", "unknown"]
NUM_RESAMPLES = 1000
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; None where the items do not define it, or too few tasks do."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Change:
    """After minus before, with its interval.

    Attributes:
        verdict: "worse" or "better" where the interval leaves out 0, "unknown" where there is none.
    """

    value: float | None
    interval: Interval | None
    verdict: Verdict


def task_counts(num_tasks: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Floats:
    """How often each task is drawn in each resample. Shape [R, N]; every row sums to N."""
    if num_tasks == 0:
        return np.zeros((num_resamples, 0))
    picks_RN = np.random.default_rng(seed).integers(num_tasks, size=(num_resamples, num_tasks))
    rows_RN = np.arange(num_resamples)[:, None] * num_tasks + picks_RN
    counts = np.bincount(rows_RN.ravel(), minlength=num_resamples * num_tasks)
    return counts.reshape(num_resamples, num_tasks).astype(np.float64)


def estimate(value: float, resampled_R: Floats, num_tasks: int) -> Estimate:
    """A figure with its percentile interval; NaN is "not defined".

    One task has no spread to resample, and gets no interval.
    """
    known = resampled_R[np.isfinite(resampled_R)]
    if not math.isfinite(value):
        return Estimate(None, None)
    if num_tasks < 2 or not known.size:
        return Estimate(value, None)
    low, high = np.quantile(known, QUANTILES)
    return Estimate(value, (float(low), float(high)))


def share_estimate(value: float, resampled_R: Floats, num_tasks: int) -> Estimate:
    """As `estimate`, for a share; where all tasks agree on 0 or 1, with the exact bound of N tasks.

    Resampling tasks that all agree shows no spread, but 0 of 20 does not mean never.
    """
    found = estimate(value, resampled_R, num_tasks)
    if found.interval is None or value not in (0.0, 1.0):
        return found
    return Estimate(value, unanimous(value, num_tasks))


def unanimous(value: float, num_tasks: int) -> Interval:
    """The exact interval of a share that is 0, or 1, in each of so many tasks."""
    miss = 1 - QUANTILES[0] ** (1 / num_tasks)
    return (0.0, miss) if value == 0 else (1 - miss, 1.0)


def change(found: Estimate, *, lower_is_better: bool) -> Change:
    """Judge a difference (after minus before) by its interval."""
    if found.value is None or found.interval is None:
        return Change(found.value, None, "unknown")
    low, high = found.interval
    if low <= 0 <= high:
        return Change(found.value, found.interval, "unchanged")
    verdict: Verdict = "worse" if (low > 0) == lower_is_better else "better"
    return Change(found.value, found.interval, verdict)


def unpaired(before: Estimate, after: Estimate) -> Estimate:
    """The difference of two figures of different items, from their intervals alone.

    The method of variance estimates recovery (Zou & Donner, Statistics in Medicine 2008).
    """
    if before.value is None or after.value is None:
        return Estimate(None, None)
    difference = after.value - before.value
    if before.interval is None or after.interval is None:
        return Estimate(difference, None)
    (low_b, high_b), (low_a, high_a) = before.interval, after.interval
    down = math.hypot(after.value - low_a, high_b - before.value)
    up = math.hypot(high_a - after.value, before.value - low_b)
    return Estimate(difference, (difference - down, difference + up))


def paired_mean(before_N: Sequence[float], after_N: Sequence[float], seed: int = 0) -> Estimate:
    """The mean difference over tasks measured twice.

    Raises:
        ValueError: the lengths differ.
    """
    if len(before_N) != len(after_N):
        raise ValueError(
            f"{len(before_N)} tasks before and {len(after_N)} after: a pair needs both"
        )
    differences_N = np.asarray(after_N, dtype=np.float64) - np.asarray(before_N, dtype=np.float64)
    num = len(differences_N)
    if num == 0:
        return Estimate(None, None)
    resampled_R = task_counts(num, seed=seed) @ differences_N / num
    return estimate(float(differences_N.mean()), resampled_R, num)
