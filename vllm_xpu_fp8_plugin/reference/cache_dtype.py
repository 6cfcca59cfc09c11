# SPDX-License-Identifier: Apache-2.0
"""What a cache stores under each ``kv_cache_dtype``.

Contract: ``DISPATCH_BY_KV_CACHE_DTYPE`` and ``CopyWithScaleOp`` in
csrc/quantization/fp8/quant_utils.h of vllm-xpu-kernels.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.fp8 import to_fp8
from vllm_xpu_fp8_plugin.reference.refusals import FLOATS, FP8_DTYPES, require

_NAMES = {
    "auto": None,
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def stored_as(op: str, kv_cache_dtype: str, dtype: torch.dtype) -> torch.dtype | None:
    """Return the FP8 format of a cache for values of `dtype`, None for none.

    Raises:
        RuntimeError: The kernels know no such cache, or take no such values.

    """
    require(
        kv_cache_dtype in _NAMES,
        "{}: unsupported data type of kv cache: {}; the kernels know {}",
        op,
        kv_cache_dtype,
        ", ".join(_NAMES),
    )
    require(dtype in FLOATS, "{}: unsupported input type of kv cache: {}", op, dtype)
    return _NAMES[kv_cache_dtype]


def as_stored(
    op: str, cache: Tensor, fp8: torch.dtype | None, dtype: torch.dtype
) -> Tensor:
    """Return `cache` as a tensor to index: of bytes where it holds FP8.

    The kernels take a cache for what ``kv_cache_dtype`` says, whatever its type.

    Raises:
        RuntimeError: `cache` is of another width than its contents.

    """
    if fp8 is None:
        require(
            cache.dtype == dtype,
            '{}: kv_cache_dtype="auto" with values of {} and a cache of {}',
            op,
            dtype,
            cache.dtype,
        )
        return cache
    require(
        cache.dtype in (torch.uint8, *FP8_DTYPES),
        "{}: an FP8 cache must be of uint8 or FP8, got {}",
        op,
        cache.dtype,
    )
    return cache.view(torch.uint8)


def encode(rows: Tensor, fp8: torch.dtype | None, scale: Tensor) -> Tensor:
    """Return `rows` as the cache stores them: for FP8 the bytes of ``rows / scale``."""
    if fp8 is None:
        return rows
    return to_fp8(rows.float() / scale.flatten()[0].float(), fp8).view(torch.uint8)


def written_slots(
    op: str, slot_mapping: Tensor, block_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which tokens are written, to which blocks, and where in them.

    A negative slot, -1 in vLLM, is that of a token that is not written.

    Raises:
        RuntimeError: `slot_mapping` is not int64.

    """
    require(
        slot_mapping.dtype == torch.int64,
        "{}: slot_mapping must be int64, got {}",
        op,
        slot_mapping.dtype,
    )
    tokens = (slot_mapping >= 0).nonzero().squeeze(1)
    slots = slot_mapping[tokens]
    return tokens, slots // block_size, slots % block_size
