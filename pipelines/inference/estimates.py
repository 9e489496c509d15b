"""Estimates from a pool of n solutions per task: pass@k, majority, best-of-k, and intervals.

Every estimate of a method that looks at k solutions is its mean over all subsets of size k of the
pool, computed exactly, so that it is unbiased and one pool serves every k. Ties are broken evenly:
an estimate is the expectation over the tied candidates, not one draw. Pure functions; leaves out
where solutions come from.

Axes: N tasks, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from critic.resampling import unanimous

Floats = NDArray[np.float64]
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over tasks with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def pass_at_k(num: int, num_correct: int, k: int) -> float:
    """Chance that k solutions hold a correct one (arXiv:2107.03374, Eq. 1).

    1 - C(n - c, k) / C(n, k), in exact arithmetic.

    Args:
        num: n, the solutions in the pool.
        num_correct: c, the correct ones among them.
        k: 1 to n.
    """
    _check(num, k)
    return float(1 - Fraction(math.comb(num - num_correct, k), math.comb(num, k)))


def best_of_k(scores: Sequence[float], correct: Sequence[bool], k: int) -> float:
    """Chance that the best-scored of k solutions is correct; tied ones are equally likely.

    The best of a subset has score s in C(up to s, k) - C(below s, k) of the subsets, and is then
    each of the solutions scored s with the same chance.
    """
    num = len(scores)
    _check(num, k)
    total = Fraction(0)
    for score in set(scores):
        below = sum(other < score for other in scores)
        tied = [right for other, right in zip(scores, correct, strict=True) if other == score]
        subsets = math.comb(below + len(tied), k) - math.comb(below, k)
        total += Fraction(subsets * sum(tied), len(tied))
    return float(total / math.comb(num, k))


def majority_at_k(answers: Sequence[int | None], correct: Sequence[bool], k: int) -> float:
    """Chance that the most frequent answer of k solutions is correct; ties are broken evenly.

    Args:
        answers: the class of each solution's answer; None votes for nothing.
        correct: whether each solution is; within a class (the verifier may have timed out on some)
            the share of correct ones counts.
        k: 1 to n. A subset without any answer is wrong.
    """
    _check(len(answers), k)
    votes = {name: 0 for name in answers if name is not None}
    right = dict.fromkeys(votes, 0)
    for name, is_right in zip(answers, correct, strict=True):
        if name is not None:
            votes[name] += 1
            right[name] += is_right
    silent = sum(name is None for name in answers)
    total = Fraction(0)
    for name in votes:
        if right[name]:
            others = tuple(sorted(num for other, num in votes.items() if other != name))
            wins = _expected_wins(votes[name], others, silent, k)
            total += wins * Fraction(right[name], votes[name])
    return float(total / math.comb(len(answers), k))


@lru_cache(maxsize=65536)
def _expected_wins(own: int, others: tuple[int, ...], silent: int, k: int) -> Fraction:
    """Number of k-subsets in which a class of `own` wins; a tie of t classes counts 1 / t."""
    total = Fraction(0)
    for votes in range(1, min(own, k) + 1):
        # ways[rest, ties]: choices among the others of `rest` solutions, `ties` classes at `votes`
        ways = {(j, 0): math.comb(silent, j) for j in range(min(silent, k - votes) + 1)}
        for size in others:
            following: dict[tuple[int, int], int] = {}
            for (rest, ties), num in ways.items():
                for j in range(min(size, votes, k - votes - rest) + 1):
                    place = rest + j, ties + (j == votes)
                    following[place] = following.get(place, 0) + num * math.comb(size, j)
            ways = following
        for (rest, ties), num in ways.items():
            if rest == k - votes:
                total += Fraction(math.comb(own, votes) * num, ties + 1)
    return total


def budgets(num: int) -> tuple[int, ...]:
    """The values of k that are reported: powers of two up to n, and n."""
    return tuple(sorted({2**e for e in range(num.bit_length()) if 2**e <= num} | {num}))


def bootstrap(values_N: Sequence[float] | Floats, seed: int = 0) -> Interval:
    """Mean over tasks and its 95% percentile interval, the tasks resampled.

    The resamples follow from the seed and the number of tasks alone, so that differences between
    methods on the same tasks are paired.
    """
    per_task_N = np.asarray(values_N, dtype=np.float64)
    assert per_task_N.ndim == 1 and per_task_N.size, "one value per task, at least one task"
    rng, num = np.random.default_rng(seed), per_task_N.size
    counts_RN = rng.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES)
    low, high = np.quantile(counts_RN @ per_task_N / num, [0.025, 0.975])
    return Interval(float(per_task_N.mean()), float(low), float(high))


def share_over_tasks(values_N: Floats, seed: int = 0) -> Interval:
    """As `bootstrap`, of shares; where all tasks agree on 0 or 1, with the exact bound of N tasks.

    Resampling tasks that all agree shows no spread, but 8 of 8 does not mean always.
    """
    found = bootstrap(values_N, seed)
    end = round(found.value)
    if not np.allclose(values_N, end):
        return found
    return Interval(found.value, *unanimous(end, len(values_N)))


def at_tokens(points: Sequence[tuple[float, Floats]], tokens: float) -> Floats | None:
    """Each task's value of a method when it spends so many tokens.

    Between two budgets the method is mixed: drawing the larger one with the right chance spends
    exactly `tokens` on average, and scores the mean. None outside of the budgets.

    Args:
        points: mean tokens per task, ascending, with the values per task [N].
        tokens: mean tokens per task.
    """
    for (less, low_N), (more, high_N) in zip(points, [*points[1:], points[-1]], strict=True):
        if less <= tokens <= more:
            share = (tokens - less) / (more - less) if more > less else 0.0
            return (1 - share) * low_N + share * high_N
    return None


def _check(num: int, k: int) -> None:
    assert 1 <= k <= num, f"k must lie in 1 to {num}, got {k}"
