"""Is the critic right, for the right reason, and as sure as it should be?

A critic is measured as it is used, by single critiques: several of one solution are several
measurements, never a mean or a vote, and one that cannot be read counts.

    figure              share of what, or which statistic             a critique that was not read
    location_accuracy   flawed, first bad step known: it is named     names no step
    processbench_f1     harmonic mean of that and of sound solutions
                        found sound (arXiv:2412.06559)                is wrong in both
    false_accusations   sound: a flaw is claimed                      claims none
    auroc, brier, ece   of p_sound against the rule's verdict         p_sound = 0.5
    parsed              all: it was read                              was not

Leaves out sampling the critic, how intervals are made (`critic/resampling.py`), and the thresholds
that act on these figures.

Axes: D critiques, N tasks, C sums, R resamples, U distinct scores, B bins, S simulations.
"""

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from critic.measured import MeasuredCritique
from critic.resampling import (
    NUM_RESAMPLES,
    Change,
    Estimate,
    Floats,
    change,
    estimate,
    share_estimate,
    task_counts,
)

Item = TypeVar("Item")
NUM_BINS = 10
FIGURES = (
    "location_accuracy",
    "processbench_f1",
    "false_accusations",
    "auroc",
    "brier",
    "ece",
    "parsed",
)
LOWER_IS_BETTER = frozenset({"false_accusations", "brier", "ece"})


# Of which critiques a figure is a share.
SHARES: Mapping[str, Callable[[MeasuredCritique], bool]] = {
    "location_accuracy": lambda c: c.first_bad is not None,
    "false_accusations": lambda c: c.sound,
    "parsed": lambda c: True,
}


@dataclass(frozen=True)
class KindOfMistake:
    """How well one kind of mistake is located.

    Attributes:
        share: of all critiques of flawed solutions.
        num: critiques of such mistakes.
    """

    share: float
    num: int
    location_accuracy: Estimate


@dataclass(frozen=True)
class Measures:
    """A critic's figures on some critiques.

    Attributes:
        figures: by the names of the module docstring; a value is None where no item defines it.
        ece_perfect: the mean ECE that a perfectly calibrated critic with the same `p_sound` would
            show at this number of items; None where there is none.
        ece_perfect_p95: its 95th percentile: an ECE below it is no sign of miscalibration.
        by_kind: location accuracy by kind of mistake, the most frequent first.
    """

    figures: Mapping[str, Estimate]
    ece_perfect: float | None
    ece_perfect_p95: float | None
    by_kind: Mapping[str, KindOfMistake]
    num_critiques: int
    num_solutions: int
    num_sound: int

    def row(self) -> dict[str, object]:
        """Everything as one flat table, an interval beside each figure as NAME_interval."""
        row: dict[str, object] = {}
        for name, found in self.figures.items():
            row |= {name: found.value, f"{name}_interval": found.interval}
        row |= {"ece_perfect": self.ece_perfect, "ece_perfect_p95": self.ece_perfect_p95}
        row |= {"num_critiques": self.num_critiques, "num_solutions": self.num_solutions}
        kinds = {
            kind: {
                "share": found.share,
                "num": found.num,
                "location_accuracy": found.location_accuracy.value,
                "location_accuracy_interval": found.location_accuracy.interval,
            }
            for kind, found in self.by_kind.items()
        }
        return row | {"num_sound": self.num_sound, "by_kind": kinds}


