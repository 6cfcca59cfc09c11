# SPDX-License-Identifier: Apache-2.0
"""Calls of attention through the kernels' Python layer."""

import itertools
from typing import Any

import torch
from torch import Tensor

from tests.reference.ops import on_xpu


def flash_attn_varlen_func(*tensors: Tensor, **arguments: Any) -> Any:
    """Call the kernel package's function, with XPU tensors."""
    from vllm_xpu_kernels.flash_attn_interface import flash_attn_varlen_func

    return on_xpu(flash_attn_varlen_func, *tensors, **arguments)


def starts(lengths: list[int]) -> Tensor:
    """Return cumulative lengths, int32."""
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def close(result: Tensor, expected: Tensor) -> bool:
    """Whether `result` is `expected` rounded once to the result's type."""
    eps = torch.finfo(result.dtype).eps
    bound = eps * expected.abs().clamp(min=expected.abs().max().item() / 16)
    return bool(((result.double() - expected).abs() <= bound + 1e-6).all())
