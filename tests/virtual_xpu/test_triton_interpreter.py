# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.virtual_xpu.triton_interpreter, with any Triton."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from vllm_xpu_fp8_plugin.virtual_xpu import triton_interpreter


class Handle(NamedTuple):
    data: Any
    dtype: str = "int1"


@pytest.mark.parametrize("policies", [(None,), (None, None)], ids=["3.9", "3.7"])
def test_masks_are_made_bits_for_any_triton(policies: tuple[None, ...]) -> None:
    """Catches arguments of one release of Triton: each torch brings its own."""
    seen: list[tuple[Any, ...]] = []

    class Builder:
        def create_masked_load(
            self, ptrs: Any, mask: Any, other: Any, *more: Any
        ) -> None:
            seen.append((mask.data.tolist(), other, *more))

        def create_masked_store(
            self, ptrs: Any, value: Any, mask: Any, *more: Any
        ) -> None:
            seen.append((mask.data.tolist(), value, *more))

    triton_interpreter._take_any_mask(
        SimpleNamespace(InterpreterBuilder=Builder, TensorHandle=Handle)
    )
    inverted = Handle(np.array([-2, 0]))
    Builder().create_masked_load("ptrs", inverted, "other", *policies, False)
    Builder().create_masked_store("ptrs", "value", inverted, *policies)
    mask = [True, False]
    assert seen == [(mask, "other", *policies, False), (mask, "value", *policies)]
