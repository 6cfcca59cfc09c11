# SPDX-License-Identifier: Apache-2.0
"""SiLU-and-mul whose result is quantised."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.ops import quant
from vllm_xpu_fp8_plugin.check.ops.activations import gated, halves, silu
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked


def _silu() -> Iterator[Arguments]:
    for arguments in gated()():
        out, x = arguments["out"], arguments["input"]
        if x.dtype == torch.float32:
            continue
        result = making.empty(*out.shape, dtype=making.E4M3)
        yield {"result": result, "input": x, "scale": making.positive(1)}


@checked(
    "_C::silu_and_mul_quant",
    _silu,
    vary=("input",),
    rows=("result", "input"),
    largest=60.0,
)
def silu_and_mul_quant(
    result: Tensor, input: Tensor, scale: Tensor
) -> dict[str, Expected]:
    gate, up = halves(input)
    # The activation and the product are rounded to the input's type first.
    exact = silu(gate) * up
    info = torch.finfo(input.dtype)
    error = exact.abs() * info.eps + (1 + up.abs()) * info.smallest_normal * info.eps
    return {"result": quant.quantized(exact, scale.double(), error)}


def _silu_blocks() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for tokens, width, group in ((7, 1024, 128), (1, 896, 64), (300, 64, 32)):
            for out in (making.E4M3, torch.int8):
                yield {
                    "out": making.empty(tokens, width, dtype=out),
                    "input": making.normal(tokens, 2 * width, dtype=dtype, size=3),
                    "scales": making.empty(tokens, width // group, dtype=torch.float32),
                    "group_size": group,
                }
        scales = making.empty(2, 5, dtype=torch.float32).t()
        yield {
            "out": making.empty(5, 256, dtype=making.E4M3),
            "input": making.normal(5, 512, dtype=dtype, size=3),
            "scales": scales,
            "group_size": 128,
            "scale_ub": torch.tensor([0.02]),
            "is_scale_transposed": True,
        }


@checked(
    "_C::silu_and_mul_per_block_quant",
    _silu_blocks,
    vary=("input",),
    rows=("out", "input", "scales"),
    largest=60.0,
)
def silu_and_mul_per_block_quant(
    out: Tensor,
    input: Tensor,
    scales: Tensor,
    group_size: int,
    scale_ub: Tensor | None = None,
    is_scale_transposed: bool = False,
    scale_ue8m0: bool = False,
) -> dict[str, Expected]:
    gate, up = halves(input)
    values = silu(gate) * up
    largest = quant.amax(values, group_size)
    if out.dtype == torch.int8:
        scale = (largest / 127).clamp(min=torch.finfo(torch.float32).eps)
    else:
        scale = quant.dynamic_scale(largest, out.dtype)
        if scale_ub is not None:
            # Here it is the largest scale.
            scale = scale.minimum(scale_ub.double().flatten()[0])
        scale = quant.power_of_two(scale) if scale_ue8m0 else scale
    return {
        "out": quant.scaled_groups(values, scale, group_size),
        "scales": Expected(scale, relative=quant.STEPS),
    }
