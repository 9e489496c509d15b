"""The routed experts as grouped matrix products: two kernels per layer, no wait for the host.

Axes: N tokens, K experts of a token, M = N * K rows sorted by expert, D model width, I expert
width, E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def grouped_experts(
    x_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_E2ID: Tensor, down_EDI: Tensor
) -> Tensor:
    """`reference_experts` by `torch.nn.functional.grouped_mm`.

    Rows of empty slots are sorted to the end, past the last expert's: no product touches them, in
    either direction, so they hold whatever memory held. One mask keeps that out of the output,
    and, by its own gradient, another keeps it out of the gradient of x.
    """
    num_experts, num_selected = gate_up_E2ID.shape[0], chosen_NK.shape[1]
    ids_M, order_M = chosen_NK.flatten().masked_fill(chosen_NK.flatten() < 0, num_experts).sort()
    experts_E = torch.arange(num_experts, device=ids_M.device)
    ends_E = torch.searchsorted(ids_M, experts_E, right=True).int()
    empty_M1 = (ids_M == num_experts)[:, None]
    x_MD = x_ND[order_M // num_selected].masked_fill(empty_M1, 0)
    gate_MI, up_MI = F.grouped_mm(x_MD, gate_up_E2ID.mT, offs=ends_E).chunk(2, dim=-1)
    y_MD = F.grouped_mm(F.silu(gate_MI) * up_MI, down_EDI.mT, offs=ends_E)
    place_NK = order_M.argsort().view_as(chosen_NK)
    y_NKD = y_MD.masked_fill(empty_M1, 0)[place_NK]
    return torch.bmm(weights_NK.to(y_NKD.dtype)[:, None], y_NKD)[:, 0]
