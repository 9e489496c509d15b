"""How evenly experts are used: the sequence-wise balance loss (DeepSeek-V3, arXiv:2412.19437).

Axes: N tokens, E experts, K experts of a token, B sequences, T tokens a sequence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sequence_balance_loss(
    scores_NE: Tensor, chosen_NK: Tensor, shape_BT: tuple[int, int], counted_N: Tensor | None
) -> Tensor:
    """Mean over sequences of sum_i f_i P_i (Eqs. 17-20), before the weight alpha.

    f_i is the share of a sequence's choices that fell on expert i, times the number of experts;
    P_i is the mean of expert i's score over the sequence, scores normalised to sum to 1 a token.
    It is 1 where either is uniform.

    Args:
        scores_NE: sigmoid scores, float32.
        chosen_NK: expert ids, -1 for an empty slot.
        shape_BT: N = B * T.
        counted_N: False for padding, which is left out; all tokens count if None.

    Returns:
        float32 scalar.
    """
    num_experts = scores_NE.shape[1]
    picked_NE = F.one_hot(chosen_NK + 1, num_experts + 1)[..., 1:].sum(1).to(scores_NE.dtype)
    share_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
    if counted_N is not None:
        picked_NE, share_NE = picked_NE * counted_N[:, None], share_NE * counted_N[:, None]
        tokens_B = counted_N.view(shape_BT).sum(1).clamp(min=1)
    else:
        tokens_B = torch.full((shape_BT[0],), shape_BT[1], device=scores_NE.device)
    picked_BE = picked_NE.unflatten(0, shape_BT).sum(1)
    f_BE = num_experts * picked_BE / picked_BE.sum(-1, keepdim=True).clamp(min=1)
    p_BE = share_NE.unflatten(0, shape_BT).sum(1) / tokens_B[:, None]
    return (f_BE * p_BE).sum(-1).mean()
