# SPDX-License-Identifier: Apache-2.0
"""Matrix products with weights of four bits: int4, and MXFP4."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.ops.gemm import product
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_SHAPES = ((7, 1024, 512), (1, 896, 384), (33, 96, 200), (300, 128, 64))
_FP4, _E8M0 = torch.float4_e2m1fn_x2, torch.float8_e8m0fnu


def nibbles(packed: Tensor) -> Tensor:
    """Return the codes 0 to 15 of integers, the lowest first, along the last axis."""
    count = 2 * packed.itemsize
    data = packed.long()
    parts = [(data >> 4 * i) & 15 for i in range(count)]
    return torch.stack(parts, dim=-1).flatten(-2)


def e2m1(codes: Tensor) -> Tensor:
    """Return the values of codes by the format's definition, float64.

    A sign, two bits of an exponent with bias 1, one of a fraction (OCP MX
    specification 1.0, 5.3.3).
    """
    sign = 1.0 - 2.0 * (codes >> 3)
    exponent, fraction = (codes >> 1) & 3, (codes & 1) / 2.0
    normal = (1 + fraction) * torch.exp2((exponent - 1).double())
    return sign * torch.where(exponent == 0, fraction, normal)


def e8m0(scales: Tensor) -> Tensor:
    """Return powers of two by the format's definition, float64; code 255 is NaN."""
    code = scales.contiguous().view(torch.uint8).double()
    return torch.exp2(code - 127).masked_fill(code == 255, torch.nan)


def _weight(b: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the weight, [K, N]."""
    values = nibbles(b.t()).t().double()
    size = len(values) // len(scale)
    zeros = zero.double()[:1] if zero.dim() == 1 else nibbles(zero).double()
    if zero.dim() == 2:
        zeros = zeros.repeat_interleave(size, 0)
    return (values - zeros) * scale.double().repeat_interleave(size, 0)


def _arguments(
    k: int, n: int, group: int, asymmetric: bool, dtype: torch.dtype
) -> Arguments:
    rows = 1 if group == -1 else k // group
    packed = making.integers(n, k // 8, below=2**32) - 2**31
    zero = torch.tensor([8], dtype=torch.int8)
    if asymmetric:
        zero = (making.integers(rows, n // 8, below=2**32) - 2**31).int()
    return {
        "B": packed.int().t(),
        "B_scale": making.positive(rows, n).to(dtype),
        "B_zp": zero,
        "group_size": group,
        "g_idx": None,
    }


def _w4a16() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for m, k, n in _SHAPES:
            for asymmetric in (False, True):
                for group in (32, k):
                    base = _arguments(k, n, group, asymmetric, dtype)
                    base["A"] = making.normal(m, k, dtype=dtype)
                    bias = making.normal(n, dtype=dtype) if group == k else None
                    yield {**base, "bias": bias}
                    if m == 7 and group == 32:
                        order = making.distinct(k, k).int()
                        yield {**base, "bias": None, "g_idx": order}


@checked("_xpu_C::int4_gemm_w4a16", _w4a16, vary=("A",), rows=("A", "return"))
def int4_gemm_w4a16(
    A: Tensor,
    B: Tensor,
    bias: Tensor | None,
    B_scale: Tensor,
    B_zp: Tensor,
    group_size: int,
    g_idx: Tensor | None = None,
) -> dict[str, Expected]:
    a = A.double() if g_idx is None else A.double()[..., g_idx.long()]
    weight = _weight(B, B_scale, B_zp)
    wanted = product(a, weight, bias, A.dtype)
    # A weight may be rounded to the type of A.
    info = torch.finfo(A.dtype)
    rounding = (a.abs() @ weight.abs()) * info.eps / 2
    least = a.abs().sum(-1, keepdim=True) * info.smallest_normal * info.eps
    return {"return": replace(wanted, error=wanted.error + rounding + least)}


def _w4a8() -> Iterator[Arguments]:
    for m, k, n in _SHAPES:
        for signed in (True, False):
            for per_row in (True, False):
                shape = (m, 1) if per_row else (1,)
                codes = making.integers(m, k, below=256)
                zero = making.integers(*shape, below=256, dtype=torch.int32)
                base = _arguments(k, n, 32, per_row, torch.float16)
                yield {
                    **base,
                    "A_": (codes - 128).to(torch.int8)
                    if signed
                    else codes.to(torch.uint8),
                    "A_scale": making.positive(*shape).half(),
                    "A_zp": torch.zeros_like(zero) if signed else zero,
                    "bias": making.normal(n, dtype=torch.float16) if m == 7 else None,
                }


@checked("_xpu_C::int4_gemm_w4a8", _w4a8, rows=("A_", "return"))
def int4_gemm_w4a8(
    A_: Tensor,
    A_scale: Tensor,
    A_zp: Tensor,
    B: Tensor,
    B_scale: Tensor,
    B_zp: Tensor,
    group_size: int,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
) -> dict[str, Expected]:
    rows = A_.double() if g_idx is None else A_.double()[..., g_idx.long()]
    flat = rows.reshape(-1, rows.shape[-1])
    values = (flat - A_zp.double().view(-1, 1)) * A_scale.double().view(-1, 1)
    weight = _weight(B, B_scale, B_zp)
    return {
        "return": product(values.view(rows.shape), weight, bias, torch.float16),
    }


def _fp4() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for m, k, n in ((7, 1024, 512), (1, 896, 384), (33, 96, 200)):
            a = making.integers(m, k // 2, below=256).to(torch.uint8)
            b = making.integers(n, k // 2, below=256).to(torch.uint8)
            scales = [
                (118 + making.integers(*shape, below=12)).to(torch.uint8)
                for shape in ((m, k // 32), (k // 32, n))
            ]
            yield {
                "A": a.view(_FP4),
                "B": b.view(_FP4).t(),
                "A_scale": scales[0].view(_E8M0),
                "B_scale": scales[1].view(_E8M0),
                "out_dtype": dtype,
                "bias_": making.normal(n, dtype=dtype) if m == 7 else None,
            }


@checked("_xpu_C::fp4_gemm", _fp4, rows=("A", "return"))
def fp4_gemm(
    A: Tensor,
    B: Tensor,
    A_scale: Tensor,
    B_scale: Tensor,
    out_dtype: torch.dtype | None = None,
    bias_: Tensor | None = None,
) -> dict[str, Expected]:
    a = e2m1(nibbles(A.view(torch.uint8)))
    b = e2m1(nibbles(B.t().view(torch.uint8))).t()
    groups = b.shape[0] // 32
    a_scale = e8m0(A_scale).view(*A.shape[:-1], groups).repeat_interleave(32, -1)
    b_scale = e8m0(B_scale).view(groups, -1).repeat_interleave(32, 0)
    dtype = out_dtype or torch.float16
    return {"return": product(a * a_scale, b * b_scale, bias_, dtype)}
