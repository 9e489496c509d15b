"""RMSNorm, computed in float32 and applied in the input's type.

Axes: D the normed width, after any leading axes; N the leading axes as one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class RMSNorm(nn.Module):
    """Scale rows to unit root mean square, times a learned gain (arXiv:1910.07467, Eq. 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        if x_BTD.dtype != torch.float32 or self.weight.dtype != torch.float32:
            normed_BTD = F.rms_norm(x_BTD.float(), self.weight.shape, eps=self.eps)
            return self.weight * normed_BTD.to(x_BTD.dtype)
        if x_BTD.device.type == "cpu":
            return _CpuRMSNorm.apply(x_BTD, self.weight, self.eps)
        return F.rms_norm(x_BTD, self.weight.shape, self.weight, self.eps)


class _CpuRMSNorm(torch.autograd.Function):
    """The same in few passes over memory; PyTorch has no fused kernel for it on CPU."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse_rms = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain_D, inverse_rms)
        return (x * inverse_rms).mul_(gain_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain_D, inverse_rms = ctx.saved_tensors
        product_ND = (grad * x).flatten(0, -2)
        grad_gain_D = product_ND.T @ inverse_rms.flatten()
        # x_hat's share of the gradient: <grad * gain, x> / (D * rms^3), one number a row.
        share = (product_ND @ gain_D).view_as(inverse_rms) * inverse_rms.pow(3) / x.shape[-1]
        grad_x = (grad * gain_D).mul_(inverse_rms).addcmul_(x, share, value=-1)
        return grad_x, grad_gain_D, None
