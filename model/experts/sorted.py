"""The routed experts on CPU, and wherever grouped products cannot run.

Tokens sorted by expert, one matrix product per expert, and one autograd function that keeps the
hidden features and recomputes the rest.

Axes: N tokens, K experts of a token, R routed rows (see `rows.py`), D model width, I expert width,
E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from model.experts.rows import BF16_TILE, sort_rows


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
        tiled = x_ND.dtype == torch.bfloat16 and x_ND.device.type == "cpu"
        rows = sort_rows(chosen_NK, gate_up_E2ID.shape[0], BF16_TILE if tiled else 1)
        x_RD = x_ND.index_select(0, rows.token_R)
        hidden_R2I = _per_expert(x_RD, gate_up_E2ID.transpose(1, 2), rows.bounds)
        del x_RD
        gate_RI, up_RI = hidden_R2I.chunk(2, dim=-1)
        y_RD = _per_expert(F.silu(gate_RI).mul_(up_RI), down_EDI.transpose(1, 2), rows.bounds)
        ctx.rows = rows
        ctx.save_for_backward(x_ND, weights_NK, hidden_R2I, gate_up_E2ID, down_EDI)
        return rows.sum_of_slots(y_RD, weights_NK)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weights_NK, hidden_R2I, gate_up_E2ID, down_EDI = ctx.saved_tensors
        rows, bounds = ctx.rows, ctx.rows.bounds
        gate_RI, up_RI = hidden_R2I.chunk(2, dim=-1)
        silu_RI = F.silu(gate_RI)
        active_RI = silu_RI * up_RI
        grad_RD = grad_ND.index_select(0, rows.token_R)
        grad_active_RI = _per_expert(grad_RD, down_EDI, bounds)
        # <grad, y> = <grad down, active>: y itself need not be kept.
        grad_weights_NK = rows.slots((grad_active_RI * active_RI).sum(-1, dtype=weights_NK.dtype))
        weights_R1 = rows.weights_R1(weights_NK, grad_RD.dtype)
        grad_down = _per_expert_outer(grad_RD, active_RI.mul_(weights_R1), bounds, down_EDI)
        del grad_RD, active_RI
        grad_active_RI.mul_(weights_R1)
        grad_hidden_R2I = torch.empty_like(hidden_R2I)
        grad_gate_RI, grad_up_RI = grad_hidden_R2I.chunk(2, dim=-1)
        torch.mul(grad_active_RI, silu_RI, out=grad_up_RI)
        torch.ops.aten.silu_backward.grad_input(
            grad_active_RI.mul_(up_RI), gate_RI, grad_input=grad_gate_RI
        )
        del grad_active_RI, silu_RI
        x_RD = x_ND.index_select(0, rows.token_R)
        grad_gate_up = _per_expert_outer(grad_hidden_R2I, x_RD, bounds, gate_up_E2ID)
        del x_RD
        grad_x_ND = rows.sum_of_slots(_per_expert(grad_hidden_R2I, gate_up_E2ID, bounds))
        return grad_x_ND, None, grad_weights_NK, grad_gate_up, grad_down


def _per_expert(rows_RX: Tensor, matrix_EXY: Tensor, bounds: list[tuple[int, int, int]]) -> Tensor:
    """Each row times its expert's matrix; a row of no expert is left as memory was."""
    out_RY = rows_RX.new_empty(rows_RX.shape[0], matrix_EXY.shape[2])
    for expert, start, end in bounds:
        torch.mm(rows_RX[start:end], matrix_EXY[expert], out=out_RY[start:end])
    return out_RY


def _per_expert_outer(
    left_RX: Tensor, right_RY: Tensor, bounds: list[tuple[int, int, int]], like_EXY: Tensor
) -> Tensor:
    """Per expert, the sum over its rows of left outer right; 0 for an expert without rows."""
    out_EXY = torch.empty_like(like_EXY)
    for expert in set(range(len(out_EXY))) - {expert for expert, _, _ in bounds}:
        out_EXY[expert].zero_()
    for expert, start, end in bounds:
        torch.mm(left_RX[start:end].T, right_RY[start:end], out=out_EXY[expert])
    return out_EXY
