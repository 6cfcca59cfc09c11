# SPDX-License-Identifier: Apache-2.0
"""Tensors in memory that shows what an op has written."""

import math

import torch
from torch import Tensor

_MARGIN = 16


def poisoned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor whose every byte is 0xff, NaN in the types with a NaN."""
    numel = math.prod(shape) * dtype.itemsize
    return torch.full((numel,), 255, dtype=torch.uint8).view(dtype).view(shape)


def is_poison(tensor: Tensor) -> bool:
    return bool((tensor.contiguous().view(torch.uint8) == 255).all())


class Slab:
    """A tensor with poison before it, behind it, and in the gaps of its strides."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        gaps: tuple[int, ...] = (),
        values: Tensor | None = None,
    ) -> None:
        """Lay out ``view``, of poison or of `values`.

        Args:
            shape: Of the tensor.
            dtype: Of the tensor.
            gaps: Elements left out at the end of each dimension but the first, from
                the last one backwards.
            values: What the tensor holds.

        """
        strides = [1]
        for i, size in enumerate(reversed(shape[1:])):
            gap = gaps[i] if i < len(gaps) else 0
            strides.insert(0, strides[0] * (size + gap))
        numel = 2 * _MARGIN + strides[0] * shape[0]
        self._memory = poisoned((numel,), dtype)
        self._outside = torch.ones(numel, dtype=torch.bool)
        self.view = self._memory.as_strided(shape, strides, _MARGIN)
        self._outside.as_strided(shape, strides, _MARGIN).fill_(False)
        if values is not None:
            self.view.copy_(values)

    def is_untouched_outside(self) -> bool:
        return is_poison(self._memory[self._outside])


def is_close(
    result: Tensor, exact: Tensor, roundings: float = 1, error: float | Tensor = 0.0
) -> bool:
    """Whether `result` is `exact` (float64) but for roundings to its type.

    Args:
        result: Of a floating dtype.
        exact: Of the same shape.
        roundings: How many roundings of the whole value, each half a step.
        error: What a cancellation may add, in float32's or the dtype's precision.

    """
    info = torch.finfo(result.dtype)
    # Results in float32 take a few steps of float32.
    step = roundings * info.eps / 2 * 1.001 + 2.0**-21
    tiny = info.smallest_normal * info.eps
    bound = exact.abs() * step + error + tiny
    off = (result.double() - exact).abs()
    same = (result.double() == exact) | (result.isnan() & exact.isnan())
    return bool((same | (off <= bound)).all())
