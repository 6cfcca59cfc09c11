# SPDX-License-Identifier: Apache-2.0
"""FP8 formats and products from their definitions, in float64."""

import torch
from torch import Tensor

# Exponent bits, mantissa bits, bias (OCP 8-bit floating point specification).
_FORMATS = {torch.float8_e4m3fn: (4, 3, 7), torch.float8_e5m2: (5, 2, 15)}
LIMITS = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def magnitudes(dtype: torch.dtype) -> Tensor:
    """Return the finite values of the format that are not negative, by code."""
    exponent_bits, mantissa_bits, bias = _FORMATS[dtype]
    values = []
    for code in range(128):
        exponent, mantissa = divmod(code, 1 << mantissa_bits)
        fraction = mantissa / (1 << mantissa_bits)
        if exponent == 0:
            values.append(fraction * 2.0 ** (1 - bias))
        else:
            values.append((1 + fraction) * 2.0 ** (exponent - bias))
    values = [v for v in values if v <= LIMITS[dtype]]
    assert values[-1] == LIMITS[dtype] and exponent_bits + mantissa_bits == 7
    return torch.tensor(values, dtype=torch.float64)


def nearest(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to the nearest value of the format, ties to the even code, saturating.

    NaN gives the largest value, as the kernels' fmin and fmax do.
    """
    table = magnitudes(dtype)
    size = values.double().nan_to_num(nan=table[-1].item()).abs().clamp(max=table[-1])
    above = torch.searchsorted(table, size).clamp(max=len(table) - 1)
    below = (above - 1).clamp(min=0)
    up, down = table[above] - size, size - table[below]
    choice = torch.where(up < down, above, below)
    choice = torch.where(up == down, below + below % 2, choice)
    choice = torch.where(size == table[above], above, choice)
    return torch.where(values < 0, -table[choice], table[choice])


def is_nearest(result: Tensor, *exact: Tensor, slack: float = 3e-7) -> bool:
    """Whether `result` (FP8) is `exact` rounded, which may be off by `slack`.

    The slack is what float32 arithmetic before the rounding may be off by. Of several
    `exact`, each value must be that of one: they differ where a rounding before is
    uncertain.
    """
    slacks = (-slack, 0.0, slack)
    allowed = [nearest(e * (1 + s), result.dtype) for e in exact for s in slacks]
    fits = torch.stack([result.double() == a for a in allowed])
    return bool(fits.any(dim=0).all())


def rounded(exact: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Return what `exact`, computed in float32, may be when rounded to `dtype`."""
    return [(exact * (1 + s)).to(dtype) for s in (-1e-6, 0.0, 1e-6)]


def is_int8(result: Tensor, exact: Tensor) -> bool:
    """Whether int8 `result` is `exact` rounded, of which float32 has 1e-6 wrong."""
    error = (result.double() - exact.clamp(-128, 127)).abs()
    return result.dtype == torch.int8 and bool((error <= 0.5 + 2e-4).all())


def scale_is_right(
    scale: Tensor, amax: Tensor, dtype: torch.dtype, power_of_two: bool = False
) -> bool:
    """Whether `scale` maps `amax` to the largest value of FP8 `dtype`.

    Not below the kernels' least scale, 1 / (largest * 512).
    """
    limit = LIMITS[dtype]
    exact = (amax.double() / limit).clamp(min=1 / (limit * 512))
    ratio = scale.double() / exact
    if not power_of_two:
        return bool(((ratio - 1).abs() < 3e-6).all())
    mantissa, _ = torch.frexp(scale)
    fits = (mantissa == 0.5) & (ratio > 1 - 3e-6) & (ratio < 2 + 3e-6)
    return bool(fits.all())


def expand(scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return one scale an element of a matrix, from one a group, [rows, columns]."""
    rows = torch.arange(shape[0]) * scale.shape[0] // shape[0]
    columns = torch.arange(shape[1]) * scale.shape[1] // shape[1]
    return scale.double()[rows][:, columns]


def product_is_right(
    result: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None
) -> bool:
    """Whether `result` is ``a @ b + bias`` rounded once to its type.

    Sums in float32 may be off by their length times its precision.
    """
    exact = a.double() @ b.double()
    sizes = a.double().abs() @ b.double().abs()
    if bias is not None:
        exact, sizes = exact + bias.double(), sizes + bias.double().abs()
    half_step = torch.finfo(result.dtype).eps / 2
    tiny = torch.finfo(result.dtype).smallest_normal * torch.finfo(result.dtype).eps
    bound = half_step * exact.abs() * 1.001 + 2.0**-23 * a.shape[-1] * sizes + tiny
    return bool(((result.double() - exact).abs() <= bound).all())
