"""What each method makes of one pool: accuracy per task, tokens per task, differences in pairs.

All methods draw on the same solutions and critiques, so that differences between them are paired.
A method pays for every token that it would have had generated on its own: k solutions, and their
critiques where it reads them. Samples on which the verifier timed out or failed count as wrong.
Leaves out sampling (`inference/attempts.py`, `inference/redo.py`) and the formulas
(`inference/estimates.py`).

Axes: N tasks, K attempts of a task.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from critic.critique import Critique, ParseFailure
from pipelines.inference.attempts import Attempt
from pipelines.inference.estimates import (
    Floats,
    Interval,
    at_tokens,
    best_of_k,
    bootstrap,
    budgets,
    majority_at_k,
    pass_at_k,
    share_over_tasks,
)
from pipelines.inference.redo import Standing

UNPARSED, MALFORMED = -1.0, -2.0  # ranks below every p_sound
SHUFFLED = ", shuffled critiques"

Classes = Sequence[Sequence[int | None]]  # of each task's answers


@dataclass(frozen=True)
class Pool:
    """Everything that was sampled.

    Attributes:
        attempts_NK: K criticised attempts of each task.
        classes_NK: which of their answers are the same.
        greedy_N: one attempt of each task at temperature 0; empty where not asked for.
        rounds: what stands after 0, 1, ... redos, all tasks in one row; empty without a critic.
        redone_classes_NK: which answers are the same after the last redo.
        shuffled_rounds: `rounds` with shuffled critiques; empty without the control.
    """

    attempts_NK: Sequence[Sequence[Attempt]]
    classes_NK: Classes
    greedy_N: Sequence[Attempt] = ()
    rounds: Sequence[Sequence[Standing]] = ()
    redone_classes_NK: Classes = ()
    shuffled_rounds: Sequence[Sequence[Standing]] = ()

    @property
    def num_samples(self) -> int:
        """K."""
        return len(self.attempts_NK[0])


@dataclass(frozen=True)
class MethodRow:
    """One method at one budget.

    Attributes:
        method: its name.
        samples: solutions of each task that it looks at.
        redos: the most redos of each.
        accuracy: share of tasks solved, expected over the pool.
        learner_tokens: generated per task.
        critic_tokens: generated per task.
        minus_majority: accuracy minus that of majority voting with as many tokens in all; None
            where no budget of majority voting spends as many.
        minus_shuffled: accuracy minus that with shuffled critiques, where that is a control.
    """

    method: str
    samples: int
    redos: int
    accuracy: Interval
    learner_tokens: float
    critic_tokens: float
    minus_majority: Interval | None = None
    minus_shuffled: Interval | None = None

    @property
    def tokens(self) -> float:
        """Generated per task, the learner's and the critic's."""
        return self.learner_tokens + self.critic_tokens


@dataclass(frozen=True)
class Quality:
    """What became of some attempts.

    Attributes:
        name: which attempts.
        num: how many.
        masked: on which the verifier timed out or failed; they count as wrong.
        malformed: solutions that break their form.
        critiques: that were made of them.
        unparsed: critiques that break their form.
    """

    name: str
    num: int
    masked: int
    malformed: int
    critiques: int
    unparsed: int


@dataclass(frozen=True)
class _Point:
    method: str
    samples: int
    redos: int
    values_N: Floats
    learner_tokens: float
    critic_tokens: float = 0.0

    @property
    def tokens(self) -> float:
        return self.learner_tokens + self.critic_tokens


def method_rows(pool: Pool, seed: int = 0) -> list[MethodRow]:
    """Every method at every budget that the pool can serve.

    Args:
        pool: the samples.
        seed: of the bootstrap and of the shuffled critiques.
    """
    majority = _majority(pool)
    points = [*_singles(pool), *_pass(pool), *majority]
    if pool.rounds:
        points += [*_best_of(pool, None), *_redo(pool, pool.rounds, ""), *_redo_and_vote(pool)]
        if pool.shuffled_rounds:
            points += _best_of(pool, random.Random(seed))
            points += _redo(pool, pool.shuffled_rounds, SHUFFLED)
    curve = [(point.tokens, point.values_N) for point in majority]
    controls = {(p.method, p.samples, p.redos): p.values_N for p in points}
    rows = []
    for point in points:
        reads_critiques = point.critic_tokens > 0
        majority_N = at_tokens(curve, point.tokens) if reads_critiques else None
        control_N = controls.get((point.method + SHUFFLED, point.samples, point.redos))
        row = MethodRow(
            method=point.method,
            samples=point.samples,
            redos=point.redos,
            accuracy=share_over_tasks(point.values_N, seed),
            learner_tokens=point.learner_tokens,
            critic_tokens=point.critic_tokens,
            minus_majority=_difference(point.values_N, majority_N, seed),
            minus_shuffled=_difference(point.values_N, control_N, seed),
        )
        rows.append(row)
    return rows


def quality(name: str, attempts: Sequence[Attempt]) -> Quality:
    """Count what became of attempts."""
    critiques = [a.critique for a in attempts if a.critique is not None]
    return Quality(
        name=name,
        num=len(attempts),
        masked=sum(not a.verdict.counted for a in attempts),
        malformed=sum(not a.solution.well_formed for a in attempts),
        critiques=len(critiques),
        unparsed=sum(isinstance(critique, ParseFailure) for critique in critiques),
    )


def _difference(ours_N: Floats, theirs_N: Floats | None, seed: int) -> Interval | None:
    return None if theirs_N is None else bootstrap(ours_N - theirs_N, seed)


def _passed(attempts: Sequence[Attempt]) -> list[bool]:
    return [attempt.verdict.passed for attempt in attempts]


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers))


def _learner_tokens(pool: Pool) -> float:
    """Mean tokens of one solution."""
    return _mean([a.learner_tokens for group in pool.attempts_NK for a in group])


def _per_task(pool: Pool, value: Callable[[Sequence[Attempt]], float]) -> Floats:
    return np.array([value(group) for group in pool.attempts_NK])


def _singles(pool: Pool) -> list[_Point]:
    mean_N = _per_task(pool, lambda group: _mean(_passed(group)))
    points = [_Point(f"mean@{pool.num_samples}", 1, 0, mean_N, _learner_tokens(pool))]
    if pool.greedy_N:
        greedy_N = np.array(_passed(pool.greedy_N), dtype=np.float64)
        spent = _mean([attempt.learner_tokens for attempt in pool.greedy_N])
        points.insert(0, _Point("greedy", 1, 0, greedy_N, spent))
    return points


def _pass(pool: Pool) -> list[_Point]:
    num = pool.num_samples
    return [
        _Point(
            "pass@k", k, 0, _per_task(pool, lambda g, k=k: pass_at_k(num, sum(_passed(g)), k)),
            k * _learner_tokens(pool),
        )
        for k in budgets(num)
    ]  # fmt: skip


def _majority(pool: Pool) -> list[_Point]:
    pairs = list(zip(pool.classes_NK, map(_passed, pool.attempts_NK), strict=True))
    return [
        _Point(
            "majority", k, 0, np.array([majority_at_k(*pair, k) for pair in pairs]),
            k * _learner_tokens(pool),
        )
        for k in budgets(pool.num_samples)
    ]  # fmt: skip


def _best_of(pool: Pool, shuffle: random.Random | None) -> list[_Point]:
    """The solution with the highest p_sound of two or more; shuffled, another's p_sound."""
    every = [attempt for group in pool.attempts_NK for attempt in group]
    well_formed = [index for index, a in enumerate(every) if a.solution.well_formed]
    ranks = [_rank(every[index]) for index in well_formed]
    if shuffle is not None:
        shuffle.shuffle(ranks)
    scores = dict(zip(well_formed, ranks, strict=True))
    num, critic_tokens = pool.num_samples, _mean([a.critic_tokens for a in every])
    points = []
    for k in [k for k in budgets(num) if k > 1]:
        values = []
        for n, group in enumerate(pool.attempts_NK):
            own = [scores.get(n * num + j, MALFORMED) for j in range(num)]
            values.append(best_of_k(own, _passed(group), k))
        spent = k * _learner_tokens(pool), k * critic_tokens
        name = "best of k" + (SHUFFLED if shuffle is not None else "")
        points.append(_Point(name, k, 0, np.array(values), *spent))
    return points


