# SPDX-License-Identifier: Apache-2.0
"""Norms and activations."""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.emulation.registry import op


@op("_C::rms_norm")
def rms_norm(
    result: Tensor, input: Tensor, weight: Tensor | None, epsilon: float
) -> None:
    """``input / sqrt(mean(input ** 2) + epsilon) * weight`` over the last dimension."""
    result.copy_(_rms_norm(input.float(), weight, epsilon))


@op("_C::fused_add_rms_norm")
def fused_add_rms_norm(
    input: Tensor, residual: Tensor, weight: Tensor | None, epsilon: float
) -> None:
    """``residual += input``, then ``input = rms_norm(residual)``, both in place."""
    residual.copy_(input.float() + residual.float())
    input.copy_(_rms_norm(residual.float(), weight, epsilon))


def _rms_norm(values: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    normed = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + epsilon)
    return normed if weight is None else normed * weight.float()


@op("_C::silu_and_mul")
def silu_and_mul(result: Tensor, input: Tensor) -> None:
    """``silu(gate) * up`` of ``input [..., 2 * d]``, the gate first."""
    gate, up = input.float().chunk(2, dim=-1)
    result.copy_(torch.nn.functional.silu(gate) * up)
