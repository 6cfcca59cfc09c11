# SPDX-License-Identifier: Apache-2.0
"""Conversion to and from FP8 (e4m3fn and e5m2), as the kernels' device code does it.

Contracts: csrc/quantization/fp8/quant_utils.h of vllm-xpu-kernels, and the device
code in its wheels.
"""

import functools

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import FP8_DTYPES


def to_fp8(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 `values` to FP8, to nearest even, saturating.

    NaN becomes the largest value: the kernels clamp by ``fmin`` and ``fmax``, which
    drop a NaN.
    """
    limit = torch.finfo(dtype).max
    return values.clamp(-limit, limit).nan_to_num_(nan=limit).to(dtype)


def from_fp8(tensor: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return FP8 `tensor` times `scale` (one value) in float32."""
    table = _values(tensor.dtype)
    if scale is not None:
        table = table * scale.flatten()[0].float()
    # Several times as fast as converting each element.
    index = tensor.view(torch.uint8).flatten().int()
    return table.index_select(0, index).view(tensor.shape)


def to_float(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """Return float32 values; a scale belongs to an FP8 tensor only."""
    if tensor.dtype not in FP8_DTYPES:
        return tensor.float()
    return from_fp8(tensor, scale)


@functools.cache
def _values(dtype: torch.dtype) -> Tensor:
    """Return the value of each byte in an FP8 format, [256]."""
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


def row_amax(values: Tensor) -> Tensor:
    """Return the largest magnitude of each row of float32 ``[..., K]``, NaN left out.

    Returns:
        [..., 1]

    """
    amax = values.abs().amax(dim=-1, keepdim=True)
    if amax.isnan().any():
        amax = values.abs().nan_to_num_(nan=0.0, posinf=torch.inf).amax(-1, True)
    return amax


def dynamic_scale(amax: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the scale that maps `amax` to the largest FP8 value.

    The kernels' lower bound, 1 / (max * 512), keeps a row of zeros from a scale of 0.
    """
    limit = torch.finfo(dtype).max
    return scaled_down(amax, limit).clamp_(min=1.0 / (limit * 512.0))


def scaled_down(amax: Tensor, limit: float) -> Tensor:
    """Return ``amax / limit``, as the kernels' compiler makes it: by the reciprocal."""
    return amax * torch.tensor(limit, dtype=torch.float32).reciprocal()


def power_of_two(scale: Tensor) -> Tensor:
    """Round `scale` up to a power of two (UE8M0)."""
    return torch.exp2(torch.ceil(torch.log2(scale.abs().clamp(min=1e-10))))


def quantize(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float32 ``values / scale`` as FP8, by way of the inverse.

    ``values * (1 / scale)``, as the kernels do it, can differ from the quotient in
    the last bit before rounding.
    """
    return to_fp8(values * scale.reciprocal(), dtype)
