# SPDX-License-Identifier: Apache-2.0
"""What an op should have written, in float64, and how far from it a result is."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Arithmetic in float32 before the one rounding: some steps of float32.
FLOAT32 = 2.0**-20
# What a processor may take for zero where values are float32 or have its exponents.
_FLUSHED = 2.0**-126
_SATURATING = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
# Two codes a byte, the first one in the lower half.
FP4 = torch.float4_e2m1fn_x2
_FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Expected:
    """What an output should hold.

    Attributes:
        values: Of the output's shape: float64 for numbers, which the output rounds;
            of an integer type for what has to be equal. NaN: anything is right.
        dtype: What the output's bytes hold, where its own type does not say it: FP8
            in a cache of uint8, or `FP4`, of which `values` are twice as wide.
        roundings: How often a value of its size is rounded to the output's type.
        error: What else it may be off by: where terms cancel, where the type of an
            intermediate result is a narrow one.
        relative: A part of the value that it may be off by.
        written: Which elements are to be written, None for all. The others are to
            stay as they were.
        alternative: What the output may hold as well.
        sets: Of what has to be equal, a number for each element: those with the same
            one may be in any order.

    """

    values: Tensor
    dtype: torch.dtype | None = None
    roundings: float = 1.0
    error: Tensor | float = 0.0
    relative: float = FLOAT32
    written: Tensor | None = None
    alternative: Tensor | None = None
    sets: Tensor | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the output has to be equal."""
        return not self.values.is_floating_point()


class Comparison(NamedTuple):
    """How far a result is from what it should be.

    Attributes:
        wrong: Which elements are farther off than allowed.
        ulps: The largest error, in units of the output's last place, or of the last
            place of the terms that cancelled.
        relative: The largest error as a part of the value.

    """

    wrong: Tensor
    ulps: float
    relative: float


def compare(got: Tensor, expected: Expected, before: Tensor) -> Comparison:
    """Compare an output with what it should hold.

    Args:
        got: The output, on the CPU.
        expected: What it should hold.
        before: What it held before the call.

    """
    dtype = expected.dtype or got.dtype
    if expected.dtype is not None:
        got, before = stored(got, expected), stored(before, expected)
    changed = (bits(got) != bits(before)) if expected.written is not None else None
    if expected.is_exact:
        off = bits(got) if got.is_floating_point() else got
        exact = expected.values
        if expected.sets is not None:
            off, exact = (_in_order(x, expected.sets) for x in (off, exact))
        wrong = off != exact
        if expected.alternative is not None:
            wrong &= off != expected.alternative
        ulps = relative = 0.0
    else:
        wrong, units, parts = _distance(got, expected, dtype)
        if expected.written is not None:
            units, parts = (x.where(expected.written, 0) for x in (units, parts))
        ulps = float(units.max()) if units.numel() else 0.0
        relative = float(parts.max()) if parts.numel() else 0.0
    if changed is not None and expected.written is not None:
        wrong = wrong.where(expected.written, changed)
    return Comparison(wrong, ulps, relative)


def _in_order(values: Tensor, sets: Tensor) -> Tensor:
    """Return the values with those of each set sorted, by set."""
    by_value = values.flatten().argsort(stable=True)
    by_set = sets.flatten()[by_value].argsort(stable=True)
    return values.flatten()[by_value[by_set]].view(values.shape)


def stored(tensor: Tensor, expected: Expected) -> Tensor:
    """Return an output as what it holds: FP8 of uint8, or the values of FP4."""
    if expected.dtype != FP4:
        return tensor if expected.dtype is None else tensor.view(expected.dtype)
    if tensor.dtype != torch.uint8:
        return tensor
    codes = torch.stack([tensor & 15, tensor >> 4], dim=-1).flatten(-2).long()
    values = torch.tensor([*_FP4_VALUES, *(-x for x in _FP4_VALUES)])
    return values[codes]


def _distance(
    got: Tensor, expected: Expected, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is wrong, and the error in units and as a part of the value."""
    exact, values = held(expected, dtype), got.double()
    unit, allowed = spacing(exact, dtype), bound(expected, dtype)
    off = (values - exact).abs()
    # Beyond the largest value a result is infinite, or about to be.
    is_float = dtype.is_floating_point and dtype != FP4
    limit = torch.finfo(dtype).max if is_float else torch.inf
    beyond = (exact.abs() >= limit * (1 - 2.0**-9)) & (values.sign() == exact.sign())
    beyond &= values.abs() >= limit * (1 - 2.0**-8)
    same = (values == exact) | exact.isnan() | beyond
    if expected.alternative is not None:
        same |= (values - expected.alternative).abs() <= allowed
    # A part of infinity is infinite, and so would be what is allowed.
    wrong = ~(same | ((off <= allowed) & exact.isfinite()))
    off = off.where(~same, 0.0).nan_to_num(nan=torch.inf)
    parts = off / exact.abs().clamp(min=torch.finfo(torch.float32).smallest_normal)
    # Where larger terms cancel, the last place is theirs.
    unit = torch.maximum(unit, torch.as_tensor(expected.error, dtype=torch.float64))
    return wrong, off / unit, parts.nan_to_num(nan=torch.inf)


def bound(expected: Expected, dtype: torch.dtype) -> Tensor:
    """Return how far an output of a type may be off, element by element."""
    exact = held(expected, dtype)
    allowed = 0.5 * expected.roundings * spacing(exact, dtype) * (1 + 2.0**-12)
    allowed = allowed + expected.relative * exact.abs() + expected.error
    if dtype in (torch.float32, torch.bfloat16):
        allowed = allowed + _FLUSHED
    return allowed


def held(expected: Expected, dtype: torch.dtype) -> Tensor:
    """Return what a type is to hold: the values, within those of one that saturates."""
    if dtype == FP4:
        return expected.values.clamp(-6, 6)
    if dtype == torch.int8:
        return expected.values.clamp(-128, 127)
    if dtype in _SATURATING:
        limit = torch.finfo(dtype).max
        return expected.values.clamp(-limit, limit)
    return expected.values


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the distance of `dtype`'s values around float64 `values`."""
    if dtype == FP4:
        size = values.abs()
        return 0.5 * (1 + (size >= 2).double() + 2 * (size >= 4).double())
    if not dtype.is_floating_point:
        return torch.ones_like(values)
    info = torch.finfo(dtype)
    size = values.abs().nan_to_num(nan=1.0, posinf=info.max).clamp(max=info.max)
    _, exponent = torch.frexp(size)
    least = info.smallest_normal * info.eps
    return torch.exp2(exponent.double()).mul(info.eps / 2).clamp(min=least)


def bits(tensor: Tensor) -> Tensor:
    """Return a tensor's bits as integers of its width; of integers the tensor."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(kinds[tensor.itemsize])


def copied(source: Tensor) -> Tensor:
    """Return what an output that is a copy has to be equal to: bits."""
    return bits(source.contiguous())
