# SPDX-License-Identifier: Apache-2.0
"""Tensors of a batch whose rows are scattered over the places for requests."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vllm_xpu_fp8_plugin import virtual_xpu

virtual_xpu.enable()

torch.manual_seed(0)

# Rows of a batch are scattered over the places for requests.
PLACES, VOCABULARY, LENGTH = 9, 2500, 64

POISON = 77


def module(name: str) -> Any:
    """Return a module of vLLM, or skip where this vLLM does not have it."""
    return pytest.importorskip(f"vllm.v1.worker.{name}")


def ints(values: Any, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device="xpu")


def random(high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.randint(high, shape, dtype=dtype).to("xpu")


def poisoned(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.full(shape, POISON, dtype=dtype, device="xpu")


# Four requests: in the prompt, at its end, decoding, decoding with two drafts.
IDX = ints([5, 0, 8, 3], torch.int64)

STARTS = ints([0, 7, 10, 11, 14])

COMPUTED = ints([13, POISON, POISON, 30, POISON, 4, POISON, POISON, 25])

PREFILL = ints([16, POISON, POISON, 30, POISON, 20, POISON, POISON, 20])

SEQ_LENS = ints([11, 16, 26, 33])

CU_LOGITS = ints([0, 1, 2, 3, 6])

FLOATS = torch.tensor([0.7, 9, 9, 0, 9, 1.3, 9, 9, 1.0], device="xpu")
