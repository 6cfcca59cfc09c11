# SPDX-License-Identifier: Apache-2.0
"""Quantisation to MXFP4: groups of 32 values in FP4 with a power of two a group."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import FP4, Expected
from vllm_xpu_fp8_plugin.check.ops.activations import halves, silu
from vllm_xpu_fp8_plugin.check.ops.norms import EPSILON, added, rms
from vllm_xpu_fp8_plugin.check.ops.quant import amax, power_of_two
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_GROUP, _LARGEST = 32, 6.0
_SHAPES = ((7, 1024), (1, 896), (300, 64), (5, 32))


def _quantised(
    values: Tensor, least: float, group: int, codes: str, scales: str
) -> dict[str, Expected]:
    """Return codes and scales, none of which is below `least` before it is rounded."""
    scale = power_of_two((amax(values, group) / _LARGEST).clamp(min=least))
    scaled = values / scale.repeat_interleave(group, -1)
    return {
        codes: Expected(scaled, dtype=FP4, relative=2.0**-18),
        scales: Expected(scale),
    }


def _outputs(tokens: int, width: int) -> tuple[Tensor, Tensor]:
    codes = making.empty(tokens, width // 2, dtype=torch.uint8)
    return codes, making.empty(tokens, width // _GROUP, dtype=torch.float32)


def _plain() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for shape in _SHAPES:
            codes, scales = _outputs(*shape)
            if shape[0] == 7:
                scales = scales.t().contiguous().t()
            yield {
                "input": making.rows(*shape, dtype=dtype),
                "output_q": codes,
                "output_s": scales,
                "group_size": _GROUP,
                "eps": 1e-10,
            }


@checked(
    "_C::per_token_group_quant_mxfp4",
    _plain,
    vary=("input",),
    rows=("input", "output_q", "output_s"),
)
def per_token_group_quant_mxfp4(
    input: Tensor, output_q: Tensor, output_s: Tensor, group_size: int, eps: float
) -> dict[str, Expected]:
    return _quantised(input.double(), eps, group_size, "output_q", "output_s")


def _silu() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for tokens, width in _SHAPES:
            codes, scales = _outputs(tokens, width)
            yield {
                "out": codes,
                "input": making.normal(tokens, 2 * width, dtype=dtype, size=2),
                "scales": scales,
                "group_size": _GROUP,
                "eps": 1e-10,
            }


@checked(
    "_C::silu_and_mul_mxfp4_quant",
    _silu,
    vary=("input",),
    rows=("out", "input", "scales"),
    largest=60.0,
)
def silu_and_mul_mxfp4_quant(
    out: Tensor, input: Tensor, scales: Tensor, group_size: int, eps: float = 1e-10
) -> dict[str, Expected]:
    gate, up = halves(input)
    return _quantised(silu(gate) * up, eps, group_size, "out", "scales")


def _norms() -> Callable[[], Iterator[Arguments]]:
    def cases() -> Iterator[Arguments]:
        for dtype in making.HALVES:
            for tokens, width in _SHAPES:
                codes, scales = _outputs(tokens, width)
                arguments: Arguments = {
                    "result": codes,
                    "input": making.rows(tokens, width, dtype=dtype),
                    "weight": making.normal(width, dtype=dtype),
                    "scale": scales,
                    "epsilon": EPSILON,
                    "residual": None,
                    "group_size": _GROUP,
                }
                yield arguments
                x = making.normal(tokens, width, dtype=dtype)
                yield {**arguments, "residual": x}

    return cases


@checked(
    "_C::rms_norm_mxfp4_quant",
    _norms(),
    vary=("input", "residual"),
    rows=("result", "input", "scale", "residual"),
    inplace=("residual",),
)
def rms_norm_mxfp4_quant(
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
    residual: Tensor | None,
    group_size: int,
) -> dict[str, Expected]:
    total = input if residual is None else added(input, residual)
    values = rms(total, weight, epsilon)
    # The norm's epsilon is the least scale as well.
    outputs = _quantised(values, epsilon, group_size, "result", "scale")
    if residual is not None:
        outputs["residual"] = Expected(input.double() + residual.double())
    return outputs
