# SPDX-License-Identifier: Apache-2.0
"""RMS norms whose result is quantised."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.ops import quant
from vllm_xpu_fp8_plugin.check.ops.norms import EPSILON, added, rms
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_STEPS = 2.0**-19


def _operands(tokens: int, width: int, dtype: torch.dtype) -> Arguments:
    return {
        "result": making.empty(tokens, width, dtype=making.E4M3),
        "input": making.rows(tokens, width, dtype=dtype),
        "weight": making.normal(width, dtype=dtype),
        "epsilon": EPSILON,
    }


def _static(fused: bool) -> Callable[[], Iterator[Arguments]]:
    def cases() -> Iterator[Arguments]:
        for dtype in making.FLOATS:
            for shape in making.SHAPES:
                arguments = {**_operands(*shape, dtype), "scale": making.positive(1)}
                if fused:
                    arguments["residual"] = making.rows(*shape, dtype=dtype)
                yield arguments

    return cases


def _static_codes(total: Tensor, weight: Tensor, scale: Tensor, epsilon: float) -> Any:
    normed = rms(total, weight, epsilon)
    # Before 0.1.14 the norm and its product were rounded to the input's type too.
    narrow = torch.finfo(total.dtype).eps if total.dtype != torch.float32 else 0.0
    expected = quant.quantized(normed, scale.double(), normed.abs() * narrow)
    return replace(expected, relative=_STEPS)


@checked(
    "_C::rms_norm_static_fp8_quant",
    _static(False),
    vary=("input",),
    rows=("result", "input"),
)
def rms_norm_static_fp8_quant(
    result: Tensor, input: Tensor, weight: Tensor, scale: Tensor, epsilon: float
) -> dict[str, Expected]:
    return {"result": _static_codes(input, weight, scale, epsilon)}


@checked(
    "_C::fused_add_rms_norm_static_fp8_quant",
    _static(True),
    vary=("input", "residual"),
    rows=("result", "input", "residual"),
    inplace=("residual",),
)
def fused_add_rms_norm_static_fp8_quant(
    result: Tensor,
    input: Tensor,
    residual: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
) -> dict[str, Expected]:
    total = added(input, residual)
    return {
        "result": _static_codes(total, weight, scale, epsilon),
        "residual": Expected(input.double() + residual.double()),
    }


def _dynamic() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for number, (tokens, width) in enumerate(making.SHAPES):
            arguments = {
                **_operands(tokens, width, dtype),
                "scale": making.empty(tokens, 1, dtype=torch.float32),
                "scale_ub": None,
                "residual": None,
            }
            yield arguments
            if number == 0:
                x = making.rows(tokens, width, dtype=dtype)
                yield {**arguments, "residual": x}
                yield {**arguments, "scale_ub": torch.tensor([0.7])}
                result = making.empty(tokens, width, dtype=torch.int8)
                yield {**arguments, "result": result}


_ROWS = {
    "vary": ("input", "residual"),
    "rows": ("result", "input", "residual", "scale"),
    "inplace": ("residual",),
}


def _outputs(
    values: Tensor, result: Tensor, scale: Tensor, exact: Tensor, group: int
) -> dict[str, Expected]:
    codes = quant.scaled_groups(values, quant.normal(exact), group)
    return {
        "result": replace(codes, relative=_STEPS),
        "scale": Expected(exact.reshape(scale.shape), relative=_STEPS),
    }


@checked("_C::rms_norm_dynamic_per_token_quant", _dynamic, **_ROWS)
def rms_norm_dynamic_per_token_quant(
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
    scale_ub: Tensor | None = None,
    residual: Tensor | None = None,
) -> dict[str, Expected]:
    group = input.shape[-1]
    return _normed(
        result, input, weight, scale, epsilon, scale_ub, residual, group, False
    )


def _normed(
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
    scale_ub: Tensor | None,
    residual: Tensor | None,
    group: int,
    powers: bool,
) -> dict[str, Expected]:
    total = input if residual is None else added(input, residual)
    values = rms(total, weight, epsilon)
    largest = quant.amax(values, group)
    if result.dtype == torch.int8:
        exact = (largest / 127).where(largest > 0, 1.0)
    else:
        exact = quant.dynamic_scale(largest, result.dtype, scale_ub)
    exact = quant.power_of_two(exact) if powers else exact
    outputs = _outputs(values, result, scale, exact, group)
    if residual is not None:
        outputs["residual"] = Expected(input.double() + residual.double())
    return outputs


def _blocks() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for tokens, width, group in ((7, 2048, 128), (1, 896, 64), (300, 64, 32)):
            arguments = {
                **_operands(tokens, width, dtype),
                "scale": making.empty(tokens, width // group, dtype=torch.float32),
                "scale_ub": None,
                "residual": None,
                "group_size": group,
                "is_scale_transposed": False,
            }
            yield arguments
            if tokens == 7:
                x = making.rows(tokens, width, dtype=dtype)
                yield {**arguments, "residual": x}
                result = making.empty(tokens, width, dtype=torch.int8)
                yield {**arguments, "result": result}
                yield {**arguments, "scale_ub": torch.tensor([0.1])}
                columns = making.empty(width // group, tokens, dtype=torch.float32)
                scales = {"scale": columns.t(), "is_scale_transposed": True}
                yield {**arguments, **scales}


@checked("_C::rms_norm_per_block_quant", _blocks, **_ROWS)
def rms_norm_per_block_quant(
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
    scale_ub: Tensor | None,
    residual: Tensor | None,
    group_size: int,
    is_scale_transposed: bool,
    scale_ue8m0: bool = False,
) -> dict[str, Expected]:
    return _normed(
        result,
        input,
        weight,
        scale,
        epsilon,
        scale_ub,
        residual,
        group_size,
        scale_ue8m0,
    )
