"""The monitor's signals against values worked out by hand, and their errors against repetition."""

import math
import random
from collections.abc import Callable

import pytest
from critique_cases import critique
from hypothesis import given
from hypothesis import strategies as st

from critic.monitor.readings import Reading
from critic.monitor.signals import (
    answer_entropies,
    critic_bias,
    distinct_ratio,
    effective_groups,
    mean_of_fixed,
    mean_of_fresh,
    nll_of_gold,
    reading_of,
    share_of_fixed,
)
from critic.resampling import Estimate


def value_of(found: Reading | None) -> float:
    assert found is not None
    return found.value


def test_answer_entropy_tells_prompt_dependence_from_noise() -> None:
    certain = answer_entropies([["1", "1"], ["2", "2"]])  # the prompt decides the answer
    assert value_of(certain["answer_entropy_within"]) == 0
    assert value_of(certain["answer_entropy_across"]) == pytest.approx(math.log(2))
    assert value_of(certain["mutual_information"]) == pytest.approx(math.log(2))
    noise = answer_entropies([["1", "2"], ["2", "1"]])  # the prompt says nothing
    assert value_of(noise["answer_entropy_within"]) == pytest.approx(math.log(2))
    assert value_of(noise["mutual_information"]) == 0


@given(st.lists(st.lists(st.sampled_from(["1", "2", "3", None]), max_size=8), max_size=8))
def test_mutual_information_is_between_0_and_the_entropy(groups: list[list[str | None]]) -> None:
    found = answer_entropies(groups)
    if sum(any(answer is not None for answer in group) for group in groups) < 2:
        assert set(found.values()) == {None}
    else:
        across = value_of(found["answer_entropy_across"])
        assert 0 <= value_of(found["mutual_information"]) <= across + 1e-9 <= math.log(3) + 2e-9


def test_values() -> None:
    assert value_of(effective_groups([[True, False], [True, True], [True, None], [None]])) == 0.25
    assert value_of(distinct_ratio([["a", "a"], ["b"], ["c"]])) == 0.75
    assert value_of(nll_of_gold([[-1.0, -2.0, -3.0], [-4.0]])) == 2.5
    assert value_of(share_of_fixed([[True, False], [True, True]])) == 0.75
    assert value_of(mean_of_fresh([[1.0, 0.0], [1.0], []])) == 0.75
    half = reading_of(Estimate(0.5, (0.304, 0.696)))
    assert half is not None and half.error == pytest.approx(0.1)


def test_one_sample_per_task_says_nothing_of_groups() -> None:
    """It read 0 of 64, and a learner on its way was warned that nothing was there to learn from."""
    assert effective_groups([[True]] * 20 + [[False]] * 44) is None
    assert effective_groups([[True, None], [None, False]]) is None


@given(st.floats(-1, 1), st.integers(2, 9), st.integers(1, 9))
def test_a_reward_is_certain_if_it_is_always_the_same_and_only_then(
    reward: float, num_tasks: int, size: int
) -> None:
    """In floats the mean of three times 0.7 is not 0.7: such a dead run was `ok`."""
    same = mean_of_fresh([[reward] * (size + task) for task in range(num_tasks)])
    assert same is not None and same.error == 0
    agreed = mean_of_fresh([[0.0, 1.0], [1.0, 0.0]])  # two means of one half, by chance
    assert agreed is not None and agreed.error == pytest.approx(math.sqrt(0.25 / 2))


def test_the_critics_bias_does_not_move_with_the_share_of_right_solutions() -> None:
    accusers = [critique(0.0, sound=sound) for sound in (True, True, False, False, False, False)]
    assert value_of(critic_bias(accusers)) == -0.5
    assert (
        value_of(critic_bias([critique(1.0, sound=s) for s in (True, True, False, False)])) == 0.5
    )
    assert critic_bias([critique(0.5, sound=True)] * 9) is None


def test_without_data_there_is_no_reading() -> None:
    empty = [
        *answer_entropies([]).values(), distinct_ratio([]), effective_groups([]), nll_of_gold([[]]),
        nll_of_gold([[-1.0]]), mean_of_fixed([]), mean_of_fixed([[1.0]]), share_of_fixed([]),
        mean_of_fresh([[1.0]]), reading_of(Estimate(None, None)), reading_of(Estimate(0.5, None)),
        mean_of_fresh([[math.inf], [1.0]]), mean_of_fixed([[math.nan, 1.0], [1.0, 1.0]]),
    ]  # fmt: skip
    assert set(empty) == {None}


def samples(rng: random.Random, num_samples: int) -> list[list[bool]]:
    """64 tasks, the same each time: some easy, some hard."""
    return [[rng.random() < task / 64 for _ in range(num_samples)] for task in range(64)]


def answers(rng: random.Random) -> list[list[str | None]]:
    chances = (0.95, 0.8, 0.6)
    return [
        [str(task) if rng.random() < chances[task % 3] else str(rng.randrange(9)) for _ in range(4)]
        for task in range(48)
    ]


MEASURES: dict[str, Callable[[random.Random], Reading | None]] = {
    "share": lambda rng: share_of_fixed(samples(rng, 4)),
    "share of single samples": lambda rng: share_of_fixed(samples(rng, 1)),
    "within": lambda rng: answer_entropies(answers(rng))["answer_entropy_within"],
    "mutual information": lambda rng: answer_entropies(answers(rng))["mutual_information"],
    "distinct": lambda rng: distinct_ratio(
        [[f"{task}: {a}" for a in group] for task, group in enumerate(answers(rng))]
    ),
    "effective": lambda rng: effective_groups(samples(rng, 4)),
    "fresh": lambda rng: mean_of_fresh([[p + rng.gauss(0, 0.1)] for p in _drawn(rng)]),
}


def _drawn(rng: random.Random) -> list[float]:
    return [rng.random() for _ in range(40)]


@pytest.mark.parametrize("name", MEASURES)
def test_a_stated_error_is_not_below_the_spread_of_repeated_readings(name: str) -> None:
    """And not beyond twice it: an error that is too large sees nothing."""
    found = [MEASURES[name](random.Random(seed)) for seed in range(200)]
    readings = [one for one in found if one is not None]
    values = [one.value for one in readings]
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    stated = math.sqrt(math.fsum(one.error**2 for one in readings) / len(readings))
    assert len(readings) == 200
    assert 0.85 * spread <= stated <= 2.5 * spread  # 200 repeats know a spread to some 5%


def test_a_share_of_0_or_1_is_not_certain() -> None:
    found = share_of_fixed([[True] * 4] * 16)
    assert found == Reading(value=1.0, error=1 / 64)
