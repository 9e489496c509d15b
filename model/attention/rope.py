"""Rotary positions (RoPE, arXiv:2104.09864), stretched by YaRN if asked.

Angles are float32 products, as the reference and the serving engines compute them: at position
131,071 they lie up to 0.004 rad from the exact ones, and a checkpoint was trained on these.

Axes: B sequences, T tokens, H heads, R rotated features, so R/2 pairs and R/2 frequencies.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from model.configuration import SparringMoeConfig


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's attention temperature for a context stretched `factor` times (2309.00071, Eq. 22)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def attention_scale(config: SparringMoeConfig) -> float:
    """Factor of the attention logits: 1/sqrt(width), times YaRN's mscale squared."""
    rope = config.rope_parameters or {}
    scale = config.qk_head_dim**-0.5
    if rope.get("rope_type") == "yarn" and rope.get("mscale_all_dim"):
        scale *= yarn_mscale(rope["factor"], rope["mscale_all_dim"]) ** 2
    return scale


def rotations(config: SparringMoeConfig, position_ids_BT: Tensor) -> Tensor:
    """Unit complex numbers, times YaRN's length scale, that rotate each pair at each position.

    Returns:
        complex64 [B, T, 1, R/2], to broadcast over heads.
    """
    rope = dict(config.rope_parameters or {})
    rope.setdefault("original_max_position_embeddings", config.max_position_embeddings)
    settings = tuple(sorted((key, value) for key, value in rope.items() if value is not None))
    frequencies, length = _frequencies(config.qk_rope_head_dim, settings, position_ids_BT.device)
    angles = position_ids_BT[..., None, None].float() * frequencies
    return torch.polar(torch.full_like(angles, length), angles)


def rotate(x_BTHR: Tensor, rotations_BT1R: Tensor) -> Tensor:
    """Rotate the pairs (0, 1), (2, 3), ... of the last axis; computed in float32."""
    pairs = torch.view_as_complex(x_BTHR.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotations_BT1R).flatten(-2).to(x_BTHR.dtype)


def rotate_halves(x_BTHR: Tensor, rotations_BT1R: Tensor) -> Tensor:
    """As `rotate`, with the pairs (0, R/2), (1, R/2 + 1), ..., which the indexer has."""
    pairs = torch.complex(*x_BTHR.float().chunk(2, -1)) * rotations_BT1R
    return torch.cat((pairs.real, pairs.imag), -1).to(x_BTHR.dtype)


@lru_cache(maxsize=16)
def _frequencies(
    width: int, settings: tuple[tuple[str, object], ...], device: torch.device
) -> tuple[Tensor, float]:
    """Angle per position of each pair, and the factor on the rotated features' length."""
    rope = dict(settings)
    with torch.inference_mode(False):
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
        lengths = rope["rope_theta"] ** exponents
        plain = 1.0 / lengths
        if rope.get("rope_type", "default") == "default":
            return plain, 1.0
        keep = 1 - _interpolated_share(width, rope).to(device)
        # Not plain / factor: at 128k tokens its other rounding turns by up to 0.002.
        stretched = 1.0 / (rope["factor"] * lengths)
        return stretched * (1 - keep) + plain * keep, _yarn_length(rope)


def _interpolated_share(width: int, rope: dict) -> Tensor:
    """Per pair: 0 keeps its frequency, 1 divides it by the factor (2309.00071, Eq. 18-19)."""
    bounds = [_pair_of_turns(turns, width, rope) for turns in _turns(rope)]
    if rope.get("truncate", True):
        bounds = [math.floor(bounds[0]), math.ceil(bounds[1])]
    low, high = max(bounds[0], 0), min(bounds[1], width - 1)
    if low == high:
        high += 0.001  # the reference's guard: a step, not a division by zero
    pairs = torch.arange(width // 2, dtype=torch.float32)
    return ((pairs - low) / (high - low)).clamp(0, 1)


def _turns(rope: dict) -> tuple[float, float]:
    return rope.get("beta_fast") or 32, rope.get("beta_slow") or 1


def _pair_of_turns(turns: float, width: int, rope: dict) -> float:
    """Index of the pair that makes `turns` full turns over the original context."""
    context = rope["original_max_position_embeddings"]
    return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))


def _yarn_length(rope: dict) -> float:
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    mscale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if mscale and all_dim:
        return yarn_mscale(rope["factor"], mscale) / yarn_mscale(rope["factor"], all_dim)
    return yarn_mscale(rope["factor"])
