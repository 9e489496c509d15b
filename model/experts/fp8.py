"""The routed experts in FP8: the products of `fp8/linear.py`, expert by expert, in one function.

    gate, up = Q(x) Q(Wg)^T, Q(x) Q(Wu)^T      h = silu(gate) up      y = Q(h) Q(Wd)^T

It is what one `Fp8Linear` each for gate, up and down computes, summed over a token's experts with
the router's weights (a test holds them equal), but keeps Q(x) once per token, the hidden features
and the quantised weights only. Activations, the router's weights and the sums stay in higher
precision. Leaves out storing the hidden features in FP8, which the paper does too.

Axes: N tokens, K experts of a token, R routed rows (see `rows.py`), D model width, I expert
width, E experts.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from model.experts.rows import Rows, sort_rows
from model.fp8.linear import multiply, quantize_columns, quantize_rows, quantize_weight
from model.fp8.quantize import Fp8Recipe, Quantized, Underflow


@dataclass
class Fp8Experts:
    """What `RoutedExperts` calls in place of its own product.

    Args:
        recipe: how to quantise.
        underflow: counts the gradients lost, if given.
    """

    recipe: Fp8Recipe
    underflow: Underflow | None = None

    def __call__(
        self,
        x_ND: Tensor,
        chosen_NK: Tensor,
        weights_NK: Tensor,
        gate_up_E2ID: Tensor,
        down_EDI: Tensor,
    ) -> Tensor:
        """Sum over a token's experts, in x's type. Expert -1 is an empty slot."""
        return _Fp8Experts.apply(
            *(x_ND, chosen_NK, weights_NK, gate_up_E2ID, down_EDI), self.recipe, self.underflow
        )


def split_gate_up(gate_up_E2ID: Tensor) -> Tensor:
    """[E, 2I, D] as [E, 2, I, D]: no block may span gate and up, which are two tensors on disk."""
    return gate_up_E2ID.unflatten(1, (2, -1))


class _Fp8Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x_ND: Tensor,
        chosen_NK: Tensor,
        weights_NK: Tensor,
        gate_up_E2ID: Tensor,
        down_EDI: Tensor,
        recipe: Fp8Recipe,
        underflow: Underflow | None,
    ) -> Tensor:
        rows = sort_rows(chosen_NK, gate_up_E2ID.shape[0])
        x = quantize_rows(x_ND, recipe)
        gate_up = quantize_weight(split_gate_up(gate_up_E2ID), recipe)
        down = quantize_weight(down_EDI, recipe)
        hidden_2RI = x_ND.new_zeros(2, rows.token_R.numel(), down_EDI.shape[2])
        for expert, start, end in rows.bounds:
            x_rows = x[rows.token_R[start:end]]
            for half in (0, 1):
                hidden_2RI[half, start:end] = multiply(x_rows, gate_up[expert][half].T, recipe)
        active = quantize_rows(F.silu(hidden_2RI[0]) * hidden_2RI[1], recipe)
        y_RD = _down(active, down, rows, recipe).to(x_ND.dtype)
        ctx.rows, ctx.recipe, ctx.underflow = rows, recipe, underflow
        ctx.dtypes = (gate_up_E2ID.dtype, down_EDI.dtype)
        ctx.tiles = (x.tile, gate_up.tile)
        ctx.save_for_backward(
            *(weights_NK, hidden_2RI, x.values, x.scale, gate_up.values, gate_up.scale),
            *(down.values, down.scale),
        )
        return rows.sum_of_slots(y_RD.float(), weights_NK).to(x_ND.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        weights_NK, hidden_2RI, *pairs = ctx.saved_tensors
        x = Quantized(pairs[0], pairs[1], ctx.tiles[0])
        gate_up = Quantized(pairs[2], pairs[3], ctx.tiles[1])
        down = Quantized(pairs[4], pairs[5], ctx.tiles[1])
        rows, recipe = ctx.rows, ctx.recipe
        gate_RI, up_RI = hidden_2RI
        silu_RI = F.silu(gate_RI)
        active = quantize_rows(silu_RI * up_RI, recipe)

        grad_RD = grad_ND[rows.token_R]
        y_RD = _down(active, down, rows, recipe).to(grad_RD.dtype)
        grad_weights_NK = rows.slots((grad_RD.float() * y_RD).sum(-1)).to(weights_NK.dtype)
        weights_R1 = rows.weights_R1(weights_NK, torch.float32)
        grad_RD = (grad_RD.float() * weights_R1).to(grad_RD.dtype)

        grad_active_RI, grad_down_EDI = _backward(
            grad_RD, [active[s:e] for _, s, e in rows.bounds], down, ctx, ctx.needs_input_grad[4]
        )
        grad_active_RI = grad_active_RI.to(gate_RI.dtype)
        grad_gate_RI = torch.ops.aten.silu_backward(grad_active_RI * up_RI, gate_RI)
        inputs = [x[rows.token_R[s:e]] for _, s, e in rows.bounds]
        sides = [
            _backward(
                grad_RI, inputs, Quantized(gate_up.values[:, half], gate_up.scale[:, half],
                gate_up.tile), ctx, ctx.needs_input_grad[3],
            )
            for half, grad_RI in enumerate((grad_gate_RI, grad_active_RI * silu_RI))
        ]  # fmt: skip
        grad_x_ND = rows.sum_of_slots(sides[0][0] + sides[1][0])
        grad_gate_up_E2ID = None
        if ctx.needs_input_grad[3]:
            grad_gate_up_E2ID = torch.cat((sides[0][1], sides[1][1]), 1).to(ctx.dtypes[0])
        if grad_down_EDI is not None:
            grad_down_EDI = grad_down_EDI.to(ctx.dtypes[1])
        grad_x_ND = grad_x_ND.to(grad_ND.dtype)
        return grad_x_ND, None, grad_weights_NK, grad_gate_up_E2ID, grad_down_EDI, None, None


def _down(active: Quantized, down: Quantized, rows: Rows, recipe: Fp8Recipe) -> Tensor:
    """Each row of hidden features times its expert's down projection: float32 [R, D]."""
    y_RD = down.scale.new_zeros(active.values.shape[0], down.values.shape[1])
    for expert, start, end in rows.bounds:
        y_RD[start:end] = multiply(active[start:end], down[expert].T, recipe)
    return y_RD


def _backward(
    grad_RO: Tensor, inputs: list[Quantized], weight: Quantized, ctx: FunctionCtx, wgrad: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of one projection, float32: of its input rows, and of the weight if wanted.

    Tokens are tiled within each expert: no tile holds the tokens of two.
    """
    recipe, bounds = ctx.recipe, ctx.rows.bounds
    grad = quantize_rows(grad_RO, recipe, ctx.underflow)
    grad_input_RP = weight.scale.new_zeros(grad_RO.shape[0], weight.values.shape[2])
    grad_weight = torch.zeros_like(weight.values, dtype=torch.float32) if wgrad else None
    for (expert, start, end), x in zip(bounds, inputs, strict=True):
        grad_input_RP[start:end] = multiply(grad[start:end], weight[expert], recipe)
        if grad_weight is not None:
            columns = quantize_columns(grad_RO[start:end], recipe, ctx.underflow)
            x_columns = quantize_columns(x.dequantize(), recipe)
            grad_weight[expert] = multiply(columns.T, x_columns, recipe)
    return grad_input_RP, grad_weight