def measure(
    critiques: Sequence[MeasuredCritique], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Measures:
    """Measure a critic by its single critiques, with 95% intervals over tasks."""
    tasks = sorted({critique.task for critique in critiques})
    counts_RN = task_counts(len(tasks), num_resamples, seed)
    perfect = _perfect_ece(critiques, num_resamples, seed)
    solutions = {(c.task, c.solution): c.sound for c in critiques}
    return Measures(
        figures={
            name: _estimate(name, critiques, found, len(tasks))
            for name, found in _values(critiques, tasks, counts_RN).items()
        },
        ece_perfect=None if perfect is None else float(perfect.mean()),
        ece_perfect_p95=None if perfect is None else float(np.quantile(perfect, 0.95)),
        by_kind=_by_kind(critiques, tasks, counts_RN),
        num_critiques=len(critiques),
        num_solutions=len(solutions),
        num_sound=sum(solutions.values()),
    )


def compare(
    before: Sequence[MeasuredCritique],
    after: Sequence[MeasuredCritique],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Change]:
    """Paired changes of every figure, on the solutions that both were asked about.

    Both are resampled alike, so that what the tasks have in common cancels.
    """
    shared = {(c.task, c.solution) for c in before} & {(c.task, c.solution) for c in after}
    tasks = sorted({task for task, _ in shared})
    counts_RN = task_counts(len(tasks), num_resamples, seed)
    first, second = (
        _values([c for c in own if (c.task, c.solution) in shared], tasks, counts_RN)
        for own in (before, after)
    )
    return {
        name: change(
            estimate(
                float(second[name][0] - first[name][0]),
                second[name][1] - first[name][1],
                len(tasks),
            ),
            lower_is_better=name in LOWER_IS_BETTER,
        )
        for name in first
    }


def auroc(scores: Sequence[float], labels: Sequence[int]) -> float | None:
    """Chance that a sound item scores above a flawed one, ties counting half.

    Scores may have any range. None if a class is missing.

    Raises:
        ValueError: lengths differ, a label is neither 0 nor 1, or a score is not finite.
    """
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} scores and {len(labels)} labels: give one of each an item")
    unknown = sorted({label for label in labels if label not in (0, 1)})
    if unknown:
        raise ValueError(f"labels must be 0 or 1, got {unknown[:3]}: leave unverified items out")
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite: leave items without a score out")
    columns = _by_score(values, np.asarray(labels, dtype=np.float64))
    found = float(_auroc(columns.sum(0, keepdims=True))[0])
    return None if np.isnan(found) else found


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


# -- figures as functions of sums over tasks ------------------------------------------------------


def _values(
    critiques: Sequence[MeasuredCritique], tasks: Sequence[str], counts_RN: Floats
) -> dict[str, tuple[float, Floats]]:
    """Each figure's value and its resampled ones, NaN where it is not defined."""
    sound = _column(critiques, lambda c: c.sound)
    p_sound = _column(critiques, lambda c: c.p_sound)
    located = _column(critiques, _is_located)
    locatable = _column(critiques, lambda c: c.first_bad is not None)
    accused = _column(critiques, lambda c: c.sound and c.accuses)
    cleared = _column(critiques, lambda c: c.sound and c.parsed and not c.accuses)
    parsed, ones = _column(critiques, lambda c: c.parsed), np.ones(len(critiques))
    figures: dict[str, tuple[Floats, Callable[[Floats], Floats]]] = {
        "location_accuracy": (np.stack([located, locatable], 1), _ratio),
        "processbench_f1": (np.stack([located, locatable, cleared, sound], 1), _harmonic_mean),
        "false_accusations": (np.stack([accused, sound], 1), _ratio),
        "auroc": (_by_score(p_sound, sound), _auroc),
        "brier": (np.stack([(p_sound - sound) ** 2, ones], 1), _ratio),
        "ece": (_bin_gaps(p_sound, sound), _ece),
        "parsed": (np.stack([parsed, ones], 1), _ratio),
    }
    found = {}
    for name, (columns_DC, figure) in figures.items():
        sums_NC = _sum_by_task(critiques, tasks, columns_DC)
        value = figure(sums_NC.sum(0, keepdims=True))[0]
        found[name] = (float(value), figure(counts_RN @ sums_NC))
    return found


def _estimate(
    name: str, critiques: Sequence[MeasuredCritique], found: tuple[float, Floats], num_tasks: int
) -> Estimate:
    """With an interval: of a share by the tasks that it is of."""
    if name not in SHARES:
        return estimate(*found, num_tasks)
    return share_estimate(*found, len({c.task for c in critiques if SHARES[name](c)}))


def _by_kind(
    critiques: Sequence[MeasuredCritique], tasks: Sequence[str], counts_RN: Floats
) -> dict[str, KindOfMistake]:
    flawed = [c for c in critiques if not c.sound]
    kinds = [c.kind or "unknown" for c in flawed]
    found = {}
    for kind in sorted(set(kinds), key=lambda name: (-kinds.count(name), name)):
        own = [c for c, its in zip(flawed, kinds, strict=True) if its == kind]
        columns_DC = np.stack(
            [_column(own, _is_located), _column(own, lambda c: c.first_bad is not None)], 1
        )
        sums_NC = _sum_by_task(own, tasks, columns_DC)
        value = float(_ratio(sums_NC.sum(0, keepdims=True))[0])
        num_tasks = len({c.task for c in own if c.first_bad is not None})
        accuracy = share_estimate(value, _ratio(counts_RN @ sums_NC), num_tasks)
        found[kind] = KindOfMistake(len(own) / len(flawed), len(own), accuracy)
    return found


