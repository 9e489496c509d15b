"""The language model's loss, without float32 copies of all logits.

Transformers' loss converts the logits to float32 as a whole, and keeps those and their log-softmax
for the backward pass. Here both passes work on a few rows at a time, and nothing but the logits
is kept. Leaves out label smoothing and class weights.

Axes: B sequences, T tokens, N rows = B * T, V vocabulary.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

NO_TARGET = -100
# Logits at a time: what stays in a core's cache; elsewhere, what fills the device.
CPU_CHUNK, DEVICE_CHUNK = 2**19, 2**26

CrossEntropy = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Sum over rows of -log softmax(logits)[target]; float32, computed in float32.

    Args:
        logits_NV: of any floating type.
        targets_N: token ids, -100 for rows left out.
    """
    return _CrossEntropy.apply(logits_NV, targets_N)


def next_token_loss(
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = NO_TARGET,
    shift_labels: Tensor | None = None,
    sum_of_rows: CrossEntropy = cross_entropy,
    **kwargs: object,
) -> Tensor:
    """Cross-entropy of each next token, with the arguments of transformers' `ForCausalLMLoss`.

    Args:
        logits: [B, T, V].
        labels: [B, T], shifted here; unused if `shift_labels` is given.
        num_items_in_batch: what to divide the sum by; the number of targets if None.
        sum_of_rows: computes the sum; a fused kernel may stand in.

    Raises:
        ValueError: the labels are not one per token.
    """
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    targets_N = shift_labels.flatten().to(logits.device)
    if ignore_index != NO_TARGET:
        targets_N = targets_N.masked_fill(targets_N == ignore_index, NO_TARGET)
    logits_NV = logits.reshape(-1, vocab_size)
    if logits_NV.shape[0] != targets_N.shape[0]:
        raise ValueError(
            f"{targets_N.shape[0]} labels for the logits of {logits_NV.shape[0]} tokens: each "
            "needs one, so leave out logits_to_keep where there are labels"
        )
    total = sum_of_rows(logits_NV, targets_N)
    if num_items_in_batch is None:
        num_items_in_batch = (targets_N != NO_TARGET).sum()
    elif torch.is_tensor(num_items_in_batch):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch


class _CrossEntropy(torch.autograd.Function):
    """Keeps the logits and takes their softmax anew: d loss / d logits = softmax - onehot."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        ctx.save_for_backward(logits_NV, targets_N)
        total = torch.zeros((), dtype=torch.float32, device=logits_NV.device)
        for rows in _chunks(logits_NV):
            total += F.cross_entropy(logits_NV[rows].float(), targets_N[rows], reduction="sum")
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        logits_NV, targets_N = ctx.saved_tensors
        grad_NV = torch.empty_like(logits_NV)
        factor_N1 = ((targets_N != NO_TARGET) * grad)[:, None]
        target_N1 = targets_N.clamp(min=0)[:, None]
        for rows in _chunks(logits_NV):
            share_NV = logits_NV[rows].softmax(-1, dtype=torch.float32)
            share_NV.scatter_add_(1, target_N1[rows], torch.full_like(factor_N1[rows], -1))
            torch.mul(share_NV, factor_N1[rows], out=grad_NV[rows])
        return grad_NV, None


def _chunks(logits_NV: Tensor) -> Iterator[slice]:
    num_rows, vocab_size = logits_NV.shape
    chunk = CPU_CHUNK if logits_NV.device.type == "cpu" else DEVICE_CHUNK
    step = max(1, chunk // vocab_size)
    for start in range(0, num_rows, step):
        yield slice(start, start + step)
