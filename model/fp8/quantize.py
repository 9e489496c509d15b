"""Blockwise FP8: DeepSeek-V3's quantisers (arXiv:2412.19437, section 3.3), and their recipe.

A tensor becomes E4M3 numbers and one float32 scale per tile: 1 x 128 for activations and gradients,
128 x 128 for weights, each scale found from the tile's own largest number. Layers are in
`linear.py` and `experts/fp8.py`, files in `checkpoint/fp8.py`. Leaves out delayed scaling and E5M2.

Axes: N rows, K columns, R and C tiles of them.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
# The least scale whose products with E4M3's least number, 2^-9, are normal numbers in bfloat16.
MIN_SCALE = 2.0**-117
_NUMBERS = torch.arange(256, dtype=torch.uint8).view(E4M3).float()


@dataclass(frozen=True)
class Fp8Recipe:
    """How to quantise.

    Args:
        block: numbers a tile has along each quantised axis; checkpoints have 128.
        power_of_two: round scales up to powers of two, so that bfloat16 holds every dequantised
            number exactly; otherwise to 20 significant bits, so that float32 does.
        scaled: False sets every scale to 1, which loses what lies below 2^-10: the control of
            our experiments.
        kernel: "emulated" multiplies dequantised numbers in float32, on any device; "scaled_mm"
            is cuBLAS's blockwise kernel (compute capability 9.0, CUDA 12.9 or later).

    Raises:
        ValueError: no such kernel, or a block that is not positive.
    """

    block: int = 128
    power_of_two: bool = True
    scaled: bool = True
    kernel: Literal["emulated", "scaled_mm"] = "emulated"

    def __post_init__(self) -> None:
        if self.kernel not in ("emulated", "scaled_mm"):
            raise ValueError(f"kernel must be 'emulated' or 'scaled_mm', got {self.kernel!r}")
        if self.block < 1 or (self.kernel == "scaled_mm" and self.block != 128):
            raise ValueError(f"block must be positive, and 128 for scaled_mm, got {self.block}")


@dataclass(frozen=True)
class Quantized:
    """E4M3 `values` [..., N, K], and a float32 `scale` [..., R, C] per `tile` of (rows, columns).

    The last tile of an axis may be cut short: R is N / rows, rounded up.
    """

    values: Tensor
    scale: Tensor
    tile: tuple[int, int]

    @property
    def T(self) -> "Quantized":
        """The transposed matrix: no number changes."""
        return Quantized(self.values.mT, self.scale.mT, self.tile[::-1])

    def __getitem__(self, index: int | slice | Tensor) -> "Quantized":
        """Some of the first axis, which must not be tiled: matrices of a stack, rows of 1 x C."""
        return Quantized(self.values[index], self.scale[index], self.tile)

    def dequantize(self) -> Tensor:
        """values * scale, float32 [..., N, K]; exact for scales of at most 20 significant bits."""
        if not self.values.is_contiguous() and self.values.mT.is_contiguous():
            return self.T.dequantize().mT  # without copying
        tiles = _tiles(_decode(self.values), self.tile) * self.scale[..., :, None, :, None]
        return _untile(tiles, self.values.shape)


@dataclass
class Underflow:
    """Counts, over backward passes, the nonzero gradients that quantisation turned into zeros."""

    nonzero: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    lost: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def count(self, exact: Tensor, quantized: Quantized) -> None:
        """Add one quantised tensor."""
        nonzero = exact != 0
        zeroed = quantized.values.view(torch.uint8) & 0x7F == 0  # the sign bit aside
        self.nonzero = self.nonzero.to(exact.device) + nonzero.sum()
        self.lost = self.lost.to(exact.device) + (nonzero & zeroed).sum()

    @property
    def share(self) -> float:
        """Share lost, in [0, 1]."""
        return self.lost.item() / max(self.nonzero.item(), 1)


def quantize(x: Tensor, tile: tuple[int, int], recipe: Fp8Recipe) -> Quantized:
    """Quantise the last two axes tile by tile, rounding to nearest even.

    A tile of zeros gets the scale 1. A tile with an infinity or a NaN becomes NaN as a whole, so
    that the loss shows it: clamping would turn it into an ordinary number.
    """
    tiles = _tiles(x.float(), tile)
    scale = tile_scale(tiles.abs().amax(dim=(-3, -1)), recipe)
    scaled = tiles / scale[..., :, None, :, None]
    if not recipe.scaled:
        scaled.clamp_(-E4M3_MAX, E4M3_MAX)  # the conversion gives NaN beyond
    return Quantized(_untile(scaled.to(E4M3), x.shape), scale, tile)


def tile_scale(amax: Tensor, recipe: Fp8Recipe) -> Tensor:
    """amax / 448 rounded up to few bits, from the largest magnitude of each tile (3.3.2)."""
    scale = torch.ones_like(amax)
    if recipe.scaled:
        exact = (amax / E4M3_MAX).clamp(min=MIN_SCALE)
        low_bits = (1 << (23 if recipe.power_of_two else 4)) - 1
        rounded = ((exact.view(torch.int32) + low_bits) & ~low_bits).view(torch.float32)
        scale = torch.where(amax > 0, rounded, scale)
    return torch.where(amax.isfinite(), scale, torch.nan)


def _decode(values: Tensor) -> Tensor:
    """E4M3 as float32. On CPU by table: torch's own conversion takes 15 times as long."""
    if values.device.type != "cpu":
        return values.float()
    codes = values.view(torch.uint8).flatten().int()
    return _NUMBERS.index_select(0, codes).view(values.shape)


def _tiles(x: Tensor, tile: tuple[int, int]) -> Tensor:
    """[..., N, K] as [..., R, rows, C, columns], zeros appended to fill the last tiles."""
    missing = [-size % step for size, step in zip(x.shape[-2:], tile, strict=True)]
    if any(missing):
        x = F.pad(x, (0, missing[1], 0, missing[0]))
    return x.unflatten(-1, (-1, tile[1])).unflatten(-3, (-1, tile[0]))


def _untile(tiles: Tensor, shape: torch.Size) -> Tensor:
    flat = tiles.flatten(-2).flatten(-3, -2)
    return flat if flat.shape == shape else flat[..., : shape[-2], : shape[-1]].contiguous()
