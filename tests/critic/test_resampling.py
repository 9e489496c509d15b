"""Intervals over tasks: what a resample is, and what a difference may claim."""

import numpy as np
import pytest

from critic.resampling import (
    Estimate,
    change,
    estimate,
    paired_mean,
    share_estimate,
    task_counts,
    unpaired,
)


def test_a_resample_draws_as_many_tasks_as_there_are() -> None:
    counts_RN = task_counts(7, 500, seed=0)
    assert counts_RN.shape == (500, 7) and (counts_RN.sum(1) == 7).all()
    assert counts_RN.mean(0) == pytest.approx(np.ones(7), abs=0.2)
    assert (counts_RN == task_counts(7, 500, seed=0)).all()
    assert not (counts_RN == task_counts(7, 500, seed=1)).all()
    assert task_counts(0, 3).shape == (3, 0)


def test_what_is_not_defined_has_no_figure_and_no_interval() -> None:
    assert estimate(float("nan"), np.array([0.5]), 3) == Estimate(None, None)
    assert estimate(0.5, np.array([np.nan]), 3) == Estimate(0.5, None)
    assert estimate(0.5, np.array([0.5, 0.5]), 1) == Estimate(0.5, None)
    low_high = estimate(0.5, np.array([0.0, np.nan, 1.0]), 3).interval
    assert low_high == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize(
    ("interval", "lower_is_better", "verdict"),
    [
        ((0.1, 0.3), False, "better"),
        ((0.1, 0.3), True, "worse"),
        ((-0.3, -0.1), False, "worse"),
        ((-0.3, -0.1), True, "better"),
        ((-0.1, 0.3), True, "unchanged"),
        ((0.0, 0.3), True, "unchanged"),
        (None, True, "unknown"),
    ],
)
def test_a_verdict_needs_an_interval_without_0(
    interval: tuple[float, float] | None, lower_is_better: bool, verdict: str
) -> None:
    assert change(Estimate(0.2, interval), lower_is_better=lower_is_better).verdict == verdict


def test_a_paired_mean_covers_the_truth() -> None:
    """Tasks of unequal difficulty, 8 samples each before and after; the true gain is 0.1."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        easy_N = rng.uniform(0, 0.9, size=100)
        before, after = rng.binomial(8, easy_N) / 8, rng.binomial(8, easy_N + 0.1) / 8
        low, high = paired_mean(before.tolist(), after.tolist(), seed).interval
        covered += low <= 0.1 <= high
    assert covered >= 86
    assert paired_mean([], []) == Estimate(None, None)
    assert paired_mean([0.5], [1.0]) == Estimate(0.5, None)
    with pytest.raises(ValueError, match="1 tasks before and 2 after"):
        paired_mean([0.5], [0.5, 1.0])


def test_an_unpaired_difference_comes_from_the_two_intervals() -> None:
    """Two normal means with standard errors 0.03 and 0.04: that of their difference is 0.05."""
    before = Estimate(0.5, (0.5 - 1.96 * 0.03, 0.5 + 1.96 * 0.03))
    after = Estimate(0.8, (0.8 - 1.96 * 0.04, 0.8 + 1.96 * 0.04))
    found = unpaired(before, after)
    assert found.value == pytest.approx(0.3)
    assert found.interval == pytest.approx((0.3 - 1.96 * 0.05, 0.3 + 1.96 * 0.05))
    assert unpaired(before, Estimate(0.8, None)).interval is None
    assert unpaired(Estimate(None, None), after) == Estimate(None, None)


@pytest.mark.parametrize(("num_tasks", "bound"), [(2, 0.8419), (20, 0.1684), (75, 0.0480)])
def test_a_share_that_all_tasks_agree_on_is_not_certain(num_tasks: int, bound: float) -> None:
    """0 of 20: the exact (Clopper-Pearson) interval ends at 0.168, resampling's at 0."""
    agreed = np.zeros(100)
    never = share_estimate(0.0, agreed, num_tasks).interval
    always = share_estimate(1.0, agreed + 1, num_tasks).interval
    assert never == pytest.approx((0.0, bound), abs=1e-4)
    assert always == pytest.approx((1 - bound, 1.0), abs=1e-4)


def test_any_other_share_has_the_resampled_interval() -> None:
    resampled = np.linspace(0.2, 0.6, 41)
    assert share_estimate(0.4, resampled, 5) == estimate(0.4, resampled, 5)
    assert share_estimate(0.0, resampled, 1) == Estimate(0.0, None)
