# SPDX-License-Identifier: Apache-2.0
"""Quantisation to FP8, by given scales and by the largest magnitude."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

# Scales, products by their reciprocals, a maximum of float32 values.
STEPS = 2.0**-20


def quantized(values: Tensor, scale: Tensor, error: Tensor | float = 0.0) -> Expected:
    """Return ``values / scale`` as FP8 or int8 is to hold it; 0 / 0 is anything."""
    return Expected(values / scale, relative=STEPS, error=error / scale)


def limit(dtype: torch.dtype) -> float:
    """Return the largest value of FP8 or int8."""
    return 127.0 if dtype == torch.int8 else float(torch.finfo(dtype).max)


def dynamic_scale(
    amax: Tensor, dtype: torch.dtype, scale_ub: Tensor | None = None
) -> Tensor:
    """Return the scale that maps `amax` to the largest value of FP8 `dtype`.

    The kernels' lower bound keeps a row of zeros from a scale of 0; `scale_ub` is the
    largest magnitude that a scale covers.
    """
    if scale_ub is not None:
        amax = amax.minimum(scale_ub.double().flatten()[0])
    top = limit(dtype)
    return (amax / top).clamp(min=1 / (top * 512))


def power_of_two(scale: Tensor) -> Tensor:
    """Round up to a power of two."""
    return torch.log2(scale).sub(1e-7).ceil().exp2()


def amax(values: Tensor, group: int) -> Tensor:
    """Return the largest magnitude of each group, [..., K / group]."""
    groups: Tensor = values.abs().unflatten(-1, (-1, group))
    return groups.amax(-1)


def scaled_groups(values: Tensor, scale: Tensor, group: int) -> Expected:
    """Return ``values`` by one scale a group."""
    return quantized(values, scale.repeat_interleave(group, dim=-1))


def _static() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for number, shape in enumerate(making.SHAPES):
            x = making.rows(*shape, dtype=dtype)
            arguments: Arguments = {
                "result": making.empty(*shape, dtype=making.E4M3),
                "input": making.with_gaps(x) if number == 2 else x,
                "scale": making.positive(1),
            }
            yield arguments
            if number == 0:
                yield {
                    **arguments,
                    "result": making.empty(*shape, dtype=making.E5M2),
                }
        groups = ((4, 1), (1, -1)), ((1, 256), (-1, 1)), ((4, 2), (1, 128))
        for sizes, group_shape in groups:
            yield {
                "result": making.empty(4, 256, dtype=making.E4M3),
                "input": making.rows(4, 256, dtype=dtype),
                "scale": making.positive(*sizes),
                "group_shape": group_shape,
            }


@checked("_C::static_scaled_fp8_quant", _static, vary=("input",), rows=("result",))
def static_scaled_fp8_quant(
    result: Tensor,
    input: Tensor,
    scale: Tensor,
    group_shape: tuple[int, int] | None = None,
) -> dict[str, Expected]:
    scale = scale.double()
    if scale.dim() == 1 and scale.numel() > 1 and group_shape:
        scale = scale[:, None] if group_shape[0] == 1 else scale[None]
    if scale.numel() > 1:
        for dim in (0, 1):
            scale = scale.repeat_interleave(input.shape[dim] // scale.shape[dim], dim)
    return {"result": quantized(input.double(), scale)}


def _dynamic() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for number, shape in enumerate(making.SHAPES):
            fp8 = making.E5M2 if number == 2 else making.E4M3
            yield {
                "result": making.empty(*shape, dtype=fp8),
                "input": making.rows(*shape, dtype=dtype),
                "scale": making.empty(1, dtype=torch.float32),
            }


@checked("_C::dynamic_scaled_fp8_quant", _dynamic, vary=("input",))
def dynamic_scaled_fp8_quant(
    result: Tensor, input: Tensor, scale: Tensor
) -> dict[str, Expected]:
    # This one has no lower bound: zeros give a scale of 0, and 0 / 0.
    values = input.double()
    exact = values.abs().max() / limit(result.dtype) if values.numel() else None
    exact = torch.zeros(()).double() if exact is None else exact
    return {
        "result": quantized(values, normal(exact)),
        "scale": Expected(exact.reshape(scale.shape), relative=STEPS),
    }


def normal(scale: Tensor) -> Tensor:
    """Return a scale, NaN where float32 does not hold it: no code is wrong then."""
    return scale.where(scale >= torch.finfo(torch.float32).smallest_normal, torch.nan)


def _per_token() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for number, (tokens, width) in enumerate(making.SHAPES):
            fp8 = making.E5M2 if number == 2 else making.E4M3
            arguments: Arguments = {
                "result": making.empty(tokens, width, dtype=fp8),
                "input": making.rows(tokens, width, dtype=dtype),
                "scale": making.empty(tokens, 1, dtype=torch.float32),
            }
            yield {**arguments, "scale_ub": None}
            if number == 0:
                yield {**arguments, "scale_ub": torch.tensor([0.7])}


@checked(
    "_C::dynamic_per_token_scaled_fp8_quant",
    _per_token,
    vary=("input",),
    rows=("result", "input", "scale"),
)
def dynamic_per_token_scaled_fp8_quant(
    result: Tensor, input: Tensor, scale: Tensor, scale_ub: Tensor | None = None
) -> dict[str, Expected]:
    return _by_row(result, input.double(), scale, scale_ub)


def _by_row(
    result: Tensor, values: Tensor, scale: Tensor, scale_ub: Tensor | None
) -> dict[str, Expected]:
    exact = dynamic_scale(values.abs().amax(-1, True), result.dtype, scale_ub)
    return {
        "result": quantized(values, exact),
        "scale": Expected(exact.reshape(scale.shape), relative=STEPS),
    }


def _groups() -> Iterator[Arguments]:
    def case(
        tokens: int, width: int, group: int, dtype: torch.dtype, **flags: bool
    ) -> Arguments:
        scales = making.empty(tokens, width // group, dtype=torch.float32)
        if flags.pop("transposed", False):
            scales = scales.t().contiguous().t()
        return {
            "input": making.rows(tokens, width, dtype=dtype),
            "output_q": making.empty(tokens, width, dtype=making.E4M3),
            "output_s": scales,
            "group_size": group,
            "eps": 1e-10,
            "fp8_min": -448.0,
            "fp8_max": 448.0,
            "scale_ue8m0": False,
            "dummy_is_scale_transposed": False,
            "dummy_is_tma_aligned": False,
            **flags,
        }

    for dtype in making.FLOATS:
        yield case(7, 1024, 128, dtype)
        yield case(1, 896, 64, dtype)
        yield case(300, 64, 32, dtype)
        yield case(5, 384, 96, dtype)
        yield case(6, 512, 128, dtype, transposed=True)
        yield case(6, 512, 128, dtype, scale_ue8m0=True)
    yield case(0, 128, 64, torch.float16)


@checked(
    "_C::per_token_group_fp8_quant",
    _groups,
    vary=("input",),
    rows=("input", "output_q", "output_s"),
)
def per_token_group_fp8_quant(
    input: Tensor,
    output_q: Tensor,
    output_s: Tensor,
    group_size: int,
    eps: float,
    fp8_min: float,
    fp8_max: float,
    scale_ue8m0: bool = False,
    **ignored: bool,
) -> dict[str, Expected]:
    values = input.double()
    scale = dynamic_scale(amax(values, group_size), output_q.dtype)
    scale = power_of_two(scale) if scale_ue8m0 else scale
    return {
        "output_q": scaled_groups(values, scale, group_size),
        "output_s": Expected(scale.reshape(output_s.shape), relative=STEPS),
    }
