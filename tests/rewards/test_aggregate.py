"""Rules dominate, masks stay masked, and equal rewards carry no signal."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.aggregate import MAX_WEIGHT, CriticView, aggregate, step_rewards
from rewards.verdict import OUTCOMES, Verdict, score_verdict

shares = st.floats(0, 1)
views = st.none() | st.builds(CriticView, shares, shares, st.booleans())
weights = st.floats(0, MAX_WEIGHT)
reward_groups = st.lists(st.none() | st.floats(0, 1), max_size=12)

CORRECT = Verdict("correct", "puzzle", "1", 1.0)
INCORRECT = Verdict("incorrect", "puzzle", "1", 0.3)
INVALID = Verdict("invalid", "puzzle", "1", 0.0)


def reward(verdict: Verdict, critic: CriticView | None, weight: float) -> float:
    value = aggregate(verdict, critic=critic, weight=weight)
    assert value is not None
    return value


@given(praised=views, doubted=views, weight=weights)
def test_any_correct_reward_exceeds_any_other(
    praised: CriticView | None, doubted: CriticView | None, weight: float
) -> None:
    correct = reward(CORRECT, doubted, weight)
    assert 0 <= reward(INVALID, praised, weight) <= reward(INCORRECT, praised, weight) < correct
    assert correct <= 1


@pytest.mark.parametrize(
    ("verdict", "critic", "expected"),
    [
        (CORRECT, None, 1.0),
        (CORRECT, CriticView(0.75, 1.0, False), 0.9),
        (CORRECT, CriticView(0.75, 0.5, True), 0.6),  # a confirmed flaw is a veto
        (INCORRECT, None, 0.0),
        (INCORRECT, CriticView(1.0, 0.5, True), 0.2),
        (INVALID, CriticView(1.0, 1.0, False), 0.0),
    ],
)
def test_the_critic_shapes_within_the_rules_band(
    verdict: Verdict, critic: CriticView | None, expected: float
) -> None:
    assert reward(verdict, critic, 0.4) == pytest.approx(expected)


@given(critic=views, weight=weights, outcome=st.sampled_from(["timeout", "error"]))
def test_no_judgement_is_masked(critic: CriticView | None, weight: float, outcome: str) -> None:
    verdict = Verdict("timeout" if outcome == "timeout" else "error", "math", "1", None)
    assert aggregate(verdict, critic=critic, weight=weight) is None


@pytest.mark.parametrize("weight", [-0.1, 0.5, math.nan])
def test_a_weight_that_could_overturn_a_rule_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        aggregate(CORRECT, critic=None, weight=weight)


def test_views_and_verdicts_refuse_impossible_values() -> None:
    with pytest.raises(ValueError, match=r"p_sound.*1\.2"):
        CriticView(1.2, 1.0, False)
    with pytest.raises(ValueError, match="must have None"):
        Verdict("timeout", "math", "1", 0.0)
    with pytest.raises(ValueError, match="needs a score"):
        Verdict("incorrect", "math", "1", None)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Verdict("correct", "math", "1", math.nan)


def test_only_three_outcomes_count_and_partial_credit_does_not_pass() -> None:
    scores = {"timeout": None, "error": None}
    verdicts = [Verdict(outcome, "exact", "1", scores.get(outcome, 1.0)) for outcome in OUTCOMES]
    assert [verdict.counted for verdict in verdicts] == [True, True, True, False, False]
    assert [verdict.passed for verdict in verdicts] == [True, False, False, False, False]
    assert score_verdict(1 - 1e-12, "exact", "1").passed
    assert not score_verdict(0.999, "exact", "1").passed


def test_step_rewards_stop_at_the_first_flaw() -> None:
    assert step_rewards(4, 2, False) == [0.25, 0.25, -0.25, 0.0]
    assert step_rewards(4, None, False) == [0.25] * 4
    assert step_rewards(0, None, False) == []
    with pytest.raises(ValueError, match="first_bad"):
        step_rewards(4, 4, False)


@given(data=st.data(), num_steps=st.integers(1, 9))
def test_no_step_is_praised_where_the_rule_failed(data: st.DataObject, num_steps: int) -> None:
    first_bad = data.draw(st.none() | st.integers(0, num_steps - 1))
    rewards = step_rewards(num_steps, first_bad, True)
    assert len(rewards) == num_steps and max(rewards) <= 0
    assert sum(value < 0 for value in rewards) == (first_bad is not None)
