# SPDX-License-Identifier: Apache-2.0
"""Products with int4 and MXFP4 weights, and those of experts."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference.ops import Ops, on_xpu
from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.registry import specs
from vllm_xpu_fp8_plugin.reference.four_bits import from_e8m0, from_fp4, from_int4

ops = Ops("_xpu_C")


def first(name: str) -> dict[str, Any]:
    making.seed(0)
    return next(iter(specs()[f"_xpu_C::{name}"].cases()))


def test_values_of_every_code() -> None:
    """Catches halves of a byte that are swapped, and a sign that is lost."""
    packed = torch.tensor([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE])
    fp4 = from_fp4(packed.to(torch.uint8)).tolist()
    assert fp4[:8] == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert fp4[8:] == [-x for x in fp4[:8]]
    int4 = from_int4(packed.to(torch.uint8)).tolist()
    assert int4 == [*range(8), *range(-8, 0)]
    scales = from_e8m0(torch.tensor([0, 127, 130, 255], dtype=torch.uint8))
    assert scales[:3].tolist() == [2.0**-127, 1.0, 8.0] and scales[3].isnan()


@pytest.mark.parametrize(
    "op, argument, value, message",
    [
        ("int4_gemm_w4a16", "A", torch.ones(7, 1024), "Unsupported data type"),
        ("int4_gemm_w4a16", "B", torch.ones(128, 512).int(), "must be in NT format"),
        ("int4_gemm_w4a16", "B_zp", torch.tensor([8]), "B_zp must be one int8"),
        ("int4_gemm_w4a16", "group_size", 48, "B_scale must have a value a group"),
        ("int4_gemm_w4a16", "B_scale", torch.ones(512, 32).t(), "must be contiguous"),
        ("int4_gemm_w4a8", "A_scale", torch.ones(7), "expects quantized input A"),
        ("fp4_gemm", "A", torch.ones(7, 512), "must be f4_e2m1x2"),
        ("fp4_gemm", "out_dtype", torch.float32, "output must be float16"),
        ("fp4_gemm", "A_scale", torch.ones(7, 32), "Unsupported scale type"),
        ("cutlass_grouped_gemm_interface", "N", 12, "N must be divisible by 8"),
        ("cutlass_grouped_gemm_interface", "num_experts", 3, "must match num_experts"),
        ("cutlass_grouped_gemm_interface", "ptr_B_scale", torch.ones(4), "not have"),
        ("cutlass_grouped_gemm_interface", "K", 128, "must match ptr_B"),
    ],
)
def test_what_does_not_fit_is_refused(
    op: str, argument: str, value: Any, message: str
) -> None:
    """Catches a product of what is read past its end, in place of a refusal."""
    with pytest.raises(RuntimeError, match=message):
        getattr(ops, op)(**{**first(op), argument: value})


def test_rows_of_no_expert_are_not_touched() -> None:
    """Catches rows behind the last expert's that are written."""
    call = first("cutlass_grouped_gemm_interface")
    call["rows_per_expert"] = torch.tensor([3, 0, 1, 2]).int()
    call["ptr_D"] = torch.full((13, 256), 7.0).half()
    result: Tensor = on_xpu(torch.ops._xpu_C.cutlass_grouped_gemm_interface, **call)
    assert (result[6:] == 7).all() and (result[:6] != 7).all(1).all()


def test_too_many_rows_are_refused() -> None:
    """Catches rows of experts that reach past the last row."""
    call = first("cutlass_grouped_gemm_interface")
    call["rows_per_expert"] = torch.tensor([3, 0, 1, 99]).int()
    with pytest.raises(RuntimeError, match="counts 103 rows for 4 experts"):
        ops.cutlass_grouped_gemm_interface(**call)


def test_a_weight_that_changes_is_converted_again() -> None:
    """Catches the weight of a call before, kept for the next one."""
    call = first("int4_gemm_w4a16")
    one = ops.int4_gemm_w4a16(**call)
    call["B_scale"].mul_(2)
    torch.testing.assert_close(ops.int4_gemm_w4a16(**call), one * 2)
