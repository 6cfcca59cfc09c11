# SPDX-License-Identifier: Apache-2.0
"""Values of four bits, two a byte or eight an int32, the first in the lowest bits."""

import functools

import torch
from torch import Tensor

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def codes(packed: Tensor) -> Tensor:
    """Return the codes 0 to 15 of uint8 or int32 ``[..., n]``.

    Returns:
        [..., 2 n] of bytes, [..., 8 n] of int32, uint8.

    """
    data = packed.contiguous().view(torch.uint8)
    return torch.stack((data & 15, data >> 4), dim=-1).flatten(-2)


def from_fp4(packed: Tensor) -> Tensor:
    """Return the values of FP4 (e2m1) ``[..., n]``, any type of one byte.

    Returns:
        [..., 2 n], float32.

    """
    return _fp4_values()[codes(packed.view(torch.uint8)).int()]


def from_int4(packed: Tensor) -> Tensor:
    """Return the values -8 to 7 of two's complement ``[..., n]``, one byte each.

    Returns:
        [..., 2 n], float32.

    """
    values = codes(packed.view(torch.uint8)).float()
    return values - (values >= 8) * 16.0


def from_e8m0(scales: Tensor) -> Tensor:
    """Return powers of two, float32: bytes or ``float8_e8m0fnu``; 255 is NaN."""
    return scales.view(torch.float8_e8m0fnu).float()


@functools.cache
def _fp4_values() -> Tensor:
    return torch.tensor([*_E2M1, *(-x for x in _E2M1)])
