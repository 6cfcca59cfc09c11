# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.fp8_gemm, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference.ops import Ops
from tests.reference.oracle_fp8 import expand, product_is_right
from vllm_xpu_fp8_plugin.reference import weights

ops = Ops("_xpu_C")

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
FP8 = st.sampled_from([torch.float8_e4m3fn, torch.float8_e5m2])
HALF = st.sampled_from([torch.float16, torch.bfloat16])
BIASES = st.sampled_from([None, "empty", "scalar", "column", "row", "matrix"])
# vLLM's transposed view of a checkpoint's [N, K], and a matrix [K, N].
LAYOUTS = st.sampled_from(["transposed", "plain"])


def bias_of(kind: str | None, m: int, n: int) -> Tensor | None:
    shapes = {"empty": (0,), "scalar": (1,), "column": (n,), "row": (m, 1)}
    return None if kind is None else torch.randn(shapes.get(kind, (m, n)))


def fp8_weight(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    if layout == "transposed":
        return torch.randn(*shape[:-2], shape[-1], shape[-2]).to(dtype).mT
    return torch.randn(shape).to(dtype)


def usable(bias: Tensor | None) -> Tensor | None:
    return None if bias is None or not bias.numel() else bias


@PROPERTY
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)),
    FP8,
    HALF,
    st.sampled_from([None, "tensor", "1d", "2d", "block"]),
    BIASES,
    LAYOUTS,
    st.sampled_from(["2d", "3d", "swapped", "strided"]),
    st.integers(0, 99),
)
def test_w8a16_is_right(
    sizes: tuple[int, int, int],
    fp8: torch.dtype,
    half: torch.dtype,
    scales: str | None,
    bias_kind: str | None,
    layout: str,
    form: str,
    seed: int,
) -> None:
    """Catches a wrong scale, bias, transposition, or order of rows."""
    torch.manual_seed(seed)
    m, k, n = sizes[0], 16 * (sizes[1] + 1), 16 * sizes[2]
    b = fp8_weight((k, n), fp8, layout)
    scale, full = {
        None: (None, torch.ones(1, 1)),
        "tensor": (torch.tensor(0.7), torch.full((1, 1), 0.7)),
        "1d": (row := torch.rand(n), row[None]),
        "2d": (row[None], row[None]),
        "block": (blocks := torch.rand(k // 16, n // 16), blocks),
    }[scales]
    if scales == "2d" and n == 1:
        scale = row
    a = torch.randn(m, k, dtype=half)
    if form == "strided":
        a = torch.randn(m, 2 * k, dtype=half)[:, :k]
    elif form == "3d":
        a = torch.randn(2, m, k, dtype=half)
    elif form == "swapped":
        a = torch.randn(m, 2, k, dtype=half).transpose(0, 1)
    # The kernel counts rows in memory's order.
    rows = a.transpose(0, 1).flatten(0, 1) if form == "swapped" else a.flatten(0, -2)
    bias = bias_of(bias_kind, rows.shape[0], n)
    result = ops.fp8_gemm_w8a16(a, b, scale, bias)
    assert result.dtype == half and result.shape == (*a.shape[:-1], n)
    got = result.transpose(0, 1) if form == "swapped" else result
    weight = b.double() * expand(full, (k, n))
    assert product_is_right(got.reshape(-1, n), rows, weight, usable(bias))


@PROPERTY
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)),
    FP8,
    HALF,
    st.sampled_from([None, "tensor", "token"]),
    st.sampled_from([None, "tensor", "channel", "column"]),
    BIASES,
    LAYOUTS,
    st.booleans(),
    st.integers(0, 99),
)
def test_w8a8_is_right(
    sizes: tuple[int, int, int],
    fp8: torch.dtype,
    half: torch.dtype,
    a_kind: str | None,
    b_kind: str | None,
    bias_kind: str | None,
    layout: str,
    with_out: bool,
    seed: int,
) -> None:
    """Catches scales applied to the wrong side, and a result that is not in `out`."""
    torch.manual_seed(seed)
    m, k, n = sizes[0], 8 * sizes[1], 8 * sizes[2]
    a, b = torch.randn(m, k).to(fp8), fp8_weight((k, n), fp8, layout)
    shapes = {None: (1, 1), "tensor": (1, 1), "token": (m, 1)}
    a_scale, b_scale = torch.rand(shapes[a_kind]), torch.rand(1, n)
    if b_kind in (None, "tensor"):
        b_scale = torch.rand(1, 1)
    # vLLM passes an [N, 1] scale of a compressed-tensors checkpoint as it is.
    b_argument = b_scale.t().contiguous() if b_kind == "column" else b_scale.flatten()
    bias = bias_of(bias_kind, m, n)
    arguments = (
        half,
        a_scale if a_kind else None,
        b_argument if b_kind else None,
        bias,
    )
    # Kernel packages before 0.1.14 have no fp8_gemm_out.
    if with_out and hasattr(ops, "fp8_gemm_out"):
        memory = torch.full((m + 2, n), float("nan"), dtype=half)
        result = ops.fp8_gemm_out(memory[1:-1], a, b, *arguments)
        assert result.data_ptr() == memory[1:-1].data_ptr()
        assert memory[[0, -1]].isnan().all(), "written outside of `out`"
        result = memory[1:-1]
    else:
        result = ops.fp8_gemm(a, b, *arguments)
    assert result.dtype == half and result.shape == (m, n)
    left = a.double() * (a_scale.double() if a_kind else 1)
    right = b.double() * (b_scale.double() if b_kind else 1)
    assert product_is_right(result, left, right, usable(bias))


