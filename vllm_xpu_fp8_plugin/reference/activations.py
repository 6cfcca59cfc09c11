# SPDX-License-Identifier: Apache-2.0
"""Activations (csrc/activation.cpp of vllm-xpu-kernels).

The kernels compute in float32 or in the tensor's dtype and round where the code here
does: PyTorch rounds after each operation on half-precision tensors, as they do.
Their loops take input and output for contiguous.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from vllm_xpu_fp8_plugin.reference.refusals import (
    FLOATS,
    require,
    require_all,
    require_dtype,
    require_packed,
)
from vllm_xpu_fp8_plugin.reference.registry import op

_SQRT_2_OVER_PI = 0.79788456


@op("_C::silu_and_mul")
def silu_and_mul(result: Tensor, input: Tensor) -> None:
    """``silu(gate) * up`` of ``input [..., 2 * d]``, the gate first."""
    gate, up = _halves("silu_and_mul", result, input)
    torch.mul(functional.silu(gate), up, out=result)


@op("_C::mul_and_silu")
def mul_and_silu(out: Tensor, input: Tensor) -> None:
    """``up * silu(gate)`` of ``input [..., 2 * d]``, the gate last."""
    up, gate = _halves("mul_and_silu", out, input)
    torch.mul(up, functional.silu(gate), out=out)


@op("_C::gelu_and_mul")
def gelu_and_mul(out: Tensor, input: Tensor) -> None:
    """``gelu(gate) * up`` of ``input [..., 2 * d]``, by the error function."""
    gate, up = _halves("gelu_and_mul", out, input)
    torch.mul(_gelu(gate, "none"), up, out=out)


@op("_C::gelu_tanh_and_mul")
def gelu_tanh_and_mul(out: Tensor, input: Tensor) -> None:
    """``gelu(gate) * up`` of ``input [..., 2 * d]``, by the hyperbolic tangent."""
    gate, up = _halves("gelu_tanh_and_mul", out, input)
    torch.mul(_gelu(gate, "tanh"), up, out=out)


@op("_C::fatrelu_and_mul")
def fatrelu_and_mul(out: Tensor, input: Tensor, threshold: float) -> None:
    """``(gate if gate > threshold else 0) * up`` of ``input [..., 2 * d]``."""
    gate, up = _halves("fatrelu_and_mul", out, input)
    torch.mul(gate.where(gate.float() > threshold, 0), up, out=out)


@op("_C::swigluoai_and_mul")
def swigluoai_and_mul(
    out: Tensor, input: Tensor, alpha: float = 1.702, limit: float = 7.0
) -> None:
    """``(up + 1) * gate * sigmoid(alpha * gate)``, gate and up taking turns.

    Of ``input [..., 2 * d]`` even columns are the gate, at most `limit`; odd ones are
    ``up``, from -limit to limit.
    """
    _halves("swigluoai_and_mul", out, input)
    gate = input[..., ::2].float().clamp(max=limit)
    up = input[..., 1::2].float().clamp(-limit, limit)
    out.copy_((up + 1) * (gate * torch.sigmoid(gate * alpha)))


@op("_C::swiglustep_and_mul")
def swiglustep_and_mul(out: Tensor, input: Tensor, limit: float = 7.0) -> None:
    """``min(silu(gate), limit) * clamp(up, -limit, limit)`` of ``[..., 2 * d]``."""
    gate, up = _halves("swiglustep_and_mul", out, input)
    activated = functional.silu(gate.float()).clamp(max=limit)
    out.copy_(activated * up.float().clamp(-limit, limit))


@op("_C::situ_and_mul")
def situ_and_mul(
    out: Tensor, input: Tensor, beta: float = 1.0, linear_beta: float = -1.0
) -> None:
    """``beta * tanh(gate / beta) * sigmoid(gate) * up`` of ``input [..., 2 * d]``.

    A positive `linear_beta` puts ``linear_beta * tanh(up / linear_beta)`` for ``up``.
    """
    _check_situ(out, input, beta, linear_beta)
    gate, up = input.float().chunk(2, dim=-1)
    if linear_beta > 0:
        up = linear_beta * torch.tanh(up / linear_beta)
    out.copy_(beta * torch.tanh(gate / beta) * torch.sigmoid(gate) * up)


def _check_situ(out: Tensor, input: Tensor, beta: float, linear_beta: float) -> None:
    """Refuse what the host code refuses, in its words."""
    require(
        math.isfinite(beta) and beta > 0,
        "SITU beta must be finite and greater than zero, got {}",
        beta,
    )
    require(
        math.isfinite(linear_beta),
        "SITU linear_beta must be finite, got {}",
        linear_beta,
    )
    width = input.shape[-1]
    require(
        width > 0 and width % 2 == 0,
        "SITU input last dimension must be positive and even, got {}",
        width,
    )
    for label, tensor in (("input", input), ("output", out)):
        require(tensor.is_contiguous(), "SITU {} must be contiguous", label)
    require(
        out.dtype == input.dtype,
        "SITU input and output must have the same dtype, got {} and {}",
        input.dtype,
        out.dtype,
    )
    require(
        out.shape[:-1] == input.shape[:-1],
        "SITU input and output leading dimensions must match, got {} and {}",
        list(input.shape),
        list(out.shape),
    )
    require(
        2 * out.shape[-1] == width,
        "SITU output last dimension must be half of the input's {}, got {}",
        width,
        out.shape[-1],
    )
    require_dtype("situ_and_mul", "input", input, FLOATS)


@op("_C::gelu_new")
def gelu_new(out: Tensor, input: Tensor) -> None:
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))``."""
    _same("gelu_new", out, input)
    inner = _SQRT_2_OVER_PI * (input + 0.044715 * (input * input * input))
    torch.mul(0.5 * input, 1 + torch.tanh(inner), out=out)


