# SPDX-License-Identifier: Apache-2.0
"""Random numbers of a given seed: Philox 4x32-10, turned into exponential ones.

Contracts: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011), with
CUDA's sequences and offsets; csrc/xpu/rand/exponential_kernels.hpp of vllm-xpu-kernels
for which work-item draws which element.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_Words = NDArray[np.uint64]
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
# Work-items of a row, and how many of them share an instruction.
_GROUP, _SUB_GROUP = 512, 16
_ROUNDS = 10


def philox(counter: list[_Words], seed: int) -> list[_Words]:
    """Return four words of 32 bits for each counter of four.

    Args:
        counter: Four arrays of one shape, of 32 bits each.
        seed: Of 64 bits.

    """
    keys = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF)]
    x = counter
    for _ in range(_ROUNDS):
        first, second = _FACTORS[0] * x[0], _FACTORS[1] * x[2]
        x = [
            (second >> _HALF) ^ x[1] ^ keys[0],
            second & _LOW,
            (first >> _HALF) ^ x[3] ^ keys[1],
            first & _LOW,
        ]
        keys = [(key + step) & _LOW for key, step in zip(keys, _WEYL, strict=True)]
    return x


def _uniform(rows: int, width: int, seed: int, offset: int) -> Tensor:
    """Return what each element is drawn from: (0, 1], float64 [rows, width]."""
    items = min(_GROUP, -(-width // _SUB_GROUP) * _SUB_GROUP)
    each = -(-width // items)
    column = np.arange(width, dtype=np.uint64)
    item, place = column // np.uint64(each), column % np.uint64(each)
    row = np.arange(rows, dtype=np.uint64)[:, None]
    sequence = row * np.uint64(items) + item
    drawn = np.broadcast_to(place + np.uint64(offset), sequence.shape)
    block = drawn >> np.uint64(2)
    words = philox(
        [block & _LOW, block >> _HALF, sequence & _LOW, sequence >> _HALF], seed
    )
    chosen = np.choose((drawn & np.uint64(3)).astype(np.int64), words)
    return torch.from_numpy(chosen.astype(np.float64) * 2.0**-32 + 2.0**-33)


def _cases() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for rows, width, seed, offset, rate in (
            (4, 1024, 42, 0, 1.0),
            (1, 96, 2**40 + 7, 6, 2.5),
            (3, 100, 1, 4, 1.0),
            (2, 32000, 17, 1, 1.0),
            (2, 1000, 5, 0, 0.5),
        ):
            yield {
                "tensor": making.empty(rows, width, dtype=dtype),
                "seeds": torch.tensor([seed, offset]),
                "lambda": rate,
            }


@checked("_xpu_C::exponential_2d_", _cases, host=("seeds",))
def exponential_2d_(
    tensor: Tensor, seeds: Tensor, **options: float
) -> dict[str, Expected]:
    rate = options["lambda"]
    uniform = _uniform(*tensor.shape, *seeds.tolist())
    # A float32 above this would give less than a half precision holds.
    last = torch.finfo(torch.float32).eps / 2
    values = -uniform.clamp(max=1 - last).log() / rate
    # Near 1 there are few steps of float32, of which the logarithm is.
    return {"tensor": Expected(values, error=2.0**-23 / rate)}
