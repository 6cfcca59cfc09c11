# SPDX-License-Identifier: Apache-2.0
"""Copies of cache blocks, and conversion of whole caches.

Contracts: csrc/cache.cpp of vllm-xpu-kernels.
"""

import ctypes

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.cache_dtype import as_stored, stored_as
from vllm_xpu_fp8_plugin.reference.fp8 import from_fp8, to_fp8
from vllm_xpu_fp8_plugin.reference.refusals import FLOATS, require
from vllm_xpu_fp8_plugin.reference.registry import op


@op("_C_cache_ops::convert_fp8")
def convert_fp8(dst: Tensor, src: Tensor, scale: float, kv_cache_dtype: str) -> None:
    """Write ``src / scale`` as FP8, or FP8 `src` times `scale`, to `dst`.

    Args:
        dst: Of the shape of `src`, contiguous, written.
        src: float32, fp16 or bf16 to make FP8 of it; else FP8 (as such or as uint8).
        scale: One value.
        kv_cache_dtype: "fp8" or "fp8_e4m3".

    Raises:
        NotImplementedError: "auto" is asked for.
        RuntimeError: Types or shapes do not fit.

    """
    name = "convert_fp8"
    if kv_cache_dtype == "auto":
        raise NotImplementedError(
            'convert_fp8 in PyTorch refuses kv_cache_dtype="auto": the XPU '
            'kernel takes the bytes for integers, not for FP8. Use "fp8".'
        )
    require(
        kv_cache_dtype in ("fp8", "fp8_e4m3"),
        "{}: unsupported data type: {}; the kernel knows fp8 and fp8_e4m3",
        name,
        kv_cache_dtype,
    )
    require(
        src.is_contiguous() and dst.is_contiguous() and src.shape == dst.shape,
        "{}: src and dst must be contiguous and of one shape, got {} and {}",
        name,
        src.shape,
        dst.shape,
    )
    quantises = src.dtype in FLOATS
    values, packed = (src, dst) if quantises else (dst, src)
    fp8 = stored_as(name, kv_cache_dtype, values.dtype)
    assert fp8 is not None
    bytes_ = as_stored(name, packed, fp8, values.dtype)
    # The kernel's scale is a float.
    factor = torch.tensor(scale, dtype=torch.float32)
    if quantises:
        bytes_.copy_(to_fp8(src.float() / factor, fp8).view(torch.uint8))
    else:
        dst.copy_(from_fp8(bytes_.view(fp8), factor))


@op("_C_cache_ops::swap_blocks")
def swap_blocks(
    src: Tensor, dst: Tensor, block_size_in_bytes: int, block_mapping: Tensor
) -> None:
    """Copy blocks, one after the other.

    Args:
        src: Blocks that follow each other in memory, from its first element on.
        dst: Likewise, written.
        block_size_in_bytes: Of one block.
        block_mapping: [num_pairs, 2], int64, contiguous: numbers of the block in
            `src` and of the one in `dst`.

    Raises:
        RuntimeError: `block_mapping` is not of this form, or leaves the memory.

    """
    name = "swap_blocks"
    require(
        block_mapping.dtype == torch.int64
        and block_mapping.dim() == 2
        and block_mapping.shape[1] == 2
        and block_mapping.is_contiguous(),
        "{}: block_mapping must be a contiguous int64 tensor of shape (N, 2), got {} "
        "of shape {}",
        name,
        block_mapping.dtype,
        block_mapping.shape,
    )
    require(
        block_size_in_bytes > 0,
        "{}: block_size_in_bytes must be positive; got {}",
        name,
        block_size_in_bytes,
    )
    sources, targets = (_blocks(t, block_size_in_bytes) for t in (src, dst))
    for source, target in block_mapping.tolist():
        require(
            0 <= source < len(sources) and 0 <= target < len(targets),
            "{}: no block {} of {} or no block {} of {}",
            name,
            source,
            len(sources),
            target,
            len(targets),
        )
        targets[target] = sources[source]


def _blocks(tensor: Tensor, size: int) -> Tensor:
    """Return the memory from a tensor's first element on, [blocks, size] bytes."""
    storage = tensor.untyped_storage()
    start = tensor.storage_offset() * tensor.itemsize
    count = (storage.nbytes() - start) // size
    memory = torch.empty(0, dtype=torch.uint8)
    return memory.set_(storage, start, (count, size), (size, 1))


@op("_C_cache_ops::swap_blocks_batch")
def swap_blocks_batch(src_ptrs: Tensor, dst_ptrs: Tensor, sizes: Tensor) -> None:
    """Copy ``sizes[i]`` bytes from address ``src_ptrs[i]`` to ``dst_ptrs[i]``.

    Args:
        src_ptrs: [n], uint64.
        dst_ptrs: [n], uint64.
        sizes: [n], uint64.

    Raises:
        RuntimeError: Types or lengths do not fit.

    """
    name = "swap_blocks_batch"
    for which, tensor in (
        ("src_ptrs", src_ptrs),
        ("dst_ptrs", dst_ptrs),
        ("sizes", sizes),
    ):
        require(
            tensor.dtype == torch.uint64 and tensor.shape == src_ptrs.shape,
            "{}: {} must be uint64, as many as src_ptrs, got {} of shape {}",
            name,
            which,
            tensor.dtype,
            tensor.shape,
        )
    for source, target, size in zip(
        src_ptrs.tolist(), dst_ptrs.tolist(), sizes.tolist(), strict=True
    ):
        ctypes.memmove(target, source, size)
