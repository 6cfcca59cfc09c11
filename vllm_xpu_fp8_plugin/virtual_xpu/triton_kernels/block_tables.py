# SPDX-License-Identifier: Apache-2.0
"""The kernels of vLLM's block tables, of both of its model runners.

G is the number of KV cache groups, R that of a batch's requests, M that of the places
for requests, T that of tokens. Some tensors hold addresses of the host's memory.
"""

import ctypes
from typing import Any

import numpy as np
from torch import Tensor

Grid = tuple[int, ...]


def _int32_at(address: Any, *shape: int) -> np.ndarray:
    """Return the int32 array of a shape at an address."""
    pointer = ctypes.cast(int(address), ctypes.POINTER(ctypes.c_int32))
    return np.ctypeslib.as_array(pointer, shape)


def apply_write(
    grid: Grid,
    output_ptr: Tensor,
    output_stride: int | Tensor,
    write_indices_ptr: Tensor,
    write_starts_ptr: Tensor,
    write_contents_ptr: Tensor,
    write_cu_lens_ptr: Tensor,
    write_group_ids_ptr: Tensor | None,
    BLOCK_SIZE: int,
    MULTI_GROUP: bool,
) -> None:
    """Write pieces of rows (vllm/v1/worker/gpu/buffer_utils.py).

    Args:
        grid: (number of pieces,)
        output_ptr: [rows] or [rows, width], written; of several groups, the addresses
            [G] of such int32 tensors.
        output_stride: width; of several groups, [G] of them.
        write_indices_ptr: [pieces] int32, rows.
        write_starts_ptr: [pieces] int32, places in the rows.
        write_contents_ptr: All pieces' contents.
        write_cu_lens_ptr: [pieces] int32, where each one's contents end.
        write_group_ids_ptr: [pieces] int32 of several groups, otherwise None.
        BLOCK_SIZE: Not used.
        MULTI_GROUP: Whether there are several groups.

    """
    pieces = grid[0]
    contents = write_contents_ptr.numpy()
    ends = write_cu_lens_ptr.numpy()[:pieces].tolist()
    rows = write_indices_ptr.numpy()[:pieces].tolist()
    starts = write_starts_ptr.numpy()[:pieces].tolist()
    groups, flat = None, np.empty(0)
    if MULTI_GROUP:
        assert write_group_ids_ptr is not None and isinstance(output_stride, Tensor)
        groups = write_group_ids_ptr.numpy()[:pieces]
        addresses, strides = output_ptr.numpy()[groups], output_stride.numpy()[groups]
    else:
        flat = output_ptr.numpy().reshape(-1)
    begin = 0
    for piece, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
        if groups is not None:
            place = int(strides[piece]) * row + start
            flat = _int32_at(addresses[piece], place + end - begin)
        else:
            place = row * int(output_stride) + start
        flat[place : place + end - begin] = contents[begin:end]
        begin = end


def gather_block_tables(
    grid: Grid,
    batch_idx_to_req_idx: Tensor,
    src_block_table_ptrs: Tensor,
    dst_block_table_ptrs: Tensor,
    block_table_strides: Tensor,
    num_blocks_ptr: Tensor,
    num_blocks_stride: int,
    num_reqs: int,
    BLOCK_SIZE: int,
) -> None:
    """Copy the block tables of a batch's requests, and zero those of padding.

    Args:
        grid: (G, R with padding)
        batch_idx_to_req_idx: [R]
        src_block_table_ptrs: [G] uint64, addresses of [M, stride] int32.
        dst_block_table_ptrs: [G] uint64, addresses of [R, stride] int32, written.
        block_table_strides: [G] int64
        num_blocks_ptr: [G, M] int32, how many blocks of a request there are.
        num_blocks_stride: Not used.
        num_reqs: R
        BLOCK_SIZE: Not used.

    """
    requests = batch_idx_to_req_idx.numpy()[:num_reqs]
    places = int(requests.max(initial=-1)) + 1
    strides = block_table_strides.tolist()
    for group, stride in enumerate(strides[: grid[0]]):
        output = _int32_at(dst_block_table_ptrs[group], grid[1], stride)
        output[num_reqs:] = 0
        if not places:
            continue
        table = _int32_at(src_block_table_ptrs[group], places, stride)
        counts = num_blocks_ptr.numpy()[group][requests]
        width = int(counts.max())
        held = np.arange(width) < counts[:, None]
        np.copyto(output[:num_reqs, :width], table[requests, :width], where=held)


