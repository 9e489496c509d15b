"""Optional fused kernels for the norm, the gated activation and the loss; off until asked for.

Both kinds compute the plain formulas: `torch.compile` generates code for them on any device it
knows, Liger brings Triton kernels. Leaves out experts (`experts/`) and attention (`attention/`).

Axes: N rows, D width, I hidden width, V vocabulary.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from model.layers import FeedForward
from model.loss import NO_TARGET, CrossEntropy, next_token_loss
from model.modeling import SparringMoeForCausalLM
from model.norm import RMSNorm, rms_norm


@dataclass(frozen=True)
class Kernels:
    """The three functions; see `plain_*` and `rms_norm` for what each computes."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]
    cross_entropy: CrossEntropy


def plain_swiglu(gate_NI: Tensor, up_NI: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(gate_NI) * up_NI


def plain_cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Sum over rows of -log softmax(logits)[target] in float32; rows with target -100 left out."""
    return F.cross_entropy(logits_NV.float(), targets_N, ignore_index=NO_TARGET, reduction="sum")


def fuse(model: SparringMoeForCausalLM, kind: str | None) -> None:
    """Let a model compute with fused kernels of one kind, or plainly again.

    Args:
        model: changed in place; its parameters, names and function stay.
        kind: "compile", "liger", or None for the plain functions.

    Raises:
        ValueError: no such kind, it cannot run here, or the model is wrapped.
    """
    if not isinstance(model, SparringMoeForCausalLM):
        raise ValueError(
            f"fused kernels are for our model itself, got a {type(model).__name__}: fuse it "
            "before wrapping it"
        )
    kernels = _kernels(kind, model.device.type)
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.kernel = None if kernels is None else kernels.rms_norm
        elif isinstance(module, FeedForward):
            module.kernel = None if kernels is None else kernels.swiglu
    model.loss_function = (
        next_token_loss
        if kernels is None
        else partial(next_token_loss, sum_of_rows=kernels.cross_entropy)
    )


def _kernels(kind: str | None, device: str) -> Kernels | None:
    if kind is None:
        return None
    if kind == "compile":
        return _compiled()
    if kind == "liger":
        return _liger(device)
    raise ValueError(f"fused kernels are 'compile', 'liger' or None, got {kind!r}")


@cache
def _compiled() -> Kernels:
    functions = (rms_norm, plain_swiglu, plain_cross_entropy)
    return Kernels(*(torch.compile(function, dynamic=True) for function in functions))


def _liger(device: str) -> Kernels:
    if importlib.util.find_spec("liger_kernel") is None:
        raise ValueError("fused kernels 'liger' need the package liger-kernel: install it, or "
                         "use 'compile'")  # fmt: skip
    if device == "cpu":
        raise ValueError("fused kernels 'liger' cannot run on cpu: use 'compile'")
    from liger_kernel.transformers import functional as liger

    return Kernels(
        rms_norm=partial(liger.liger_rms_norm, in_place=False),
        swiglu=liger.liger_swiglu,
        cross_entropy=partial(_liger_cross_entropy, function=liger.liger_cross_entropy),
    )


def _liger_cross_entropy(
    logits_NV: Tensor, targets_N: Tensor, function: Callable[..., Tensor]
) -> Tensor:
    """Liger writes the gradient over its input, and sums in the input's type: hand it a copy.

    Of float32 too, which `float()` would hand over itself: the model's logits would then be lost.
    """
    copy_NV = logits_NV.to(torch.float32, copy=True)
    return function(copy_NV, targets_N, ignore_index=NO_TARGET, reduction="sum")
