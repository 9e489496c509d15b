"""Linear layers in FP8: all three matrix products quantised (arXiv:2412.19437, figure 6).

    y = Q(x) Q(W)^T        dx = Q(dy) Q(W)        dW = Q'(dy)^T Q'(Q(x))

Q has 1 x 128 tiles, 128 x 128 for the weight; Q' runs along the tokens. The forward pass keeps
Q(x), one byte per number, and requantises it for dW as the paper does. Weights and their gradients
stay in the parameter's own type (float32 masters). Experts are in `experts/fp8.py`, whole models
in `convert_fp8.py`.

What "emulated" computes is bit-true in every quantised operand and scale. Its sums are float32's,
in the order of the CPU's matrix product, where the chip adds 128 products in its tensor cores and
promotes each such part to float32 (3.3.2): equal up to the rounding of sums.

Axes: N tokens, K input features, M output features.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from model.fp8.kernel import scaled_mm
from model.fp8.quantize import Fp8Recipe, Quantized, Underflow, quantize


class Fp8Linear(nn.Linear):
    """`nn.Linear` without bias whose products are quantised; its parameter and name are the same.

    Args:
        weight_MK: the master weight, shared, not copied.
        recipe: how to quantise.
        underflow: counts the gradients lost, if given.
    """

    def __init__(
        self, weight_MK: nn.Parameter, recipe: Fp8Recipe, underflow: Underflow | None = None
    ) -> None:
        super().__init__(weight_MK.shape[1], weight_MK.shape[0], bias=False, device="meta")
        self.weight = weight_MK
        self.recipe = recipe
        self.underflow = underflow

    def forward(self, x: Tensor) -> Tensor:
        x = _autocast(x)
        with torch.autocast(x.device.type, enabled=False):
            y_NM = _Fp8Linear.apply(x.flatten(0, -2), self.weight, self.recipe, self.underflow)
        return y_NM.unflatten(0, x.shape[:-1])

    def quantized_weight(self) -> Quantized:
        """The weight as the forward pass multiplies with it, and as a checkpoint holds it."""
        return quantize_weight(self.weight.detach(), self.recipe)

    def input_on_grid(self, x: Tensor) -> Tensor:
        """The input as the forward pass sees it; gradients pass straight through."""
        x = _autocast(x)
        snapped = quantize_rows(x.detach(), self.recipe).dequantize().to(x.dtype)
        return snapped + (x - x.detach()) if x.requires_grad else snapped


def _autocast(x: Tensor) -> Tensor:
    device = x.device.type
    enabled = torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if enabled else x


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x_NK: Tensor,
        weight_MK: Tensor,
        recipe: Fp8Recipe,
        underflow: Underflow | None,
    ) -> Tensor:
        x = quantize_rows(x_NK, recipe)
        weight = quantize_weight(weight_MK, recipe)
        ctx.save_for_backward(x.values, x.scale, weight.values, weight.scale)
        ctx.tiles = (x.tile, weight.tile)
        ctx.recipe, ctx.underflow, ctx.weight_dtype = recipe, underflow, weight_MK.dtype
        return multiply(x, weight.T, recipe).to(x_NK.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_NM: Tensor) -> tuple[Tensor | None, ...]:
        x_values, x_scale, weight_values, weight_scale = ctx.saved_tensors
        grad_x_NK = grad_weight_MK = None
        if ctx.needs_input_grad[0]:
            grad = quantize_rows(grad_NM, ctx.recipe, ctx.underflow)
            weight = Quantized(weight_values, weight_scale, ctx.tiles[1])
            grad_x_NK = multiply(grad, weight, ctx.recipe).to(grad_NM.dtype)
        if ctx.needs_input_grad[1]:
            x_NK = Quantized(x_values, x_scale, ctx.tiles[0]).dequantize()
            grad = quantize_columns(grad_NM, ctx.recipe, ctx.underflow)
            x = quantize_columns(x_NK, ctx.recipe)
            grad_weight_MK = multiply(grad.T, x, ctx.recipe).to(ctx.weight_dtype)
        return grad_x_NK, grad_weight_MK, None, None


def quantize_weight(weight: Tensor, recipe: Fp8Recipe) -> Quantized:
    """Square blocks: the transposed weight of dgrad has the same numbers."""
    return quantize(weight, (recipe.block, recipe.block), recipe)


def quantize_rows(x: Tensor, recipe: Fp8Recipe, underflow: Underflow | None = None) -> Quantized:
    """Tiles along each token's features; a gradient is counted if `underflow` is given."""
    quantized = quantize(x, (1, recipe.block), recipe)
    if underflow is not None:
        underflow.count(x, quantized)
    return quantized


def quantize_columns(x: Tensor, recipe: Fp8Recipe, underflow: Underflow | None = None) -> Quantized:
    """Tiles along the tokens of each feature, over which wgrad sums."""
    quantized = quantize(x, (recipe.block, 1), recipe)
    if underflow is not None:
        underflow.count(x, quantized)
    return quantized


def multiply(left: Quantized, right: Quantized, recipe: Fp8Recipe) -> Tensor:
    """left @ right, in float32, in a backward pass under autocast too."""
    if recipe.kernel == "scaled_mm":
        return scaled_mm(left, right)
    with torch.autocast(left.values.device.type, enabled=False):
        return left.dequantize() @ right.dequantize()
