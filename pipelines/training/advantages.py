"""Credit for a completion's steps: what a game says of one, and advantages a token.

Leaves out the rewards themselves (`game/learner.py`) and the trainer (`training/trainer.py`).

Axes: B completions, groups adjacent; T tokens of a completion; N groups; G completions of a group.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from pipelines.rollouts.sample import Scored


def blend_steps(
    advantages_B: torch.Tensor,
    completion_ids_BT: torch.Tensor,
    scored: Sequence[Scored],
    group_size: int,
    step_weight: float,
    tokenizer: PreTrainedTokenizerBase,
) -> torch.Tensor:
    """A = (1 - alpha) A_out + alpha A_step per token (Tango, arXiv:2505.15034); shape [B, T].

    Steps are normalised within their group. Where the outcome's advantage is negative no token
    gets a positive one: the critic may shape, it never overturns a rule's failure.

    Args:
        advantages_B: the outcomes'.
        completion_ids_BT: the sampled tokens, padded.
        scored: one a completion.
        group_size: G.
        step_weight: alpha, 0 to 1.
        tokenizer: decodes the tokens, so that characters can be found among them.
    """
    steps_BT = torch.zeros(completion_ids_BT.shape, device=advantages_B.device)
    for first in range(0, len(scored), group_size):
        group = scored[first : first + group_size]
        values = torch.tensor([signal.value for own in group for signal in own.steps])
        if values.numel() < 2 or values.max() == values.min():
            continue
        mean, std = values.mean().item(), values.std().item()
        for row, own in enumerate(group, start=first):
            ends = token_ends(tokenizer, completion_ids_BT[row].tolist())
            for signal in own.steps:
                tokens = [t for t, end in enumerate(ends) if signal.start < end <= signal.end]
                if tokens:
                    steps_BT[row, tokens] = (signal.value - mean) / (std + 1e-4)
    outcome_B1 = advantages_B.unsqueeze(1)
    blended_BT = (1 - step_weight) * outcome_B1 + step_weight * steps_BT
    return torch.where(outcome_B1 < 0, blended_BT.clamp(max=0.0), blended_BT)


def token_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """For each token the number of characters decoded up to and with it."""
    lengths = [len(tokenizer.decode([i], skip_special_tokens=True)) for i in ids]
    whole = len(tokenizer.decode(ids, skip_special_tokens=True))
    if sum(lengths) == whole:
        return torch.tensor(lengths).cumsum(0).tolist()
    return [len(tokenizer.decode(ids[: i + 1], skip_special_tokens=True)) for i in range(len(ids))]


def spread(rewards_NG: torch.Tensor) -> torch.Tensor:
    """Max minus min over each group's counted (non-NaN) rewards, 0 where none is. Shape [N]."""
    low = torch.nan_to_num(rewards_NG, nan=torch.inf).amin(1)
    high = torch.nan_to_num(rewards_NG, nan=-torch.inf).amax(1)
    return torch.where(high > low, high - low, torch.zeros_like(high))
