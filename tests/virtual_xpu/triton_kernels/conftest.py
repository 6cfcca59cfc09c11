# SPDX-License-Identifier: Apache-2.0
"""Runs a launcher both ways: over all requests at once, and by the interpreter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.virtual_xpu import triton_kernels


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what runs a launcher both ways and compares all that was written."""
    find = triton_kernels.find
    found: list[object] = []

    def count(*kernel: Any) -> object:
        found.append(find(*kernel))
        return found[-1]

    def run(
        launch: Callable[..., Any], *args: Any, atol: float = 0, **more: Any
    ) -> Any:
        results = []
        for way in (lambda *_: None, count):
            monkeypatch.setattr(triton_kernels, "find", way)
            copies = [a.clone() if isinstance(a, Tensor) else a for a in args]
            results.append((launch(*copies, **more), copies))
        assert found and None not in found, "the kernel has other parameters here"
        for ours, theirs in zip(
            _tensors(results[1]), _tensors(results[0]), strict=True
        ):
            torch.testing.assert_close(
                ours.cpu(), theirs.cpu(), rtol=0, atol=atol, equal_nan=True
            )
        return results[0][0]

    return run


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