def compute_slot_mappings(
    grid: Grid,
    max_num_tokens: int,
    idx_mapping: Tensor,
    query_start_loc: Tensor,
    pos: Tensor,
    block_table_ptrs: Tensor,
    block_table_strides: Tensor,
    block_sizes: Tensor,
    slot_mapping_enabled: Tensor,
    dcp_sharded: Tensor,
    slot_mappings_ptr: Tensor,
    slot_mappings_stride: int,
    cp_rank: int,
    CP_SIZE: int,
    CP_INTERLEAVE: int,
    PAD_ID: int,
    TRITON_BLOCK_SIZE: int,
) -> None:
    """Write the KV-cache slot of each token in each group.

    Args:
        grid: (G, R + 1)
        max_num_tokens: Slots to write; those of no token get `PAD_ID`.
        idx_mapping: [R]; a negative one is of a request without blocks.
        query_start_loc: [R + 1] int32
        pos: [T] int64, position of each token in its sequence.
        block_table_ptrs: [G] uint64, addresses of [M, stride] int32.
        block_table_strides: [G] int64
        block_sizes: [G] int32, tokens that a block holds.
        slot_mapping_enabled: [G] bool
        dcp_sharded: [G] bool, whether ranks share the tokens.
        slot_mappings_ptr: [G, max_num_tokens] int64, written.
        slot_mappings_stride: Not used.
        cp_rank: This rank.
        CP_SIZE: Ranks that share a sequence's tokens.
        CP_INTERLEAVE: Consecutive tokens that a rank takes.
        PAD_ID: The slot of a token that this rank does not hold.
        TRITON_BLOCK_SIZE: Not used.

    """
    start = query_start_loc.numpy()[: grid[1]]
    requests = np.repeat(idx_mapping.numpy()[: grid[1] - 1], np.diff(start))
    positions = pos.numpy()[start[0] : start[-1]]
    (real,) = np.nonzero(requests >= 0)
    places = int(requests.max(initial=-1)) + 1
    strides = block_table_strides.tolist()
    for group in range(grid[0]):
        output = slot_mappings_ptr.numpy()[group]
        output[start[-1] : max_num_tokens] = PAD_ID
        slots = output[start[0] : start[-1]]
        slots[:] = PAD_ID
        if not places or not slot_mapping_enabled[group]:
            continue
        table = _int32_at(block_table_ptrs[group], places, strides[group])
        ranks = CP_SIZE if dcp_sharded[group] else 1
        slots[real] = _slots(
            table,
            requests[real],
            positions[real],
            int(block_sizes[group]),
            ranks,
            cp_rank if ranks > 1 else 0,
            CP_INTERLEAVE,
            PAD_ID,
        )


def compute_slot_mapping(
    grid: Grid,
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc_ptr: Tensor,
    positions_ptr: Tensor,
    block_table_ptr: Tensor,
    block_table_stride: int,
    slot_mapping_ptr: Tensor,
    KV_CACHE_BLOCK_SIZE: int,
    TOTAL_CP_WORLD_SIZE: int,
    TOTAL_CP_RANK: int,
    CP_KV_CACHE_INTERLEAVE_SIZE: int,
    PAD_ID: int,
    BLOCK_SIZE: int,
) -> None:
    """Write the KV-cache slot of each token (vllm/v1/worker/block_table.py).

    Args:
        grid: (R + 1,)
        num_tokens: Tokens of this step with padding; slots behind it get `PAD_ID`.
        max_num_tokens: Number of slots to write.
        query_start_loc_ptr: [R + 1] int32
        positions_ptr: [num_tokens] int64, position of each token in its sequence.
        block_table_ptr: [R, block_table_stride] int32
        block_table_stride: Blocks that a row of the table has room for.
        slot_mapping_ptr: [max_num_tokens] int64, written.
        KV_CACHE_BLOCK_SIZE: Tokens that a block holds on a rank.
        TOTAL_CP_WORLD_SIZE: Ranks that share a sequence's tokens.
        TOTAL_CP_RANK: This one.
        CP_KV_CACHE_INTERLEAVE_SIZE: Consecutive tokens that a rank takes.
        PAD_ID: The slot of a token that this rank does not hold.
        BLOCK_SIZE: Not used.

    """
    start = query_start_loc_ptr.numpy()[: grid[0]]
    rows = np.repeat(np.arange(grid[0] - 1), np.diff(start))
    slots = slot_mapping_ptr.numpy()
    slots[start[0] : start[-1]] = _slots(
        block_table_ptr.numpy().reshape(-1, block_table_stride),
        rows,
        positions_ptr.numpy()[start[0] : start[-1]],
        KV_CACHE_BLOCK_SIZE,
        TOTAL_CP_WORLD_SIZE,
        TOTAL_CP_RANK,
        CP_KV_CACHE_INTERLEAVE_SIZE,
        PAD_ID,
    )
    slots[num_tokens:max_num_tokens] = PAD_ID


def _slots(
    table: np.ndarray,
    rows: np.ndarray,
    positions: np.ndarray,
    block_size: int,
    ranks: int,
    rank: int,
    interleave: int,
    pad: int,
) -> np.ndarray:
    """Return the slots of tokens at positions of sequences, by a table of blocks."""
    block, offset = np.divmod(positions, block_size * ranks)
    slots: np.ndarray = table[rows, block].astype(np.int64) * block_size
    if ranks == 1:
        slots += offset
        return slots
    local = offset // (ranks * interleave) * interleave + offset % interleave
    return np.where(offset // interleave % ranks == rank, slots + local, pad)
