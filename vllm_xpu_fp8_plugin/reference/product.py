# SPDX-License-Identifier: Apache-2.0
"""The product behind each op with weights of few bits."""

from typing import NamedTuple

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.fp8 import from_fp8
from vllm_xpu_fp8_plugin.reference.refusals import FP8_DTYPES, as_rows, require
from vllm_xpu_fp8_plugin.reference.weights import linear

# Rows of a matrix product that are computed at once.
_ROWS = 1024

_HALF_DTYPES = (torch.float16, torch.bfloat16)


class Weight(NamedTuple):
    """An FP8 weight [K, N], of any strides, and its scales as `weights` takes them."""

    b: Tensor
    scale: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        k, n = self.b.shape
        return k, n

    def times(self, rows: Tensor) -> Tensor:
        """Return ``rows @ (b * scale)``, [M, N], float32."""
        return linear(rows, self.b, self.scale)


class Converted(NamedTuple):
    """A weight in float32, [N, K]."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        n, k = self.values.shape
        return k, n

    def times(self, rows: Tensor) -> Tensor:
        """Return ``rows @ values.T``, [M, N], float32."""
        return torch.nn.functional.linear(rows, self.values)


def scaled_weight(name: str, b: Tensor, scale: Tensor | None, blocks: bool) -> Weight:
    """Return the weight ``b * scale``.

    Args:
        name: Of the op, for messages.
        b: [K, N], FP8, of any strides.
        scale: One value, N values, or with `blocks` one a block [K / block, N /
            block]; None for 1.
        blocks: How `scale` is to be read.

    Raises:
        RuntimeError: `scale` does not fit.

    """
    require(b.dim() == 2, "{}: B must be 2D, got shape {}", name, list(b.shape))
    if scale is None:
        return Weight(b, None)
    require(scale.is_contiguous(), "{}: B_scale_ must be contiguous", name)
    k, n = b.shape
    if not blocks:
        require(
            scale.numel() in (1, n),
            "{}: B_scale_ is read as 1 value or one a column ({}), got shape "
            "{} for a weight of shape {}. Blocks need "
            "two groups or more along K",
            name,
            n,
            scale.shape,
            b.shape,
        )
        return Weight(b, scale if scale.dim() == 1 else scale.view(-1))
    require(
        scale.dim() == 2 and k % scale.shape[0] == 0 and n % scale.shape[1] == 0,
        "{}: weight block scale dims must divide [K, N], got K={}, N={}, scale "
        "shape {}",
        name,
        k,
        n,
        scale.shape,
    )
    return Weight(b, scale)


def product(
    name: str,
    a: Tensor,
    a_scale: Tensor | None,
    weight: Weight | Converted,
    bias: Tensor | None,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """Return ``(a * a_scale) @ weight + bias``, computed in float32.

    Args:
        name: Of the op, for messages.
        a: [M, K] or [b, m, K] with M = b * m.
        a_scale: One value, M values, or [M, groups], for FP8 `a`; None for 1.
        weight: [K, N]
        bias: One value, [N], [M, N], [M, 1], or empty or None.
        dtype: fp16 or bf16.
        out: Where to write the result, None to allocate it.

    Returns:
        [M, N] or [b, m, N], allocated with the order of dimensions in memory of `a`.

    Raises:
        RuntimeError: Shapes, strides or types do not fit.

    """
    require(a.dim() in (2, 3), "{}: A must be 2D or 3D, got {}D", name, a.dim())
    k, n = weight.shape
    require(
        a.shape[-1] == k, "{}: A has {} columns and B {} rows", name, a.shape[-1], k
    )
    if dtype not in _HALF_DTYPES:
        raise RuntimeError(f"{name}: output must be float16 or bfloat16, got {dtype}")
    if out is None:
        strides = [stride // k * n for stride in a.stride()[:-1]]
        out = torch.empty_strided((*a.shape[:-1], n), (*strides, 1), dtype=dtype)
    # The kernel takes the rows, and scales and biases of them, in memory's order.
    swapped = a.dim() == 3 and a.stride(0) < a.stride(1)
    rows = as_rows(name, "A", a.transpose(0, 1) if swapped else a)
    result = as_rows(name, "the result", out.transpose(0, 1) if swapped else out)
    if a_scale is not None and a_scale.numel() > 1:
        a_scale = a_scale.view(rows.shape[0], -1)
    if bias is not None:
        bias = _as_bias(name, bias, *result.shape)
    # By parts that stay in the processor's cache between conversion and product.
    for start in range(0, rows.shape[0], _ROWS):
        part = slice(start, start + _ROWS)
        scale = a_scale
        if a_scale is not None and a_scale.numel() > 1:
            scale = a_scale[part]
        values = _dequantized_rows(rows[part], scale)
        sums = weight.times(values)
        if bias is not None:
            sums.add_(bias if bias.dim() < 2 else bias[part])
        result[part] = sums
    return out


def _as_bias(name: str, bias: Tensor, m: int, n: int) -> Tensor | None:
    """Return `bias` in float32, [N] or [M, N or 1]."""
    # vLLM passes an empty tensor for "no bias" (kernels/linear/scaled_mm/xpu.py).
    if not bias.numel():
        return None
    require(bias.is_contiguous(), "{}: bias must be contiguous", name)
    values = bias.float()
    if bias.numel() == 1:
        return values.reshape(1).expand(n)
    if bias.numel() == n and bias.shape[-1] == n:
        return values.view(n)
    if bias.numel() == m * n:
        return values.view(m, n)
    require(
        bias.numel() == m and bias.shape[-1] == 1,
        "{}: bias must have 1, {}, [{}, 1] or [{}, {}] values, got shape {}",
        name,
        n,
        m,
        m,
        n,
        bias.shape,
    )
    return values.view(m, 1)


def _dequantized_rows(rows: Tensor, scale: Tensor | None) -> Tensor:
    """Return ``rows [M, K]`` times one scale, or ``[M, groups]``, in float32."""
    if rows.dtype not in FP8_DTYPES:
        return rows.float()
    if scale is None or scale.numel() == 1:
        return from_fp8(rows, scale)
    values = from_fp8(rows)
    values.view(*scale.shape, -1).mul_(scale.float().unsqueeze(-1))
    return values
