"""Is a step fatal? The probability against integration, the decisions against simulated truth."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.value_drop import NOTHING, Tally, decide, probability_of_drop

counts = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda n: Tally(n[0], sum(n)))
GRID = (np.arange(40_000) + 0.5) / 40_000


def _density(tally: Tally) -> np.ndarray:
    weights = GRID**tally.passed * (1 - GRID) ** (tally.tried - tally.passed)
    return weights / weights.sum()


@given(others=counts, same=counts)
def test_the_probability_is_the_integral(others: Tally, same: Tally) -> None:
    below = np.cumsum(_density(same))
    assert probability_of_drop(others, same) == pytest.approx(
        float(_density(others) @ below), abs=1e-3
    )


@given(others=counts, same=counts)
def test_one_of_two_is_greater(others: Tally, same: Tally) -> None:
    both = probability_of_drop(others, same) + probability_of_drop(same, others)
    assert both == pytest.approx(1, abs=1e-9)


@given(others=counts, same=counts, last=st.booleans())
def test_nothing_is_decided_without_a_success_elsewhere(
    others: Tally, same: Tally, last: bool
) -> None:
    decision = decide(others, same, last)
    if others.passed == 0 or same.tried == 0:
        assert decision == "unknown"
    if decision == "confirmed":
        assert others.passed / others.tried > same.passed / same.tried
    if decision == "refuted":
        assert same.passed > 0


def test_a_second_look_may_confirm_what_the_first_left_open() -> None:
    assert decide(Tally(5, 9), Tally(0, 7), is_last_look=False) == "unknown"
    assert decide(Tally(5, 9), Tally(0, 7), is_last_look=True) == "confirmed"
    assert decide(Tally(4, 4), Tally(0, 4), is_last_look=False) == "confirmed"
    assert decide(Tally(1, 4), Tally(3, 4), is_last_look=False) == "refuted"
    assert decide(NOTHING, NOTHING, is_last_look=True) == "unknown"


def test_what_may_still_be_a_flaw_is_not_refuted() -> None:
    """Neither a smaller drop than was claimed nor a step behind which nothing passed yet."""
    assert decide(Tally(3, 4), Tally(2, 4), is_last_look=False) == "unknown"
    assert decide(Tally(1, 12), Tally(0, 1), is_last_look=False) == "unknown"


def test_counts_are_counts() -> None:
    assert Tally(1, 2) + Tally(0, 3) == Tally(1, 5)
    assert Tally(1, 4).value == 0.25 and NOTHING.value is None
    with pytest.raises(ValueError, match="3 of 2"):
        Tally(3, 2)


def _sequential(value_others: float, value_same: float, look: int, rng: random.Random) -> str:
    others = same = NOTHING
    for last in (False, False, True):
        others += Tally(sum(rng.random() < value_others for _ in range(look)), look)
        same += Tally(sum(rng.random() < value_same for _ in range(look)), look)
        decision = decide(others, same, last)
        if decision != "unknown":
            return decision
    return "unknown"


@pytest.mark.parametrize("value", [0.2, 0.5, 0.8])
def test_a_harmless_step_is_seldom_confirmed(value: float) -> None:
    """No drop at all: three looks of four find one in at most one case of twenty-five."""
    rng = random.Random(f"harmless {value}")
    found = [_sequential(value, value, 4, rng) for _ in range(3000)]
    assert found.count("confirmed") / len(found) < 1 / 25


@pytest.mark.parametrize(("value", "least"), [(0.25, 0.25), (0.5, 0.8), (0.9, 0.99)])
def test_a_fatal_step_is_mostly_confirmed_where_others_pass(value: float, least: float) -> None:
    rng = random.Random(f"fatal {value}")
    found = [_sequential(value, 0.0, 4, rng) for _ in range(3000)]
    assert found.count("confirmed") / len(found) > least
    assert "refuted" not in found
