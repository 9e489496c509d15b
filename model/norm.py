"""RMSNorm, computed in float32 and applied in the input's type."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scale rows to unit root mean square, times a learned gain (arXiv:1910.07467, Eq. 4)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        if x_BTD.dtype == self.weight.dtype == torch.float32:
            return F.rms_norm(x_BTD, self.weight.shape, self.weight, self.eps)
        normed_BTD = F.rms_norm(x_BTD.float(), self.weight.shape, eps=self.eps)
        return self.weight * normed_BTD.to(x_BTD.dtype)
