"""The monitor's signals against values worked out by hand, and their invariants."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.monitor.signals import (
    answer_entropy,
    distinct_ratio,
    effective_groups,
    probe_gain,
    proxy_gold_gap,
)


def test_answer_entropy_tells_prompt_dependence_from_noise() -> None:
    certain = answer_entropy([["1", "1"], ["2", "2"]])  # the prompt decides the answer
    assert certain.within == 0
    assert certain.across == pytest.approx(math.log(2))
    assert certain.mutual_information == pytest.approx(math.log(2))
    noise = answer_entropy([["1", "2"], ["2", "1"]])  # the prompt says nothing
    assert noise.across == noise.within == pytest.approx(math.log(2))
    assert noise.mutual_information == 0
    assert answer_entropy([["1", None], [None], []]).across == 0


@given(st.lists(st.lists(st.sampled_from(["1", "2", "3", None]), max_size=8), max_size=8))
def test_mutual_information_is_between_0_and_the_entropy(groups: list[list[str | None]]) -> None:
    entropy = answer_entropy(groups)
    if math.isnan(entropy.across):
        assert not any(answer is not None for group in groups for answer in group)
    else:
        assert -1e-9 <= entropy.across - entropy.within <= entropy.across <= math.log(3) + 1e-9


def test_effective_groups_ignore_masked_outcomes() -> None:
    assert effective_groups([[True, False], [True, True], [True, None], [None]]) == 0.25


def test_ratios_and_differences() -> None:
    assert distinct_ratio(["a", "a", "b", "c"]) == 0.75
    assert probe_gain(1.0, 0.75) == 0.25
    assert proxy_gold_gap([1.0, 1.0], [1.0, 0.0]) == 0.5


def test_without_data_signals_are_nan_never_a_number() -> None:
    empty = [
        answer_entropy([]).across,
        answer_entropy([]).mutual_information,
        distinct_ratio([]),
        effective_groups([]),
        probe_gain(None, 1.0),
        proxy_gold_gap([], []),
    ]
    assert all(math.isnan(value) for value in empty)
