"""Is the critic right, for the right reason, and as sure as it should be?

Measures a critic on audited items: AUROC with a bootstrap interval, expected calibration error,
Brier score, whether it finds the first flaw, and how often it invents one. A baseline, such as
solution length, is just another score given to `auroc`. Leaves out sampling the critic and the
thresholds that act on these numbers.
"""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NUM_BINS = 10


@dataclass(frozen=True)
class AuditReport:
    """How good a critic is on `num` items; None where the items do not define a metric.

    Attributes:
        auroc: chance that a sound solution gets a higher `p_sound` than a flawed one.
        auroc_interval: its 95% bootstrap interval, resampled within each class.
        ece: expected calibration error over ten bins of equal width.
        brier: mean squared error of `p_sound`.
        first_flaw_accuracy: share of flawed items with a known first flaw where the critic's first
            claim names it.
        first_flaw_f1: harmonic mean of that and of the share of sound items without any claim.
        hallucinated_flaw_rate: share of sound items in which a flaw is claimed.
        num: items audited.
        num_sound: sound ones among them.
    """

    auroc: float | None
    auroc_interval: tuple[float, float] | None
    ece: float
    brier: float
    first_flaw_accuracy: float | None
    first_flaw_f1: float | None
    hallucinated_flaw_rate: float | None
    num: int
    num_sound: int


def audit(
    p_sound: Sequence[float],
    labels: Sequence[int],
    first_flaw_pred: Sequence[str | None],
    first_flaw_true: Sequence[str | None],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> AuditReport:
    """Measure a critic on audited items.

    Args:
        p_sound: the critic's probability, in [0, 1], that each solution passes.
        labels: the rule's verdicts, 1 for sound and 0 for flawed.
        first_flaw_pred: id of the first step the critic claims to be wrong, None if it claims none.
        first_flaw_true: id of the true first bad step, None where there is none or it is unknown.
        num_resamples: bootstrap resamples for the interval.
        seed: seed of the bootstrap.

    Raises:
        ValueError: no items, lengths differ, or a value is out of range.
    """
    scores, sound = _checked(p_sound, labels)
    if not len(first_flaw_pred) == len(first_flaw_true) == len(scores):
        raise ValueError(
            f"first_flaw_pred and first_flaw_true need one entry for each of {len(scores)} items, "
            f"got {len(first_flaw_pred)} and {len(first_flaw_true)}"
        )
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(f"p_sound must lie in [0, 1], got {scores.min()} to {scores.max()}")
    claimed = [pred is not None for pred, ok in zip(first_flaw_pred, sound, strict=True) if ok]
    located = [
        pred == true
        for pred, true, ok in zip(first_flaw_pred, first_flaw_true, sound, strict=True)
        if not ok and true is not None
    ]
    accuracy, hallucinated = _share(located), _share(claimed)
    return AuditReport(
        auroc=_auroc(scores, sound),
        auroc_interval=_auroc_interval(scores, sound, num_resamples, seed),
        ece=_expected_calibration_error(scores, sound),
        brier=float(np.mean((scores - sound) ** 2)),
        first_flaw_accuracy=accuracy,
        first_flaw_f1=_harmonic_mean(accuracy, None if hallucinated is None else 1 - hallucinated),
        hallucinated_flaw_rate=hallucinated,
        num=len(scores),
        num_sound=int(sound.sum()),
    )


def auroc(scores: Sequence[float], labels: Sequence[int]) -> float | None:
    """Chance that a sound item scores above a flawed one, ties counting half.

    Scores may have any range. None if a class is missing.

    Raises:
        ValueError: no items, lengths differ, a label is neither 0 nor 1, or a score is not finite.
    """
    return _auroc(*_checked(scores, labels))


def class_balance(
    items: Sequence[Item], label_of: Callable[[Item], Hashable], rng: random.Random
) -> list[Item]:
    """Drop items at random until every class is as large as the smallest; keeps their order."""
    by_class: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        by_class.setdefault(label_of(item), []).append(index)
    size = min((len(indices) for indices in by_class.values()), default=0)
    kept = sorted(index for indices in by_class.values() for index in rng.sample(indices, size))
    return [items[index] for index in kept]


def _checked(scores: Sequence[float], labels: Sequence[int]) -> tuple[Floats, Bools]:
    if len(scores) == 0 or len(scores) != len(labels):
        raise ValueError(
            f"an audit needs one score and one label for each item and at least one item, got "
            f"{len(scores)} scores and {len(labels)} labels"
        )
    unknown = sorted({label for label in labels if label not in (0, 1)})
    if unknown:
        raise ValueError(f"labels must be 0 or 1, got {unknown[:3]}: leave unverified items out")
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite: leave items without a score out of the audit")
    return values, np.asarray(labels, dtype=np.bool_)


def _auroc(scores: Floats, sound: Bools) -> float | None:
    num_sound, num_flawed = int(sound.sum()), int((~sound).sum())
    if not num_sound or not num_flawed:
        return None
    flawed_sorted = np.sort(scores[~sound])
    below = np.searchsorted(flawed_sorted, scores[sound], side="left")
    up_to = np.searchsorted(flawed_sorted, scores[sound], side="right")
    return float((below + up_to).sum() / (2 * num_sound * num_flawed))


def _auroc_interval(
    scores: Floats, sound: Bools, num_resamples: int, seed: int
) -> tuple[float, float] | None:
    if sound.all() or not sound.any():
        return None
    rng = np.random.default_rng(seed)
    classes = np.sort(sound)  # flawed first, as in each resample below
    flawed, passed = scores[~sound], scores[sound]
    resampled = [
        _auroc(
            np.concatenate([rng.choice(flawed, flawed.size), rng.choice(passed, passed.size)]),
            classes,
        )
        for _ in range(num_resamples)
    ]
    low, high = np.quantile(np.asarray(resampled, dtype=np.float64), [0.025, 0.975])
    return float(low), float(high)


def _expected_calibration_error(scores: Floats, sound: Bools) -> float:
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=scores - sound, minlength=NUM_BINS)  # count x (conf - acc)
    return float(np.abs(gaps).sum() / len(scores))


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _harmonic_mean(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second else 0.0
