"""How evenly experts are used: the sequence-wise balance loss, and what a load says of balance.

The selection bias that keeps the load even is the router's. Leaves out any other balance loss.

Axes: N tokens, E experts, K experts of a token, B sequences, T tokens per sequence.
"""

import math

import torch
from torch import Tensor


def sequence_balance_loss(
    scores_NE: Tensor, num_selected: int, shape_BT: tuple[int, int], real_N: Tensor | None = None
) -> Tensor:
    """Mean over sequences of sum_i f_i P_i (DeepSeek-V3, arXiv:2412.19437, Eqs. 17-20), unweighted.

    f_i is the share of a sequence's tokens that have expert i among their K best scores, times
    E / K; P_i is the mean of expert i's score, where a token's scores are normalised to sum to 1.
    The loss is 1 where either is uniform, and at most E / K. As Eq. 18 says, f_i is taken from
    the plain scores: neither the selection bias nor groups nor replayed experts change it.

    Args:
        scores_NE: sigmoid scores; gradients flow through P only.
        num_selected: K.
        shape_BT: N = B * T. A packed row is one sequence.
        real_N: False for padding, which is left out; all tokens are real if None.

    Returns:
        Scalar of the scores' type.
    """
    best_NK = scores_NE.detach().topk(num_selected, dim=-1).indices
    picked_NE = torch.zeros_like(scores_NE).scatter_(1, best_NK, 1.0)
    share_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
    if real_N is None:
        tokens_B1 = scores_NE.new_full((shape_BT[0], 1), shape_BT[1])
    else:
        picked_NE = picked_NE.masked_fill(~real_N[:, None], 0.0)
        share_NE = share_NE.masked_fill(~real_N[:, None], 0.0)
        tokens_B1 = real_N.view(shape_BT).sum(1, keepdim=True).clamp(min=1)
    f_BE = picked_NE.unflatten(0, shape_BT).sum(1) * scores_NE.shape[1] / num_selected / tokens_B1
    p_BE = share_NE.unflatten(0, shape_BT).sum(1) / tokens_B1
    return (f_BE * p_BE).sum(-1).mean()


def balance_metrics(load_E: Tensor, num_tokens: int) -> dict[str, float]:
    """What one layer's load says of its balance, and of how many of its parameters do work.

    Experts of a layer are of one size, so a share of experts is a share of their parameters.
    Shared experts, which serve every token, are left out.

    Args:
        load_E: tokens given to each routed expert.
        num_tokens: tokens routed; the load sums to it times the experts per token.

    Returns:
        `max_over_mean` load, and `max_violation`, which is that minus 1 (MaxVio,
        arXiv:2408.15664); `dead_experts`, that got no token; `utilisation_token`, the
        share of expert parameters that a token uses, on average; `utilisation_batch`, the share
        that any token used; `effective_experts`, exp of the load's entropy, and
        `utilisation_effective`, that over E: 1 where the load is even.

    Raises:
        ValueError: there is no load, of which nothing can be said.
    """
    loads = load_E.tolist()
    total = sum(loads)
    if total <= 0 or num_tokens <= 0:
        raise ValueError(f"no load to measure: {num_tokens} tokens were given {total} experts")
    entropy = -sum(load / total * math.log(load / total) for load in loads if load)
    used = sum(load > 0 for load in loads)
    max_over_mean = max(loads) * len(loads) / total
    return {
        "max_over_mean": max_over_mean,
        "max_violation": max_over_mean - 1,
        "dead_experts": float(len(loads) - used),
        "utilisation_token": total / num_tokens / len(loads),
        "utilisation_batch": used / len(loads),
        "effective_experts": math.exp(entropy),
        "utilisation_effective": math.exp(entropy) / len(loads),
    }
