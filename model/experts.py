"""The routed experts: gated feed-forwards, each applied to the tokens routed to it.

`reference_experts` is the definition. `sorted_experts` is what the model runs: tokens sorted by
expert, one matrix product an expert, and one autograd function that keeps the hidden features
and recomputes the rest.

Axes: N tokens, K experts of a token, M = N * K routed rows, D model width, I expert width,
E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from model.configuration import SparringMoeConfig


def reference_experts(
    x_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_E2ID: Tensor, down_EDI: Tensor
) -> Tensor:
    """Sum over a token's experts of weight * down(silu(gate x) * up x), as written."""
    out_ND = torch.zeros_like(x_ND)
    for expert in range(gate_up_E2ID.shape[0]):
        token, slot = torch.where(chosen_NK == expert)
        gate, up = F.linear(x_ND[token], gate_up_E2ID[expert]).chunk(2, dim=-1)
        y = F.linear(F.silu(gate) * up, down_EDI[expert]) * weights_NK[token, slot, None]
        out_ND = out_ND.index_add(0, token, y.to(x_ND.dtype))
    return out_ND


def sorted_experts(
    x_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_E2ID: Tensor, down_EDI: Tensor
) -> Tensor:
    """`reference_experts`, fast. All floating arguments must share a type but the weights."""
    return _SortedExperts.apply(x_ND, chosen_NK, weights_NK, gate_up_E2ID, down_EDI)


class _SortedExperts(torch.autograd.Function):
    """Saves x and the 2I hidden features of each routed row; rebuilds activations from them."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x_ND: Tensor,
        chosen_NK: Tensor,
        weights_NK: Tensor,
        gate_up_E2ID: Tensor,
        down_EDI: Tensor,
    ) -> Tensor:
        num_experts, num_selected = gate_up_E2ID.shape[0], chosen_NK.shape[1]
        order_M = chosen_NK.flatten().argsort(stable=True)
        bounds = _bounds(chosen_NK, num_experts)
        place_NK = torch.empty_like(order_M)
        place_NK[order_M] = torch.arange(order_M.numel(), device=order_M.device)
        place_NK = place_NK.view_as(chosen_NK)
        x_MD = x_ND.index_select(0, order_M // num_selected)
        hidden_M2I = _per_expert(x_MD, gate_up_E2ID.transpose(1, 2), bounds)
        gate_MI, up_MI = hidden_M2I.chunk(2, dim=-1)
        y_MD = _per_expert(F.silu(gate_MI).mul_(up_MI), down_EDI.transpose(1, 2), bounds)
        ctx.bounds = bounds
        ctx.save_for_backward(
            x_ND, order_M, place_NK, weights_NK, hidden_M2I, gate_up_E2ID, down_EDI
        )
        return _gather_sum(y_MD, place_NK, weights_NK)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, order_M, place_NK, weights_NK, hidden_M2I, gate_up_E2ID, down_EDI = ctx.saved_tensors
        token_M = order_M // place_NK.shape[1]
        gate_MI, up_MI = hidden_M2I.chunk(2, dim=-1)
        silu_MI = F.silu(gate_MI)
        active_MI = silu_MI * up_MI
        grad_MD = grad_ND.index_select(0, token_M)
        grad_active_MI = _per_expert(grad_MD, down_EDI, ctx.bounds)
        # <grad, y> = <grad down, active>: y itself need not be kept.
        grad_weights_NK = (grad_active_MI * active_MI).sum(-1)[place_NK].to(weights_NK.dtype)
        weights_M1 = weights_NK.flatten()[order_M].to(grad_MD.dtype)[:, None]
        grad_down = _per_expert_outer(grad_MD, active_MI.mul_(weights_M1), ctx.bounds, down_EDI)
        grad_active_MI.mul_(weights_M1)
        grad_hidden_M2I = torch.empty_like(hidden_M2I)
        grad_gate_MI, grad_up_MI = grad_hidden_M2I.chunk(2, dim=-1)
        torch.mul(grad_active_MI, silu_MI, out=grad_up_MI)
        grad_gate_MI.copy_(torch.ops.aten.silu_backward(grad_active_MI.mul_(up_MI), gate_MI))
        x_MD = x_ND.index_select(0, token_M)
        grad_gate_up = _per_expert_outer(grad_hidden_M2I, x_MD, ctx.bounds, gate_up_E2ID)
        grad_x_MD = _per_expert(grad_hidden_M2I, gate_up_E2ID, ctx.bounds)
        grad_x_ND = _gather_sum(grad_x_MD, place_NK, None)
        return grad_x_ND, None, grad_weights_NK, grad_gate_up, grad_down


class RoutedExperts(nn.Module):
    """All experts of a layer, fused into two parameters; on disk they are split by expert."""

    def __init__(self, config: SparringMoeConfig) -> None:
        super().__init__()
        num_experts, width = config.n_routed_experts, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * width, config.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, config.hidden_size, width))

    def forward(self, x_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor) -> Tensor:
        gate_up_E2ID, down_EDI = self.gate_up_proj, self.down_proj
        device = x_ND.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            x_ND, gate_up_E2ID = x_ND.to(dtype), gate_up_E2ID.to(dtype)
            down_EDI = down_EDI.to(dtype)
        with torch.autocast(device, enabled=False):
            return sorted_experts(x_ND, chosen_NK, weights_NK, gate_up_E2ID, down_EDI)


def _bounds(chosen_NK: Tensor, num_experts: int) -> list[tuple[int, int, int]]:
    """(expert, first row, end row) of every expert that got a token, rows sorted by expert."""
    counts = torch.bincount(chosen_NK.flatten(), minlength=num_experts).tolist()
    bounds, end = [], 0
    for expert, count in enumerate(counts):
        if count:
            bounds.append((expert, end, end + count))
            end += count
    return bounds


def _per_expert(rows_MX: Tensor, matrix_EXY: Tensor, bounds: list[tuple[int, int, int]]) -> Tensor:
    """Each row times its expert's matrix."""
    out_MY = rows_MX.new_empty(rows_MX.shape[0], matrix_EXY.shape[2])
    for expert, start, end in bounds:
        torch.mm(rows_MX[start:end], matrix_EXY[expert], out=out_MY[start:end])
    return out_MY


def _per_expert_outer(
    left_MX: Tensor, right_MY: Tensor, bounds: list[tuple[int, int, int]], like_EXY: Tensor
) -> Tensor:
    """Per expert, the sum over its rows of left outer right; 0 for an expert without rows."""
    out_EXY = torch.empty_like(like_EXY)
    if len(bounds) < out_EXY.shape[0]:
        out_EXY.zero_()
    for expert, start, end in bounds:
        torch.mm(left_MX[start:end].T, right_MY[start:end], out=out_EXY[expert])
    return out_EXY


def _gather_sum(rows_MD: Tensor, place_NK: Tensor, weights_NK: Tensor | None) -> Tensor:
    """Per token, the (weighted) sum of its K rows, in one fused pass."""
    weights = None if weights_NK is None else weights_NK.to(rows_MD.dtype)
    return F.embedding_bag(place_NK, rows_MD, mode="sum", per_sample_weights=weights)
