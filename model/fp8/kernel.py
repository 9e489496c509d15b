"""The blockwise FP8 matrix product of cuBLAS, for chips of compute capability 9.0 (Hopper).

Written to the layouts that cuBLAS documents (section "1D and 2D block scaling for FP8") and the
signature of torch 2.13; its test needs such a chip. Leaves out grouped products: torch's grouped
kernel has no 128-wide scales, so each expert is one product.
"""

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import ScalingType

from model.fp8.quantize import E4M3, Quantized

BLOCK = 128
_RECIPES = {(1, BLOCK): ScalingType.BlockWise1x128, (BLOCK, BLOCK): ScalingType.BlockWise128x128}


def scaled_mm(left: Quantized, right: Quantized) -> Tensor:
    """left [N, K] @ right [K, M], in float32.

    Operands are padded with zeros to whole blocks, and laid out with K innermost, the only order
    that Hopper multiplies.

    Raises:
        ValueError: no chip of compute capability 9.0 holds the operands.
    """
    _check_device(left.values.device)
    shape = left.values.shape[0], right.values.shape[1]
    values, scale, recipe = _operand(left)
    values_right, scale_right, recipe_right = _operand(right.T)
    product = F.scaled_mm(
        values, values_right.T, scale, recipe, scale_right, recipe_right, output_dtype=torch.float32
    )
    return product[: shape[0], : shape[1]]


def _operand(matrix: Quantized) -> tuple[Tensor, Tensor, ScalingType]:
    """Values [N, K] of whole blocks, K innermost; the scale as cuBLAS reads it; its kind.

    Scales of 1 x 128 tiles are stored K-block by K-block. Those of 128 x 128 blocks are stored
    row of blocks by row of blocks, each padded to a multiple of 4, and passed transposed.
    """
    rows, columns = matrix.values.shape
    padding = (0, -columns % BLOCK, 0, -rows % BLOCK)
    values = F.pad(matrix.values.contiguous().view(torch.uint8), padding).view(E4M3)
    if matrix.tile == (1, BLOCK):
        scale = F.pad(matrix.scale, (0, 0, 0, -rows % BLOCK), value=1.0).T.contiguous().T
    else:
        scale = F.pad(matrix.scale, (0, -matrix.scale.shape[1] % 4), value=1.0).contiguous().T
    return values, scale, _RECIPES[matrix.tile]


@cache
def _check_device(device: torch.device) -> None:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        raise ValueError(
            f"the scaled_mm kernel needs a chip of compute capability 9.0, the operands are on "
            f"{device}: use Fp8Recipe(kernel='emulated')"
        )
    logging.getLogger(__name__).info("FP8 products on %s: torch scaled_mm, blockwise", device)