@PROPERTY
@given(
    st.tuples(st.integers(1, 5), st.integers(2, 4), st.integers(1, 3)),
    st.sampled_from([(32, 32), (32, 1), (16, 32)]),
    st.booleans(),
    LAYOUTS,
    st.integers(0, 99),
)
def test_block_scales_are_right(
    sizes: tuple[int, int, int],
    block: tuple[int, int],
    ue8m0: bool,
    layout: str,
    seed: int,
) -> None:
    """Catches a block that takes its neighbour's scale; MXFP8 has blocks of 32 x 1."""
    torch.manual_seed(seed)
    m, k, n = sizes[0], block[0] * sizes[1], 32 * sizes[2]
    a = torch.randn(m, k).to(torch.float8_e4m3fn)
    b = fp8_weight((k, n), torch.float8_e4m3fn, layout)
    a_scale = torch.rand(m, sizes[1]) + 0.1
    b_scale = torch.rand(sizes[1], n // block[1]) + 0.1
    if ue8m0:
        a_scale, b_scale = (s.to(torch.float8_e8m0fnu) for s in (a_scale, b_scale))
    result = ops.fp8_gemm(a, b, torch.bfloat16, a_scale, b_scale, torch.empty(0))
    left = a.double() * expand(a_scale.float(), (m, k))
    right = b.double() * expand(b_scale.float(), (k, n))
    assert product_is_right(result, left, right)


@PROPERTY
@given(
    st.tuples(*[st.integers(1, 3)] * 4),
    st.sampled_from([None, "tensor", "token", "group"]),
    st.sampled_from([None, "tensor", "channel", "block"]),
    st.sampled_from([None, "empty", "scalar", "column"]),
    LAYOUTS,
    HALF,
    st.integers(0, 99),
)
def test_products_of_a_batch_are_right(
    sizes: tuple[int, ...],
    a_kind: str | None,
    b_kind: str | None,
    bias_kind: str | None,
    layout: str,
    half: torch.dtype,
    seed: int,
) -> None:
    """Catches a batch that takes another one's weight or scale."""
    torch.manual_seed(seed)
    batch, m, k, n = sizes[0], sizes[1], 8 * sizes[2], 8 * sizes[3]
    a = torch.randn(batch, m, k).to(torch.float8_e4m3fn)
    b = fp8_weight((batch, k, n), torch.float8_e4m3fn, layout)
    a_scale = torch.rand(batch, m, k // 8) + 0.1
    a_full = [expand(s, (m, k)) for s in a_scale]
    if a_kind != "group":
        a_scale = torch.rand(batch, m) if a_kind == "token" else torch.rand(1)
        a_full = [s[:, None].double() for s in a_scale.expand(batch, m)]
    b_scale = torch.rand(batch, k // 8, n // 8) + 0.1
    b_full = [expand(s, (k, n)) for s in b_scale]
    if b_kind != "block":
        b_scale = torch.rand(batch, n) if b_kind == "channel" else torch.rand(1)
        b_full = [s[None].double() for s in b_scale.expand(batch, n)]
    bias = bias_of(bias_kind, m, n)
    result = ops.fp8_bmm(
        a, b, half, a_scale if a_kind else None, b_scale if b_kind else None, bias
    )
    assert result.shape == (batch, m, n) and result.dtype == half
    for i in range(batch):
        left = a[i].double() * (a_full[i] if a_kind else 1)
        right = b[i].double() * (b_full[i] if b_kind else 1)
        assert product_is_right(result[i], left, right, usable(bias))


def test_fp16_is_the_type_of_a_product_by_default() -> None:
    """Catches another default than the kernel's."""
    q = torch.ones(16, 16).to(torch.float8_e4m3fn)
    assert ops.fp8_gemm(q, q, None, None, None, None).dtype == torch.float16


def test_a_weight_is_converted_once_and_again_when_written() -> None:
    """Catches a product with the weight of before an update, and a useless cache."""
    a = torch.ones(1, 16, dtype=torch.float16)
    b = torch.ones(16, 4).to(torch.float8_e4m3fn)
    first = ops.fp8_gemm_w8a16(a, b, None, None)
    before = weights.cached_bytes()
    assert torch.equal(ops.fp8_gemm_w8a16(a, b, None, None), first)
    assert weights.cached_bytes() == before
    b.copy_(torch.full((16, 4), 2.0))
    assert torch.equal(ops.fp8_gemm_w8a16(a, b, None, None), 2 * first)


def test_no_rows_give_no_rows() -> None:
    """Catches an empty batch that raises."""
    b = torch.ones(16, 4).to(torch.float8_e4m3fn)
    a = torch.empty(0, 16, dtype=torch.bfloat16)
    assert ops.fp8_gemm_w8a16(a, b, None, None).shape == (0, 4)
    assert ops.fp8_gemm(a.to(b.dtype), b, None, None, None, None).shape == (0, 4)


_H = torch.ones(2, 256, dtype=torch.float16)
_A = _H.to(torch.float8_e4m3fn)
_B = torch.ones(256, 128).to(torch.float8_e4m3fn)
_BLOCKS = torch.ones(2, 1)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("fp8_gemm_w8a16", (_H.float(), _B, None, None), "A must be"),
        ("fp8_gemm_w8a16", (_H, _H.mT, None, None), "B must be"),
        ("fp8_gemm_w8a16", (_H, _B, torch.ones(3), None), "one a column"),
        ("fp8_gemm_w8a16", (_H, _B, torch.ones(3, 1), None), "must divide"),
        ("fp8_gemm_w8a16", (_H, _B, torch.ones(128, 1), None), "square"),
        ("fp8_gemm_w8a16", (_H, _B, None, torch.ones(3)), "bias"),
        ("fp8_gemm_w8a16", (_H[:, :64], _B, None, None), "64 columns"),
        ("fp8_gemm_w8a16", (_H.t().contiguous().t(), _B, None, None), "contiguous"),
        ("fp8_gemm", (_H, _B, None, None, None, None), "A must be"),
        ("fp8_gemm", (_A, _B.to(torch.float8_e5m2), None, None, None, None), "B must"),
        ("fp8_gemm", (_A, _B, torch.float32, None, None, None), "bfloat16"),
        ("fp8_gemm", (_A, _B, None, torch.ones(3), None, None), "one a row"),
        ("fp8_gemm", (_A, _B, None, torch.ones(2, 4), _BLOCKS, None), "mismatch"),
        # Blocks of the weight need groups of the activations.
        ("fp8_gemm", (_A, _B, None, torch.ones(2, 1), _BLOCKS, None), "Blocks need"),
        ("fp8_gemm", (_A, _B, None, torch.ones(4, 2)[::2], _BLOCKS, None), "contig"),
        ("fp8_gemm_out", (_H, _A, _B, None, None, None, None), "shape"),
        ("fp8_bmm", (_A, _B, None, None, None, None), "3D"),
        ("fp8_bmm", (_A[None], _B[None], None, torch.ones(3), None, None), "fit"),
        ("fp8_bmm", (_A[None], _B[None], None, None, torch.ones(1, 3), None), "fit|3"),
    ],
)
def test_what_the_kernels_refuse_is_refused(
    op: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    if not hasattr(ops, op):
        pytest.skip(f"the installed kernel package has no {op}")
    with pytest.raises(RuntimeError, match=message):
        getattr(ops, op)(*arguments)