def _is_located(critique: MeasuredCritique) -> bool:
    return critique.first_bad is not None and critique.named == critique.first_bad


def _column(
    critiques: Sequence[MeasuredCritique], read: Callable[[MeasuredCritique], float]
) -> Floats:
    return np.array([read(critique) for critique in critiques], dtype=np.float64)


def _sum_by_task(
    critiques: Sequence[MeasuredCritique], tasks: Sequence[str], columns_DC: Floats
) -> Floats:
    place = {task: index for index, task in enumerate(tasks)}
    sums_NC = np.zeros((len(tasks), columns_DC.shape[1]))
    np.add.at(sums_NC, [place[critique.task] for critique in critiques], columns_DC)
    return sums_NC


def _ratio(sums_RC: Floats) -> Floats:
    """First sum over second, NaN where the second is 0."""
    top_R, bottom_R = sums_RC[:, 0], sums_RC[:, 1]
    ratio_R: Floats = np.where(bottom_R > 0, top_R / np.where(bottom_R > 0, bottom_R, 1), np.nan)
    return ratio_R


def _harmonic_mean(sums_RC: Floats) -> Floats:
    """Of two ratios; 0 where both are 0."""
    first_R, second_R = _ratio(sums_RC[:, :2]), _ratio(sums_RC[:, 2:])
    total_R = first_R + second_R
    mean_R: Floats = 2 * first_R * second_R / np.where(total_R == 0, 1, total_R)
    return mean_R


def _by_score(scores: Floats, sound: Floats) -> Floats:
    """Flawed and sound critiques counted by score, in ascending order. Shape [D, 2 scores]."""
    levels, level = np.unique(scores, return_inverse=True)
    at_level = np.eye(len(levels))[level.reshape(-1)]
    return np.concatenate([at_level * (1 - sound)[:, None], at_level * sound[:, None]], axis=1)


def _auroc(sums_RC: Floats) -> Floats:
    num_scores = sums_RC.shape[1] // 2
    flawed_RU, sound_RU = sums_RC[:, :num_scores], sums_RC[:, num_scores:]
    below_RU = flawed_RU.cumsum(1) - flawed_RU / 2  # ties count half
    wins_R = (below_RU * sound_RU).sum(1)
    return _ratio(np.stack([wins_R, flawed_RU.sum(1) * sound_RU.sum(1)], 1))


def _bins(scores: Floats) -> Floats:
    """One column for each of ten bins of equal width. Shape [D, bins]."""
    bins_D = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins_DB: Floats = np.eye(NUM_BINS, dtype=np.float64)[bins_D]
    return bins_DB


def _bin_gaps(scores: Floats, sound: Floats) -> Floats:
    """What each critique adds to its bin's count x (confidence - accuracy), and a 1."""
    return np.concatenate([_bins(scores) * (scores - sound)[:, None], np.ones((len(scores), 1))], 1)


def _ece(sums_RC: Floats) -> Floats:
    return _ratio(np.stack([np.abs(sums_RC[:, :-1]).sum(1), sums_RC[:, -1]], 1))


def _perfect_ece(
    critiques: Sequence[MeasuredCritique], num_simulations: int, seed: int
) -> Floats | None:
    """ECEs where every label is drawn from the critique's own p_sound. Shape [simulations].

    The critiques of one solution share one uniform draw: each label has its probability, and equal
    critiques of a solution have equal labels, as the real ones have.
    """
    if not critiques:
        return None
    p_sound = _column(critiques, lambda c: c.p_sound)
    names = [(c.task, c.solution) for c in critiques]
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    drawn = np.random.default_rng(seed).random((num_simulations, len(place)))
    labels_SD = (drawn[:, [place[name] for name in names]] < p_sound).astype(np.float64)
    gaps_SB: Floats = (p_sound - labels_SD) @ _bins(p_sound)
    perfect_S: Floats = np.abs(gaps_SB).sum(1) / len(critiques)
    return perfect_S