def _rank(attempt: Attempt) -> float:
    return attempt.critique.p_sound if isinstance(attempt.critique, Critique) else UNPARSED


def _redo(pool: Pool, rounds: Sequence[Sequence[Standing]], suffix: str) -> list[_Point]:
    """One solution, redone at most r times."""
    points = []
    for redos, standing in enumerate(rounds[1:], start=1):
        values = np.array(_passed([s.attempt for s in standing]), dtype=np.float64)
        values_N = values.reshape(-1, pool.num_samples).mean(1)
        points.append(_Point(f"redo{suffix}", 1, redos, values_N, *_spent(standing)))
    return points


def _redo_and_vote(pool: Pool) -> list[_Point]:
    """Majority voting over solutions that were each redone."""
    if len(pool.rounds) < 2 or pool.num_samples < 2:
        return []
    num, standing = pool.num_samples, pool.rounds[-1]
    passed = _passed([s.attempt for s in standing])
    pairs = [
        (classes, passed[n * num : (n + 1) * num])
        for n, classes in enumerate(pool.redone_classes_NK)
    ]
    learner_tokens, critic_tokens = _spent(standing)
    return [
        _Point(
            "redo, then majority", k, len(pool.rounds) - 1,
            np.array([majority_at_k(*pair, k) for pair in pairs]),
            k * learner_tokens, k * critic_tokens,
        )
        for k in budgets(num)[1:]
    ]  # fmt: skip


def _spent(standing: Sequence[Standing]) -> tuple[float, float]:
    """Mean tokens of one solution with its redos, the learner's and the critic's."""
    return _mean([s.learner_tokens for s in standing]), _mean([s.critic_tokens for s in standing])
