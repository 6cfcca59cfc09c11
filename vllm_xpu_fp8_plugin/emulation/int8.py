# SPDX-License-Identifier: Apache-2.0
"""Conversion to int8."""

import torch
from torch import Tensor


def quantize_int8(values: Tensor) -> Tensor:
    """Round float32 `values` to int8, to nearest even, saturating."""
    return values.round().clamp_(-128, 127).to(torch.int8)
