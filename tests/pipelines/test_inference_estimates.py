"""The estimates against enumeration over every subset and every way to break a tie."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference.estimates import (
    at_tokens,
    best_of_k,
    bootstrap,
    budgets,
    majority_at_k,
    pass_at_k,
    share_over_tasks,
)

SOLUTIONS = st.lists(
    st.tuples(st.sampled_from([None, 0, 1, 2]), st.sampled_from([-1.0, 0.25, 0.75]), st.booleans()),
    min_size=1, max_size=7,
)  # fmt: skip


def over_subsets(num: int, k: int, value) -> float:  # type: ignore[no-untyped-def]
    """Mean of a value over every choice of k of n places."""
    found = [value(places) for places in combinations(range(num), k)]
    return sum(found) / len(found)


def vote(answers: Sequence[int | None], correct: Sequence[bool], places: Sequence[int]) -> float:
    """What one subset's vote earns: each tied answer, and each of its solutions, equally likely."""
    votes = Counter(answers[i] for i in places if answers[i] is not None)
    tied = [name for name, num in votes.items() if num == max(votes.values())]
    shares = [np.mean([correct[i] for i in places if answers[i] == name]) for name in tied]
    return float(np.mean(shares)) if shares else 0.0


@given(SOLUTIONS, st.data())
def test_every_estimate_is_the_mean_over_all_subsets(
    pool: list[tuple[int | None, float, bool]], data: st.DataObject
) -> None:
    answers, scores, correct = (list(column) for column in zip(*pool, strict=True))
    num, k = len(pool), data.draw(st.integers(1, len(pool)))
    passed = over_subsets(num, k, lambda places: any(correct[i] for i in places))
    assert pass_at_k(num, sum(correct), k) == pytest.approx(passed, abs=1e-12)

    def best(places: Sequence[int]) -> float:
        top = max(scores[i] for i in places)
        return float(np.mean([correct[i] for i in places if scores[i] == top]))

    assert best_of_k(scores, correct, k) == pytest.approx(over_subsets(num, k, best), abs=1e-12)
    expected = over_subsets(num, k, lambda places: vote(answers, correct, places))
    assert majority_at_k(answers, correct, k) == pytest.approx(expected, abs=1e-12)


@given(SOLUTIONS)
def test_one_solution_earns_its_share_and_no_choice_beats_pass_at_k(
    pool: list[tuple[int | None, float, bool]],
) -> None:
    answers, scores, correct = (list(column) for column in zip(*pool, strict=True))
    share = sum(correct) / len(pool)
    assert pass_at_k(len(pool), sum(correct), 1) == pytest.approx(share)
    assert best_of_k(scores, correct, 1) == pytest.approx(share)
    voting = [right for name, right in zip(answers, correct, strict=True) if name is not None]
    assert majority_at_k(answers, correct, 1) == pytest.approx(sum(voting) / len(pool))
    for k in budgets(len(pool)):
        bound = pass_at_k(len(pool), sum(correct), k) + 1e-12
        assert best_of_k(scores, correct, k) <= bound
        assert majority_at_k(answers, correct, k) <= bound


def test_a_large_pool_is_exact_and_quick() -> None:
    """64 solutions, 10 classes: C(64, 32) subsets."""
    answers = [i % 10 for i in range(64)]
    found = majority_at_k(answers, [name == 0 for name in answers], 32)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        votes = np.bincount(rng.permutation(answers)[:32], minlength=10)
        drawn.append((votes[0] == votes.max()) / (votes == votes.max()).sum())
    assert found == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / math.sqrt(len(drawn)))
    assert pass_at_k(200, 1, 100) == 0.5


def test_budgets_end_with_the_whole_pool() -> None:
    assert [budgets(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    """60 tasks, of which each is solved with chance 0.3, 400 times: 95% within four errors."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        found = bootstrap(rng.random(60) < 0.3)
        covered.append(found.low <= 0.3 <= found.high)
    error = math.sqrt(0.95 * 0.05 / 400)
    assert 0.95 - 4 * error < np.mean(covered) <= 0.95 + 3 * error
    constant = bootstrap([0.25] * 9)
    assert (constant.low, constant.value, constant.high) == pytest.approx((0.25,) * 3)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0] * 8, 0.631, 1.0),
        ([0.0], 0.0, 0.975),
        ([0.5] * 4, 0.5, 0.5),
        ([1 - 1e-16] * 8, 0.631, 1.0),
    ],
)
def test_tasks_that_all_agree_leave_room_for_others(
    values: list[float], low: float, high: float
) -> None:
    """8 of 8 was "100.0% [100.0, 100.0]": 0.025 ** (1 / 8) is 63%."""
    found = share_over_tasks(np.array(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)


def test_differences_are_paired() -> None:
    """Two methods that differ by the same amount on every task differ without any doubt."""
    values_N = np.random.default_rng(1).random(50)
    difference = bootstrap(values_N + 0.1 - values_N, seed=3)
    assert difference.low == pytest.approx(0.1) and difference.high == pytest.approx(0.1)
    apart = bootstrap(values_N + 0.1, seed=3).low - bootstrap(values_N, seed=3).low
    assert apart == pytest.approx(0.1)


def test_between_two_budgets_a_method_is_mixed() -> None:
    points = [(10.0, np.array([0.0, 1.0])), (20.0, np.array([1.0, 1.0]))]
    mixed = at_tokens(points, 12.5)
    assert mixed is not None and mixed.tolist() == [0.25, 1.0]
    ends = at_tokens(points, 10.0), at_tokens(points, 20.0)
    assert [end.tolist() for end in ends if end is not None] == [[0.0, 1.0], [1.0, 1.0]]
    assert at_tokens(points, 9.9) is None and at_tokens(points, 20.1) is None
