"""Blockwise FP8 as written, one tile at a time, in NumPy: slow, and independent of
`model.fp8.quantize`.

Leaves out speed, autograd and torch's own E4M3 conversion.
"""

import math
from fractions import Fraction

import numpy as np

# All finite magnitudes of E4M3 by code: 4 exponent bits (bias 7), 3 mantissa bits, no infinity.
MAGNITUDES = np.array(
    [m * 2.0**-9 if e == 0 else (8 + m) * 2.0 ** (e - 10) for e in range(16) for m in range(8)][:-1]
)


def scale_of(amax: float, power_of_two: bool) -> float:
    """amax / 448 as float32, at least 2^-117, rounded up to 1 or 20 significant bits."""
    if amax == 0:
        return 1.0
    exact = Fraction(float(np.float32(amax) / np.float32(448)))
    exact = max(exact, Fraction(2) ** -117)
    bits = 1 if power_of_two else 20
    unit = Fraction(2) ** (math.frexp(float(exact))[1] - bits)
    return float(math.ceil(exact / unit) * unit)


def round_to_e4m3(x: np.ndarray) -> np.ndarray:
    """The nearest E4M3 number; of two, the one with an even code; at most 448."""
    distance = np.abs(np.abs(x.astype(np.float64))[..., None] - MAGNITUDES)
    near = distance == distance.min(-1, keepdims=True)
    odd = np.arange(len(MAGNITUDES)) % 2 == 1
    code = np.where(near, odd + 0.0, np.inf).argmin(-1)
    return (np.copysign(MAGNITUDES[code], x)).astype(np.float32)


def quantize(
    x: np.ndarray, tile: tuple[int, int], power_of_two: bool
) -> tuple[np.ndarray, np.ndarray]:
    """E4M3 numbers (as float32) and scales of a float32 matrix."""
    values = np.zeros_like(x)
    scale = np.zeros([-(-n // t) for n, t in zip(x.shape, tile, strict=True)], np.float32)
    for i, j in np.ndindex(scale.shape):
        part = np.s_[i * tile[0] : (i + 1) * tile[0], j * tile[1] : (j + 1) * tile[1]]
        scale[i, j] = scale_of(float(np.abs(x[part]).max()), power_of_two)
        values[part] = round_to_e4m3(x[part] / scale[i, j])
    return values, scale


def product(
    left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], rows_per_scale: int
) -> np.ndarray:
    """left [N, K] times right [M, K] transposed, promoted to float32 every 128 of K (3.3.2).

    `left` has 1 x 128 tiles; `right` one scale for `rows_per_scale` of its rows.
    """
    (a, scale_a), (b, scale_b) = left, right
    out = np.zeros((a.shape[0], b.shape[0]), np.float32)
    for j in range(scale_a.shape[1]):
        k = np.s_[:, j * 128 : (j + 1) * 128]
        partial = a[k].astype(np.float64) @ b[k].astype(np.float64).T
        scale_rows = np.repeat(scale_b[:, j], rows_per_scale)[: b.shape[0]]
        out += partial.astype(np.float32) * scale_a[:, j, None] * scale_rows
    return out
