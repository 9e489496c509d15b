"""Audit metrics against scikit-learn, closed forms and hand-made critics."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from critic.calibration import audit, auroc, class_balance

ITEMS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=1, max_size=40)


@given(items=ITEMS)
def test_auroc_and_brier_agree_with_sklearn(items: list[tuple[int, int]]) -> None:
    scores, labels = [bucket / 9 for bucket, _ in items], [label for _, label in items]
    nothing = [None] * len(items)
    report = audit(scores, labels, nothing, nothing, num_resamples=10)
    assert report.brier == pytest.approx(brier_score_loss(labels, scores, labels=[0, 1]))
    if len(set(labels)) == 2:
        assert report.auroc == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert report.auroc is None and report.auroc_interval is None


@given(items=ITEMS, seed=st.integers(0, 9))
def test_a_report_ignores_the_order_of_items(items: list[tuple[int, int]], seed: int) -> None:
    shuffled = items.copy()
    random.Random(seed).shuffle(shuffled)
    reports = []
    for order in (items, shuffled):
        scores, labels = [bucket / 9 for bucket, _ in order], [label for _, label in order]
        pred = ["a" if bucket < 5 else None for bucket, _ in order]
        true = [None if label else "a" for label in labels]
        reports.append(audit(scores, labels, pred, true, num_resamples=1))
    first, second = reports
    assert first.ece == pytest.approx(second.ece)
    assert (first.auroc, first.first_flaw_f1) == (second.auroc, second.first_flaw_f1)


def test_a_perfect_critic() -> None:
    labels = [1, 0] * 10
    flaws = [None if label else "c" for label in labels]
    report = audit(labels, labels, flaws, flaws)
    assert (report.auroc, report.auroc_interval, report.ece, report.brier) == (1, (1, 1), 0, 0)
    assert (report.first_flaw_accuracy, report.first_flaw_f1) == (1, 1)
    assert (report.hallucinated_flaw_rate, report.num, report.num_sound) == (0, 20, 10)


def test_first_flaws() -> None:
    report = audit(
        [0.9, 0.2, 0.1, 0.1, 0.9, 0.1],
        [1, 1, 0, 0, 0, 0],
        [None, "a", "c", "b", None, "d"],
        [None, None, "c", "c", "a", None],  # the last flaw's place is unknown: not counted
    )
    assert report.hallucinated_flaw_rate == 0.5
    assert report.first_flaw_accuracy == pytest.approx(1 / 3)
    assert report.first_flaw_f1 == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))


def test_calibration_error_of_a_constant_critic() -> None:
    labels = [1, 0, 0, 0]
    assert audit([0.95] * 4, labels, [None] * 4, [None] * 4).ece == pytest.approx(0.7)
    assert audit([0.25] * 4, labels, [None] * 4, [None] * 4).ece == pytest.approx(0.0)
    # Opposite errors in different bins do not cancel.
    assert audit([0.05, 1.0], [1, 0], [None] * 2, [None] * 2).ece == pytest.approx(0.975)


def test_the_interval_covers_the_truth_and_is_reproducible() -> None:
    """Normal scores one standard deviation apart have AUROC Phi(1/sqrt 2) = 0.760."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(20):
        labels = [1] * 60 + [0] * 60
        scores = 1 / (1 + np.exp(-(rng.normal(size=120) + labels)))
        nothing = [None] * 120
        report = audit(scores.tolist(), labels, nothing, nothing, num_resamples=200, seed=seed)
        again = audit(scores.tolist(), labels, nothing, nothing, num_resamples=200, seed=seed)
        assert report == again and report.auroc_interval is not None
        low, high = report.auroc_interval
        assert low < high
        covered += low <= 0.760 <= high
    assert covered >= 16


def test_any_score_can_be_a_baseline() -> None:
    assert auroc([-30.0, -50.0, -10.0], [1, 0, 1]) == 1.0
    assert auroc([7.0, 7.0], [1, 0]) == 0.5
    assert auroc([7.0], [1]) is None


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "at least one item"),
        ([0.5], [1, 0], "1 scores and 2 labels"),
        ([0.5], [2], r"labels must be 0 or 1, got \[2\]"),
        ([float("nan")], [1], "scores must be finite"),
    ],
)
def test_bad_items_are_refused(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auroc(scores, labels)


def test_an_audit_wants_probabilities_and_full_columns() -> None:
    with pytest.raises(ValueError, match=r"p_sound must lie in \[0, 1\]"):
        audit([1.5], [1], [None], [None])
    with pytest.raises(ValueError, match="one entry for each of 1 items, got 0 and 1"):
        audit([0.5], [1], [], [None])


@given(items=st.lists(st.integers(0, 30), max_size=40), seed=st.integers(0, 9))
def test_class_balance(items: list[int], seed: int) -> None:
    kept = class_balance(list(enumerate(items)), lambda item: item[1] % 3, random.Random(seed))
    sizes = {label: sum(item % 3 == label for item in items) for label in {i % 3 for i in items}}
    smallest = min(sizes.values(), default=0)
    assert kept == sorted(kept)
    for label in sizes:
        assert sum(item % 3 == label for _, item in kept) == smallest
