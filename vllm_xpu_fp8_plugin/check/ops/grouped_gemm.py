# SPDX-License-Identifier: Apache-2.0
"""Products of each expert's rows with its own weight."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.ops.four_bits import e2m1, nibbles
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_FP4 = torch.float4_e2m1fn_x2
_EXPERTS, _N, _K = 4, 256, 384


def _weights(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield weights and scales of each kind that the op tells apart."""
    shape = (_EXPERTS, _K, _N)
    packed = making.integers(_EXPERTS, _N, _K // 2, below=256).to(torch.uint8)
    yield making.normal(*shape, dtype=dtype), None
    for fp8 in (making.E4M3, making.E5M2):
        values = making.normal(*shape, dtype=fp8)
        yield values, making.positive(_EXPERTS)
        yield values, making.positive(_EXPERTS, _K // 128, _N // 128)
        yield values, _powers(_EXPERTS, _K // 32, _N)
        yield values, _powers(_EXPERTS, _N, _K // 32)
    for group in (32, 128):
        scale = making.positive(_EXPERTS, _N, _K // group).to(dtype)
        yield packed.view(torch.int8), scale
    yield packed.view(_FP4), _powers(_EXPERTS, _N, _K // 32)


def _powers(*shape: int) -> Tensor:
    return (120 + making.integers(*shape, below=8)).to(torch.uint8)


def _cases() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for weight, scale in _weights(dtype):
            for counts in ((3, 0, 1, 9), (0, 0, 1, 0), (60, 40, 0, 100)):
                rows = sum(counts)
                yield {
                    "ptr_A": making.normal(rows, _K, dtype=dtype),
                    "ptr_A_scale": None,
                    "ptr_B": weight,
                    "ptr_B_scale": scale,
                    "ptr_bias": making.normal(_EXPERTS, _N, dtype=dtype)
                    if rows == 13
                    else None,
                    "ptr_D": making.empty(rows, _N, dtype=dtype),
                    "rows_per_expert": torch.tensor(counts, dtype=torch.int32),
                    "N": _N,
                    "K": _K,
                    "num_experts": _EXPERTS,
                }


def _weight(values: Tensor, scale: Tensor | None, k: int, n: int) -> Tensor:
    """Return an expert's weight, [K, N]."""
    if values.dtype == torch.int8 and scale is not None:
        codes = nibbles(values.view(torch.uint8))
        own = (codes - 16 * (codes > 7)).double().t()
    elif values.dtype == _FP4:
        own = e2m1(nibbles(values.view(torch.uint8))).t()
    else:
        own = values.double()
    if scale is None:
        return own
    factors = scale.double()
    if scale.dtype in (torch.uint8, torch.float8_e8m0fnu):
        code = scale.view(torch.uint8).double()
        # Of the exponent 0 the kernel makes 0.
        factors = torch.exp2(code - 127).masked_fill(code == 0, 0.0)
    if factors.dim() == 2 and len(factors) == n and factors.shape[1] != n:
        factors = factors.t()
    if factors.dim() == 2:
        factors = factors.repeat_interleave(k // len(factors), 0)
        factors = factors.repeat_interleave(n // factors.shape[1], 1)
    return own * factors


@checked(
    "_xpu_C::cutlass_grouped_gemm_interface",
    _cases,
    vary=("ptr_A",),
    rows=("ptr_A", "ptr_D"),
)
def cutlass_grouped_gemm_interface(
    ptr_A: Tensor,
    ptr_A_scale: Tensor | None,
    ptr_B: Tensor,
    ptr_B_scale: Tensor | None,
    ptr_bias: Tensor | None,
    ptr_D: Tensor,
    rows_per_expert: Tensor,
    N: int,
    K: int,
    num_experts: int,
) -> dict[str, Expected]:
    a, dtype = ptr_A.double(), ptr_A.dtype
    exact, sizes = torch.zeros(len(a), N).double(), torch.zeros(len(a), N).double()
    written = torch.zeros(len(a), N, dtype=torch.bool)
    start = 0
    for expert, count in enumerate(rows_per_expert.tolist()):
        part = slice(start, start + count)
        start += count
        scale = None if ptr_B_scale is None else ptr_B_scale[expert]
        weight = _weight(ptr_B[expert], scale, K, N)
        exact[part], sizes[part] = a[part] @ weight, a[part].abs() @ weight.abs()
        if ptr_bias is not None:
            exact[part] += ptr_bias[expert].double()
        written[part] = True
    error = sizes * 2.0**-24 * (2 * K**0.5 + 8)
    if ptr_B_scale is not None and ptr_B_scale.dim() == 3:
        # The weight is rounded to the type of A, and beside fp16 its scale.
        info = torch.finfo(dtype)
        steps = 2 if dtype == torch.float16 else 1
        error = error + sizes * info.eps / 2 * steps
        least = info.smallest_normal * info.eps
        error = error + a.abs().sum(-1, keepdim=True) * least
    return {"ptr_D": Expected(exact, error=error, written=written)}
