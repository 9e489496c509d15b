"""Advantages as they are optimised: what carries no signal, what a step may do, on which tokens."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.policy.tokenizer import character_tokenizer
from pipelines.rollouts.sample import Scored, StepSignal
from pipelines.training.advantages import (
    advantages,
    blend,
    rewards,
    spread,
    step_advantages,
    token_ends,
)

STEP_WEIGHT = 0.5
TOKENIZER = character_tokenizer()
reward_groups = st.lists(st.none() | st.floats(-2, 6, width=32), min_size=4, max_size=4)


def _outcome(group: Sequence[float | None]) -> torch.Tensor:
    """Any normalisation of a group's rewards will do here: TRL's own is tested by its trainer."""
    return torch.arange(1.0, len(group) + 1)


@given(value=st.floats(0, 6, width=32), size=st.integers(2, 9))
def test_equal_rewards_carry_no_signal(value: float, size: int) -> None:
    scored = [Scored(value)] * size
    assert (advantages(_outcome([value] * size), scored, size) == 0).all()


@given(group=reward_groups, order=st.permutations(range(4)))
def test_masked_rewards_carry_none_and_the_order_does_not_matter(
    group: list[float | None], order: list[int]
) -> None:
    outcome_B, scored = _outcome(group), [Scored(reward) for reward in group]
    found_B = advantages(outcome_B, scored, 4)
    counted = {reward for reward in group if reward is not None}
    for advantage, own, reward in zip(found_B, outcome_B, group, strict=True):
        assert advantage == (0 if reward is None or len(counted) < 2 else own)
    permuted_B = advantages(outcome_B[order], [scored[i] for i in order], 4)
    assert torch.equal(permuted_B, found_B[order])


def test_groups_do_not_mix() -> None:
    """One flat group beside one that carries signal."""
    scored = [Scored(reward) for reward in (0.5, 0.5, 1.0, 0.0)]
    assert advantages(torch.ones(4), scored, 2).tolist() == [0, 0, 1, 1]
    assert spread(rewards(scored).view(-1, 2)).tolist() == [0, 1]


@pytest.mark.parametrize("reward", [None, 0.5])
def test_steps_give_no_signal_where_the_outcome_has_none(reward: float | None) -> None:
    signals = (StepSignal(0, 5, 1.0), StepSignal(6, 11, -1.0))
    scored = [Scored(reward, signals)] * 2
    ends_BT = [list(range(1, 12))] * 2
    assert (advantages(torch.ones(2), scored, 2, STEP_WEIGHT, ends_BT) == 0).all()


TEXTS = ("a4=40\nb1=50>50", "a4=40\nb1=60>60", "a4=50\nb1=60>60", "a3=30\nb1=40>41")
STEPS = tuple(tuple((m, m + 5) for m in (0, 6)) for _ in TEXTS)  # "a4=40" and "b1=50"
values = st.floats(-1, 1, allow_nan=False, width=32)


def _scored(signals: Sequence[Sequence[float]]) -> list[Scored]:
    return [
        Scored(0.0, tuple(StepSignal(a, b, v) for (a, b), v in zip(spans, row, strict=False)))
        for spans, row in zip(STEPS, signals, strict=True)
    ]


def _blend(scored: list[Scored], outcome: Sequence[float], order: Sequence[int]) -> torch.Tensor:
    ids_BT = torch.tensor([TOKENIZER(TEXTS[i])["input_ids"] for i in order])
    advantages_B = torch.tensor([outcome[i] for i in order])
    own = [scored[i] for i in order]
    ends_BT = [token_ends(TOKENIZER, ids) for ids in ids_BT.tolist()]
    return blend(advantages_B, step_advantages(own, len(own), ends_BT), STEP_WEIGHT)


@settings(max_examples=60)
@given(
    signals=st.lists(st.lists(values, min_size=0, max_size=2), min_size=4, max_size=4),
    outcome=st.lists(values, min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_steps_shape_but_never_overturn_the_outcome(
    signals: list[list[float]], outcome: list[float], order: list[int]
) -> None:
    scored = _scored(signals)
    blended_BT = _blend(scored, outcome, range(4))
    for row, advantage in zip(blended_BT, outcome, strict=True):
        if advantage < 0:
            assert (row <= 0).all(), "a failed solution's token got a positive advantage"
    assert torch.allclose(_blend(scored, outcome, order), blended_BT[order], atol=1e-5)


def test_a_steps_signal_lands_on_its_own_tokens() -> None:
    """One token a character here: "b1=60" of the second text is tokens 6 to 10."""
    scored = _scored([[0.5, 0.5], [0.5, -0.5], [0.5, 0.5], [0.5, 0.5]])
    blended_BT = _blend(scored, [0.0] * 4, range(4))
    assert (blended_BT[1, 6:11] < 0).all()
    assert (blended_BT[1, :5] > 0).all()
    assert blended_BT[1, 5] == 0 and (blended_BT[1, 11:] == 0).all()
