"""From what a game says of a batch to the advantage of each completion or token.

TRL has normalised the outcomes' rewards within their groups, as its options say. `advantages` makes
groups without signal exactly 0 and blends in the steps. Pure functions; leaves out that
normalisation and the loss (TRL's), and the rewards themselves (`game/`).

Axes: B completions, groups adjacent; T tokens of a completion; N groups; G completions of a group.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipelines.rollouts.sample import Scored


def advantages(
    outcome_B: Tensor,
    scored: Sequence[Scored],
    group_size: int,
    step_weight: float = 0.0,
    token_ends_BT: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """A = (1 - alpha) A_out + alpha A_step per token (Tango, arXiv:2505.15034).

    Args:
        outcome_B: the outcomes' advantages.
        scored: what the game says of each completion.
        group_size: G.
        step_weight: alpha, 0 to 1.
        token_ends_BT: `token_ends` of each completion; None leaves the steps out.

    Returns:
        [B], or [B, T] with steps; 0 where a reward is masked or all of a group are equal.
    """
    rewards_B = rewards(scored).to(outcome_B.device)
    is_flat_N = spread(rewards_B.view(-1, group_size)) == 0
    is_silent_B = is_flat_N.repeat_interleave(group_size) | rewards_B.isnan()
    outcome_B = outcome_B.masked_fill(is_silent_B, 0.0)
    if token_ends_BT is None:
        return outcome_B
    steps_BT = step_advantages(scored, group_size, token_ends_BT).to(outcome_B.device)
    return blend(outcome_B, steps_BT, step_weight).masked_fill(is_silent_B.unsqueeze(1), 0.0)


def rewards(scored: Sequence[Scored]) -> Tensor:
    """Each completion's reward, NaN where it is masked. Shape [B]."""
    return torch.tensor([math.nan if own.reward is None else own.reward for own in scored])


def spread(rewards_NG: Tensor) -> Tensor:
    """Max minus min over each group's counted (non-NaN) rewards, 0 where none is. Shape [N]."""
    low = torch.nan_to_num(rewards_NG, nan=torch.inf).amin(1)
    high = torch.nan_to_num(rewards_NG, nan=-torch.inf).amax(1)
    return torch.where(high > low, high - low, torch.zeros_like(high))


def blend(outcome_B: Tensor, steps_BT: Tensor, step_weight: float) -> Tensor:
    """The weighted sum, except that no token of a failed completion gets a positive advantage.

    The critic may shape, it never overturns a rule's failure. Shape [B, T].
    """
    outcome_B1 = outcome_B.unsqueeze(1)
    blended_BT = (1 - step_weight) * outcome_B1 + step_weight * steps_BT
    return torch.where(outcome_B1 < 0, blended_BT.clamp(max=0.0), blended_BT)


def step_advantages(
    scored: Sequence[Scored], group_size: int, token_ends_BT: Sequence[Sequence[int]]
) -> Tensor:
    """Step signals, normalised over all steps of a group, on their own tokens. Shape [B, T]."""
    steps_BT = torch.zeros(len(scored), len(token_ends_BT[0]))
    for first in range(0, len(scored), group_size):
        group = scored[first : first + group_size]
        values = torch.tensor([signal.value for own in group for signal in own.steps])
        if values.numel() < 2 or values.max() == values.min():
            continue
        mean, std = values.mean().item(), values.std().item()
        for row, own in enumerate(group, start=first):
            ends = token_ends_BT[row]
            for signal in own.steps:
                tokens = [t for t, end in enumerate(ends) if signal.start < end <= signal.end]
                steps_BT[row, tokens] = (signal.value - mean) / (std + 1e-4)
    return steps_BT


def token_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """For each token the number of characters decoded up to and with it."""
    lengths = [len(tokenizer.decode([i], skip_special_tokens=True)) for i in ids]
    whole = len(tokenizer.decode(ids, skip_special_tokens=True))
    if sum(lengths) == whole:
        return torch.tensor(lengths).cumsum(0).tolist()
    return [len(tokenizer.decode(ids[: i + 1], skip_special_tokens=True)) for i in range(len(ids))]
