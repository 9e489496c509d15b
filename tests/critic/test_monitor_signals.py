"""The monitor's signals against values worked out by hand, and their invariants."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.monitor.signals import (
    answer_entropy,
    compression_ratio,
    distinct_n,
    distinct_ratio,
    effective_groups,
    ngram_kernel,
    novelty,
    probe_gain,
    proxy_gold_gap,
    token_entropy_mean,
    vendi,
    wilson_interval,
)


def test_token_entropy_weighs_tokens_not_completions() -> None:
    assert token_entropy_mean([[1.0, 1.0, 1.0], [0.0]]) == 0.75


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


def test_effective_groups_ignore_masked_rewards() -> None:
    assert effective_groups([[1.0, 0.0], [1.0, 1.0], [1.0, None], [None]]) == 0.25


def test_ratios_and_novelty() -> None:
    assert distinct_ratio(["a", "a", "b", "c"]) == 0.75
    assert novelty(["a", "b", "c", "d"], {"a"}) == 0.75
    assert novelty(["a", "b", "c", "d"], {"a"}, control=["a", "x"]) == 0.25
    assert probe_gain(1.0, 0.75) == 0.25
    assert proxy_gold_gap([1.0, 1.0], [1.0, 0.0]) == 0.5
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)


def test_without_data_signals_are_nan_never_a_number() -> None:
    empty = [
        token_entropy_mean([]),
        answer_entropy([]).across,
        answer_entropy([]).mutual_information,
        distinct_ratio([]),
        effective_groups([]),
        novelty([], {"a"}),
        novelty(["a"], set(), control=[]),
        probe_gain(None, 1.0),
        proxy_gold_gap([], []),
        distinct_n([], 1),
        compression_ratio([]),
        vendi(np.zeros((0, 0))),
    ]
    assert all(math.isnan(value) for value in empty)


def test_vendi_counts_distinct_items() -> None:
    assert vendi(np.eye(5)) == pytest.approx(5)
    assert vendi(np.ones((5, 5))) == pytest.approx(1)
    texts = ["a4=40", "a4=40", "zz>99", "zz>99"]
    assert vendi(ngram_kernel(texts)) == pytest.approx(2)
    with pytest.raises(ValueError, match="square"):
        vendi(np.ones((2, 3)))
    with pytest.raises(ValueError, match="diagonal"):
        vendi(np.zeros((2, 2)))


def test_repetition_compresses() -> None:
    assert compression_ratio(["the same line"] * 50) > 5 * compression_ratio(["the same line"])


def test_wilson_interval_against_the_textbook() -> None:
    low, high = wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(3, 2)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_observed_share(counts: tuple[int, int]) -> None:
    successes, total = counts
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total <= high <= 1
