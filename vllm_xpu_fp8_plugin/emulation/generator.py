# SPDX-License-Identifier: Apache-2.0
"""The random generator of an XPU, as far as vLLM looks into it."""

import torch
from torch import Tensor


class PhiloxState:
    """Stands in for an element of `torch.xpu.default_generators`.

    A device's generator counts, so its whole state is a seed and an offset. vLLM
    hands both to the sampling op and moves the offset on itself
    (vllm/v1/sample/ops/topk_topp_sampler.py). The CPU's generator has another state.
    """

    def __init__(self, seed: int = 0) -> None:
        """Start with `seed`."""
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> None:
        """Set the seed, and the offset to 0."""
        # Seeds are unsigned 64-bit numbers; the state has them as signed ones.
        signed = (seed + 2**63) % 2**64 - 2**63
        self.set_state(torch.tensor([signed, 0]).view(torch.uint8))

    def get_state(self) -> Tensor:
        """Return seed and offset, [16] bytes."""
        return self._state.clone()

    def set_state(self, state: Tensor) -> None:
        """Take what `get_state` gave."""
        self._state = state.clone()
