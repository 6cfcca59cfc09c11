# SPDX-License-Identifier: Apache-2.0
"""Matrix products with FP8 weights."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected, spacing
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked


def expanded(scale: Tensor | None, rows: int, columns: int) -> Tensor:
    """Return a scale of one value, one a column or one a block, [rows, columns]."""
    if scale is None:
        return torch.ones(1, 1).double()
    values = scale.double()
    if values.numel() == 1:
        return values.view(1, 1)
    if values.dim() == 1 or values.shape[0] == 1:
        return values.view(1, -1)
    values = values.repeat_interleave(rows // values.shape[0], 0)
    return values.repeat_interleave(columns // values.shape[1], 1)


def product(
    a: Tensor, b: Tensor, bias: Tensor | None, dtype: torch.dtype, split: bool = True
) -> Expected:
    """Return ``a @ b + bias`` of float64, summed in float32 and rounded to `dtype`.

    A bias may be added to the rounded product: libraries do it in another step.
    """
    exact, sizes = a @ b, a.abs() @ b.abs()
    error = sizes * 2.0**-24 * min(2 * a.shape[-1] ** 0.5 + 8, a.shape[-1] + 8)
    if bias is not None and bias.numel():
        if split:
            error = error + spacing(exact, dtype) / 2
        exact = exact + bias.double()
    return Expected(exact, error=error)


def _weight(k: int, n: int, fp8: torch.dtype, how: str) -> dict[str, Tensor | None]:
    # vLLM keeps weights as [N, K] and passes them transposed.
    weight = making.normal(n, k, dtype=fp8).t()
    scales = {
        "tensor": making.positive(1),
        "channel": making.positive(n),
        "row of channels": making.positive(1, n),
        "blocks": making.positive(k // 128, n // 128) if k >= 256 else None,
    }
    return {"B": weight, "B_scale_": scales[how]}


def _w8a16() -> Iterator[Arguments]:
    shapes = ((7, 1024, 512), (1, 896, 384), (33, 96, 200), (300, 128, 64))
    for dtype in making.HALVES:
        for fp8 in (making.E4M3, making.E5M2):
            for m, k, n in shapes:
                a = making.normal(m, k, dtype=dtype)
                for how in ("tensor", "channel", "row of channels"):
                    bias = making.normal(n, dtype=dtype) if how != "tensor" else None
                    yield {"A": a, **_weight(k, n, fp8, how), "bias_": bias}
        yield {
            "A": making.normal(2, 5, 512, dtype=dtype),
            **_weight(512, 256, making.E4M3, "blocks"),
            "bias_": None,
        }


@checked("_xpu_C::fp8_gemm_w8a16", _w8a16, vary=("A",), rows=("A", "return"))
def fp8_gemm_w8a16(
    A: Tensor, B: Tensor, B_scale_: Tensor | None = None, bias_: Tensor | None = None
) -> dict[str, Expected]:
    weight = B.double() * expanded(B_scale_, *B.shape)
    return {"return": product(A.double(), weight, bias_, A.dtype)}


def _w8a8() -> Iterator[Arguments]:
    shapes = ((7, 1024, 512), (1, 896, 384), (33, 96, 200))
    for dtype in making.HALVES:
        for m, k, n in shapes:
            for how in ("tensor", "channel"):
                scale = making.positive(1 if how == "tensor" else m)
                yield {
                    "A": making.normal(m, k, dtype=making.E4M3),
                    **_weight(k, n, making.E4M3, how),
                    "out_dtype": dtype,
                    "A_scale_": scale.view(-1, 1) if how == "channel" else scale,
                    "bias_": making.normal(n, dtype=dtype) if m == 7 else None,
                }
        yield {
            "A": making.normal(5, 512, dtype=making.E4M3),
            **_weight(512, 256, making.E4M3, "blocks"),
            "out_dtype": dtype,
            "A_scale_": making.positive(5, 4),
            "bias_": None,
        }


def _scaled_rows(a: Tensor, scale: Tensor | None) -> Tensor:
    """Return FP8 rows times one scale, one a row, or one a row and group."""
    values = a.double()
    if scale is None or scale.numel() == 1:
        return values if scale is None else values * scale.double().view(())
    rows = values.reshape(-1, a.shape[-1])
    groups = scale.double().view(len(rows), -1)
    per = a.shape[-1] // groups.shape[1]
    return (rows * groups.repeat_interleave(per, 1)).view(a.shape)


@checked("_xpu_C::fp8_gemm", _w8a8, vary=("A",), rows=("A", "return"))
def fp8_gemm(
    A: Tensor,
    B: Tensor,
    out_dtype: torch.dtype | None = None,
    A_scale_: Tensor | None = None,
    B_scale_: Tensor | None = None,
    bias_: Tensor | None = None,
) -> dict[str, Expected]:
    weight = B.double() * expanded(B_scale_, *B.shape)
    dtype = out_dtype or torch.float16
    return {"return": product(_scaled_rows(A, A_scale_), weight, bias_, dtype)}


def _out() -> Iterator[Arguments]:
    for arguments in _w8a8():
        shape = len(arguments["A"]), arguments["B"].shape[1]
        yield {**arguments, "out": making.empty(*shape, dtype=arguments["out_dtype"])}


@checked("_xpu_C::fp8_gemm_out", _out, vary=("A",))
def fp8_gemm_out(
    out: Tensor, A: Tensor, B: Tensor, **others: Any
) -> dict[str, Expected]:
    others["out_dtype"] = others.get("out_dtype") or out.dtype
    return {"out": fp8_gemm(A, B, **others)["return"]}


def _batches() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for batch, m, k, n in ((3, 7, 256, 64), (1, 1, 96, 48)):
            a = making.normal(batch, m, k, dtype=making.E4M3)
            b = making.normal(batch, n, k, dtype=making.E4M3).transpose(1, 2)
            base: Arguments = {"A": a, "B": b, "out_dtype": dtype, "bias_": None}
            yield {
                **base,
                "A_scale_": making.positive(1),
                "B_scale_": making.positive(1),
            }
            yield {
                **base,
                "A_scale_": making.positive(batch, m),
                "B_scale_": making.positive(batch, n),
            }


@checked("_xpu_C::fp8_bmm", _batches, vary=("A",))
def fp8_bmm(
    A: Tensor,
    B: Tensor,
    out_dtype: torch.dtype | None = None,
    A_scale_: Tensor | None = None,
    B_scale_: Tensor | None = None,
    bias_: Tensor | None = None,
) -> dict[str, Expected]:
    a, b = A.double(), B.double()
    for_rows = A_scale_ is not None and A_scale_.numel() > 1
    if A_scale_ is not None:
        scale = A_scale_.double()
        if scale.dim() == 3:
            scale = scale.repeat_interleave(A.shape[2] // scale.shape[2], 2)
        a = a * (scale.view(len(A), A.shape[1], -1) if for_rows else scale.view(()))
    if B_scale_ is not None:
        scale = B_scale_.double()
        if scale.dim() == 3:
            b = b * torch.stack([expanded(s, *B.shape[1:]) for s in scale])
        else:
            columns = scale.numel() > 1
            b = b * (scale.view(len(B), 1, -1) if columns else scale.view(()))
    return {"return": product(a, b, bias_, out_dtype or torch.float16)}
