# SPDX-License-Identifier: Apache-2.0
"""Tables of angles for tests of rotary embeddings."""

import torch
from torch import Tensor

MAX_POSITION = 50


def cache_of(rot_dim: int, dtype: torch.dtype) -> Tensor:
    """Return cosines and sines [MAX_POSITION, rot_dim], as vLLM lays them out."""
    angle = torch.arange(MAX_POSITION)[:, None] * 100.0 ** (
        -torch.arange(rot_dim // 2) / rot_dim
    )
    return torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype)
