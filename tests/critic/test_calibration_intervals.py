"""Do the critic's intervals cover the truth, and do its paired changes say what changed?"""

import numpy as np
import pytest
from critique_cases import critique

from critic.calibration import compare, measure
from critic.measured import MeasuredCritique


def graded_critic(
    rng: np.random.Generator, num_tasks: int, accuracy: float, spread: float
) -> list[MeasuredCritique]:
    """Tasks of unequal difficulty, two flawed solutions of each, four critiques of a solution."""
    found = []
    for task, own in enumerate(np.clip(accuracy + spread * rng.normal(size=num_tasks), 0, 1)):
        for solution in range(2):
            for hit in rng.random(4) < own:
                found.append(
                    critique(
                        0.2,
                        sound=False,
                        named="a" if hit else "b",
                        first_bad="a",
                        task=f"{task}",
                        solution=f"{solution}",
                    )
                )
    return found


def test_the_interval_covers_the_truth_although_solutions_share_a_task() -> None:
    """About 95% of intervals; ones that resampled critiques would cover it in two thirds."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        found = measure(graded_critic(rng, 60, 0.5, 0.25), num_resamples=100, seed=seed)
        low, high = found.figures["location_accuracy"].interval
        covered += low <= 0.5 <= high
    assert 176 <= covered <= 199


def test_aurocs_interval_covers_the_truth() -> None:
    """Normal scores one standard deviation apart have AUROC Phi(1/sqrt 2) = 0.760."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        sounds = np.arange(120) % 2 == 0
        scores = 1 / (1 + np.exp(-(rng.normal(size=120) + sounds)))
        critiques = [
            critique(float(p), sound=bool(sound), task=f"{n}")
            for n, (p, sound) in enumerate(zip(scores, sounds, strict=True))
        ]
        found = measure(critiques, num_resamples=200, seed=seed).figures["auroc"]
        assert found == measure(critiques, num_resamples=200, seed=seed).figures["auroc"]
        low, high = found.interval
        covered += low <= 0.760 <= high
    assert covered >= 50


def test_a_paired_change_is_surer_than_two_intervals_suggest() -> None:
    """The same hard tasks before and after: their difficulty cancels."""
    rng = np.random.default_rng(0)
    before = graded_critic(rng, 60, 0.5, 0.5)
    after = [  # one in eight right pointings is lost
        critique(0.2, sound=False, named="b" if c.named == "a" and n % 8 == 0 else c.named,
                 first_bad="a", task=c.task, solution=c.solution)
        for n, c in enumerate(before)
    ]  # fmt: skip
    found = compare(before, after)["location_accuracy"]
    first, second = (measure(each).figures["location_accuracy"] for each in (before, after))
    assert found.value == pytest.approx(second.value - first.value)
    assert first.interval[0] < second.value, "the intervals overlap"
    assert found.verdict == "worse" and found.interval[1] < 0


def test_verdicts_know_which_way_is_worse() -> None:
    sound = [critique(0.9, task=f"{n}") for n in range(40)]
    accused = [critique(0.1, named="a", task=f"{n}") for n in range(40)]
    assert compare(sound, accused)["false_accusations"].verdict == "worse"
    assert compare(accused, sound)["brier"].verdict == "better"
    assert compare(sound, sound)["false_accusations"].verdict == "unchanged"
    assert compare(sound, sound)["false_accusations"].interval == (0, 0)
    assert compare(sound, accused)["location_accuracy"].verdict == "unknown"


def test_only_solutions_that_both_were_asked_about_are_compared() -> None:
    before = [critique(0.9, task=f"{n}") for n in range(10)]
    after = [critique(0.9, task=f"{n}") for n in range(5)] + [critique(0.1, named="a", task="11")]
    assert compare(before, after)["false_accusations"].value == 0
