# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.int8."""

import torch

from vllm_xpu_fp8_plugin.reference.int8 import quantize_int8


def test_values_round_to_even_and_saturate() -> None:
    """Catches rounding away from zero, and values that wrap around."""
    values = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 1e9, -128.4, -1e9])
    expected = [0, 2, 2, 0, -2, 127, 127, -128, -128]
    assert quantize_int8(values).tolist() == expected


def test_nan_becomes_zero() -> None:
    """Catches a code that depends on the processor."""
    values = torch.tensor([float("nan"), 3.0, float("inf")])
    assert quantize_int8(values).tolist() == [0, 3, 127]
