# SPDX-License-Identifier: Apache-2.0
"""Conversion to int8."""

import torch
from torch import Tensor


def quantize_int8(values: Tensor) -> Tensor:
    """Round float32 `values` to int8, to nearest even, saturating.

    NaN becomes 0. The kernels clamp it and cast it to an integer, both of which are
    undefined (csrc/quantization/fused_kernels/quant_conversions.h).
    """
    return values.round().clamp_(-128, 127).nan_to_num_(nan=0.0).to(torch.int8)