@op("_C::gelu_fast")
def gelu_fast(out: Tensor, input: Tensor) -> None:
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * x * (1 + 0.044715 * x * x)))``."""
    _same("gelu_fast", out, input)
    inner = (input * _SQRT_2_OVER_PI) * (1 + (0.044715 * input) * input)
    torch.mul(0.5 * input, 1 + torch.tanh(inner), out=out)


@op("_C::gelu_quick")
def gelu_quick(out: Tensor, input: Tensor) -> None:
    """``x / (1 + exp(-1.702 * x))``; the exponential is rounded to the dtype.

    In bfloat16 the sum is rounded too: SYCL's type stays what it is when 1 is added.
    """
    _same("gelu_quick", out, input)
    values = input.float()
    divisor = 1 + torch.exp(-1.702 * values).to(input.dtype).float()
    if input.dtype == torch.bfloat16:
        divisor = divisor.to(input.dtype).float()
    out.copy_(values / divisor)


@op("_C::relu2_no_mul")
def relu2_no_mul(out: Tensor, input: Tensor) -> None:
    """``max(x, 0) ** 2``, and 0 of NaN."""
    _same("relu2_no_mul", out, input)
    torch.square(input.where(input > 0, 0), out=out)


def _gelu(gate: Tensor, approximate: str) -> Tensor:
    """Return GELU computed in float32, rounded to the dtype of `gate`."""
    # In half precision oneDNN would compute it, whose approximation is its own.
    values = gate.float()
    if approximate == "tanh":
        return functional.gelu(values, approximate="tanh").to(gate.dtype)
    # torch's own gives NaN of infinity.
    error_function = torch.erf(values * math.sqrt(0.5))
    return ((values * 0.5) * (error_function + 1)).to(gate.dtype)


def _same(name: str, out: Tensor, input: Tensor) -> None:
    require_dtype(name, "input", input, FLOATS)
    require_all(name, input.dtype, out=out)
    require_packed(name, input=input, out=out)
    require(
        out.shape == input.shape,
        "{}: out must be of shape {}, got {}",
        name,
        list(input.shape),
        list(out.shape),
    )


def _halves(name: str, out: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """Check and return the first and the second half of the columns."""
    require_dtype(name, "input", input, FLOATS)
    require_all(name, input.dtype, out=out)
    require_packed(name, input=input, out=out)
    d = input.shape[-1] // 2
    require(
        input.shape[-1] == 2 * d and out.shape == (*input.shape[:-1], d),
        "{}: input must have twice as many columns as out, got {} and {}",
        name,
        list(input.shape),
        list(out.shape),
    )
    return input[..., :d], input[..., d:]
