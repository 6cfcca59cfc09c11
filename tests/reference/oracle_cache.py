# SPDX-License-Identifier: Apache-2.0
"""What a cache holds, from the definition, and slots to write to."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.reference.oracle_fp8 import is_nearest

FLOATS = st.sampled_from([torch.float16, torch.bfloat16, torch.float32])
KINDS = st.sampled_from(["auto", "fp8", "fp8_e4m3", "fp8_e5m2"])
FP8 = {
    "auto": None,
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def is_stored(stored: Tensor, new: Tensor, kind: str, scale: float) -> bool:
    """Whether a cache holds `new`, as it is or as FP8 of ``new / scale``."""
    fp8 = FP8[kind]
    if fp8 is None:
        return torch.equal(stored, new)
    return is_nearest(stored.contiguous().view(fp8), new.double() / scale)


@st.composite
def slot_mappings(draw: st.DrawFn, slots: int) -> Tensor:
    """Draw distinct slots, with tokens to skip among them."""
    order = draw(st.permutations(range(slots)))[: draw(st.integers(0, min(slots, 9)))]
    skipped = [slot if draw(st.integers(0, 3)) else -1 for slot in order]
    return torch.tensor(skipped, dtype=torch.int64)
