"""RMSNorm, computed in float32 and applied in the input's type.

Axes: D the normed width, after any leading axes; N the leading axes as one.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


def rms_norm(x_ND: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """Rows scaled to unit root mean square, times a gain (arXiv:1910.07467, Eq. 4)."""
    normed_ND = F.rms_norm(x_ND.float(), gain_D.shape, eps=eps)
    return gain_D * normed_ND.to(x_ND.dtype)


class RMSNorm(nn.Module):
    """`rms_norm` with a learned gain; `kernel` may be a fused one (see `fused.py`)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.kernel: Callable[[Tensor, Tensor, float], Tensor] | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.kernel is not None:
            return self.kernel(x_BTD, self.weight, self.eps)
        if x_BTD.device.type == "cpu" and x_BTD.dtype in (torch.float32, torch.bfloat16):
            return _CpuRMSNorm.apply(x_BTD, self.weight, self.eps)
        return rms_norm(x_BTD, self.weight, self.eps)


class _CpuRMSNorm(torch.autograd.Function):
    """The same in few passes over memory; PyTorch has no fused kernel for it on CPU."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        exact = x.float()
        mean_square = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_()
        inverse_rms = mean_square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain_D, inverse_rms)
        normed = (exact * inverse_rms).to(x.dtype)
        return normed.mul_(gain_D) if gain_D.dtype == x.dtype else normed * gain_D

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain_D, inverse_rms = ctx.saved_tensors
        grad, exact, exact_gain_D = grad.float(), x.float(), gain_D.float()
        product_ND = (grad * exact).flatten(0, -2)
        grad_gain_D = product_ND.T @ inverse_rms.flatten()
        # x_hat's share of the gradient: <grad * gain, x> / (D * rms^3), one number per row.
        share = (product_ND @ exact_gain_D).view_as(inverse_rms) * inverse_rms.pow(3) / x.shape[-1]
        grad_x = (grad * exact_gain_D).mul_(inverse_rms).addcmul_(exact, share, value=-1)
        return grad_x.to(x.dtype), grad_gain_D.to(gain_D.dtype), None
