# SPDX-License-Identifier: Apache-2.0
"""Matrix products of MXFP4: FP4 (e2m1) with a power of two for 32 values along K.

Contract: csrc/xpu/onednn/{onednn_matmul.cpp, fp4_gemm_w4a4.h} of vllm-xpu-kernels.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference import weights
from vllm_xpu_fp8_plugin.reference.four_bits import from_e8m0, from_fp4
from vllm_xpu_fp8_plugin.reference.product import Converted, product
from vllm_xpu_fp8_plugin.reference.refusals import require
from vllm_xpu_fp8_plugin.reference.registry import op

_GROUP = 32
_FP4, _E8M0 = torch.float4_e2m1fn_x2, torch.float8_e8m0fnu


@op("_xpu_C::fp4_gemm")
def fp4_gemm(
    A: Tensor,
    B: Tensor,
    A_scale: Tensor,
    B_scale: Tensor,
    out_dtype: torch.dtype | None = None,
    bias_: Tensor | None = None,
) -> Tensor:
    """Return ``(A * A_scale) @ (B * B_scale) + bias_``.

    Args:
        A: [M, K / 2] or [b, m, K / 2] with M = b * m, FP4, two values a byte.
        B: [K / 2, N], FP4, two values a byte along K, transposed: its columns are
            contiguous.
        A_scale: [M, K / 32], UE8M0.
        B_scale: [K / 32, N], UE8M0: the order in memory, whatever its shape says.
        out_dtype: fp16 or bf16; None for fp16.
        bias_: One value, [N], [M, N], [M, 1], or empty or None.

    Returns:
        [M, N] or [b, m, N]

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "fp4_gemm"
    require(A_scale.is_contiguous(), "A_scale must be contiguous for fp4 matmul")
    require(B_scale.is_contiguous(), "B_scale must be contiguous for fp4 matmul")
    require(A.dim() in (2, 3), "OneDNN Matmul only support 2D and 3D inputs!")
    require(B.dim() in (2, 3), "OneDNN Matmul only support 2D and 3D weights!")
    require(
        A.dtype == _FP4 and B.dtype == _FP4,
        "input and weight must be f4_e2m1x2 or f4_e2m1x2 for fp4 matmul",
    )
    dtype = out_dtype or torch.float16
    require(
        dtype in (torch.float16, torch.bfloat16),
        "output must be float16 or bfloat16 for fp4 matmul",
    )
    require(
        A_scale.dtype == _E8M0,
        "Unsupported scale type for fp4 matmul: {}",
        A_scale.dtype,
    )
    require(
        B_scale.dtype == _E8M0,
        "Mismatched scale data types in mxfp4 matmul: {} vs {}",
        A_scale.dtype,
        B_scale.dtype,
    )
    # Values of a byte lie along K in one order only.
    require(
        B.dim() == 2 and B.stride(0) == 1,
        "{}: B must be a transposed matrix, got strides {}",
        name,
        B.stride(),
    )
    k, n = 2 * B.shape[0], B.shape[1]
    m = A.numel() // A.shape[-1]
    require(
        k % _GROUP == 0
        and A_scale.numel() == m * k // _GROUP
        and B_scale.numel() == n * k // _GROUP,
        "{}: a scale for {} values along K={} is needed, got A_scale {} for {} rows "
        "and B_scale {} for {} columns",
        name,
        _GROUP,
        k,
        list(A_scale.shape),
        m,
        list(B_scale.shape),
        n,
    )
    values = from_fp4(A).view(m, -1, _GROUP) * from_e8m0(A_scale).view(m, -1, 1)
    values = values.view(*A.shape[:-1], 2 * A.shape[-1])

    def convert() -> Tensor:
        scale = from_e8m0(B_scale).view(k // _GROUP, n).t().unsqueeze(-1)
        return (from_fp4(B.t()).view(n, -1, _GROUP) * scale).flatten(1)

    weight = Converted(weights.converted((B, B_scale), convert))
    return product(name, values, None, weight, bias_, dtype)
