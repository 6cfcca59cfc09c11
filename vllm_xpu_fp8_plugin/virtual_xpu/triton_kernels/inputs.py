# SPDX-License-Identifier: Apache-2.0
"""The kernels of vllm/v1/worker/gpu/input_batch.py.

A batch's row is its n-th request; a request's index is its place in the tables that
outlive a step. R is the number of rows, M that of places, T that of tokens.
"""

import numpy as np
from torch import Tensor

Grid = tuple[int, ...]


def _repeat(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of ``sum(counts)`` elements its row and its place in the row."""
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return rows, np.arange(len(rows)) - starts[rows]


def prepare_prefill_inputs(
    grid: Grid,
    input_ids_ptr: Tensor,
    next_prefill_tokens_ptr: Tensor,
    next_prefill_tokens_stride: int,
    num_lookahead: int,
    idx_mapping_ptr: Tensor,
    query_start_loc_ptr: Tensor,
    all_token_ids_ptr: Tensor,
    all_token_ids_stride: int,
    prefill_lens_ptr: Tensor,
    num_computed_tokens_ptr: Tensor,
    BLOCK_SIZE: int,
    LOOKAHEAD_BLOCK: int,
) -> None:
    """Copy the tokens of requests whose prompt is being computed to the input.

    Args:
        grid: (R,)
        input_ids_ptr: [T] int32, written.
        next_prefill_tokens_ptr: [num_lookahead, M] int32, written: what follows.
        next_prefill_tokens_stride: M
        num_lookahead: Tokens that follow; zero where the prompt has no more.
        idx_mapping_ptr: [R]
        query_start_loc_ptr: [R + 1] int32
        all_token_ids_ptr: [M, max_model_len] int32
        all_token_ids_stride: max_model_len
        prefill_lens_ptr: [M] int32
        num_computed_tokens_ptr: [M] int32
        BLOCK_SIZE: Not used.
        LOOKAHEAD_BLOCK: Not used.

    """
    requests = idx_mapping_ptr.numpy()[: grid[0]]
    start = query_start_loc_ptr.numpy()
    computed = num_computed_tokens_ptr.numpy()[requests]
    prefill_len = prefill_lens_ptr.numpy()[requests]
    tokens, input_ids = all_token_ids_ptr.numpy(), input_ids_ptr.numpy()
    following = next_prefill_tokens_ptr.numpy()
    for row in np.flatnonzero(computed < prefill_len):
        request, first = tokens[requests[row]], computed[row]
        end = first + start[row + 1] - start[row]
        input_ids[start[row] : start[row + 1]] = request[first:end]
        ahead = request[end : min(end + num_lookahead, prefill_len[row])]
        following[:, requests[row]] = 0
        following[: len(ahead), requests[row]] = ahead


def prepare_pos_seq_lens(
    grid: Grid,
    pos_ptr: Tensor,
    seq_lens_ptr: Tensor,
    idx_mapping_ptr: Tensor,
    query_start_loc_ptr: Tensor,
    num_computed_tokens_ptr: Tensor,
    max_num_reqs: int,
    BLOCK_SIZE: int,
) -> None:
    """Write each token's position and each row's sequence length.

    Args:
        grid: (R + 1,)
        pos_ptr: [T] int64, written.
        seq_lens_ptr: [max_num_reqs] int32, written: zero for rows that are not used.
        idx_mapping_ptr: [R]
        query_start_loc_ptr: [R + 1] int32
        num_computed_tokens_ptr: [M] int32
        max_num_reqs: Rows of `seq_lens_ptr`.
        BLOCK_SIZE: Not used.

    """
    rows = grid[0] - 1
    start = query_start_loc_ptr.numpy()[: rows + 1]
    counts = np.diff(start)
    computed = num_computed_tokens_ptr.numpy()[idx_mapping_ptr.numpy()[:rows]]
    seq_lens = seq_lens_ptr.numpy()
    seq_lens[:rows] = computed + counts
    seq_lens[rows:max_num_reqs] = 0
    row, offset = _repeat(counts)
    pos_ptr.numpy()[start[row] + offset] = computed[row] + offset


def combine_sampled_and_draft_tokens(
    grid: Grid,
    input_ids_ptr: Tensor,
    idx_mapping_ptr: Tensor,
    last_sampled_tokens_ptr: Tensor,
    query_start_loc_ptr: Tensor,
    seq_lens_ptr: Tensor,
    prefill_len_ptr: Tensor,
    draft_tokens_ptr: Tensor,
    draft_tokens_stride: int,
    cu_num_logits_ptr: Tensor,
    logits_indices_ptr: Tensor,
    BLOCK_SIZE: int,
    NUM_NEW_SAMPLED_TOKENS: int = 1,
) -> None:
    """Put the last sampled token and drafts into the input; say where logits are.

    Args:
        grid: (R,)
        input_ids_ptr: [T] int32, written.
        idx_mapping_ptr: [R]
        last_sampled_tokens_ptr: [M, 1] int64
        query_start_loc_ptr: [R + 1] int32
        seq_lens_ptr: [R] int32
        prefill_len_ptr: [M] int32
        draft_tokens_ptr: [M, drafts] int64
        draft_tokens_stride: Elements from one request's drafts to the next one's.
        cu_num_logits_ptr: [R + 1] int32
        logits_indices_ptr: [number of logits] int64, written: their tokens.
        BLOCK_SIZE: Not used.
        NUM_NEW_SAMPLED_TOKENS: Logits of a row that are not of drafts, 0 or 1.

    """
    rows = grid[0]
    requests = idx_mapping_ptr.numpy()[:rows]
    cumulated = cu_num_logits_ptr.numpy()[: rows + 1]
    counts = np.diff(cumulated)
    query_end = query_start_loc_ptr.numpy()[1 : rows + 1]
    first = query_end - counts
    row, offset = _repeat(counts)
    logits_indices_ptr.numpy()[cumulated[row] + offset] = first[row] + offset

    seq_lens = seq_lens_ptr.numpy()[:rows]
    prefill_len = prefill_len_ptr.numpy()[requests]
    input_ids = input_ids_ptr.numpy()
    decoding = seq_lens > prefill_len
    if NUM_NEW_SAMPLED_TOKENS > 0:
        sampled = decoding & (seq_lens - counts >= prefill_len)
        last = last_sampled_tokens_ptr.numpy().reshape(-1)
        input_ids[first[sampled]] = last[requests[sampled]]
    drafts = np.where(decoding, np.maximum(counts - NUM_NEW_SAMPLED_TOKENS, 0), 0)
    if drafts.any():
        row, offset = _repeat(drafts)
        tokens = draft_tokens_ptr.numpy()[requests[row], offset]
        input_ids[query_end[row] - drafts[row] + offset] = tokens


def get_num_sampled_and_rejected(
    grid: Grid,
    num_sampled_ptr: Tensor,
    num_rejected_ptr: Tensor,
    seq_lens_ptr: Tensor,
    cu_num_logits_ptr: Tensor,
    idx_mapping_ptr: Tensor,
    prefill_len_ptr: Tensor,
) -> None:
    """Drop what was sampled before a prompt's end, and count rejected drafts.

    Args:
        grid: (R,)
        num_sampled_ptr: [R] int32, written.
        num_rejected_ptr: [R] int32, written.
        seq_lens_ptr: [R] int32
        cu_num_logits_ptr: [R + 1] int32
        idx_mapping_ptr: [R]
        prefill_len_ptr: [M] int32

    """
    rows = grid[0]
    prefill_len = prefill_len_ptr.numpy()[idx_mapping_ptr.numpy()[:rows]]
    in_prompt = seq_lens_ptr.numpy()[:rows] < prefill_len
    num_sampled = num_sampled_ptr.numpy()[:rows]
    num_sampled[in_prompt] = 0
    num_logits = np.diff(cu_num_logits_ptr.numpy()[: rows + 1])
    rejected = np.where(in_prompt, 0, num_logits - num_sampled)
    num_rejected_ptr.numpy()[:rows] = rejected


def post_update(
    grid: Grid,
    idx_mapping_ptr: Tensor,
    num_computed_tokens_ptr: Tensor,
    last_sampled_tokens_ptr: Tensor,
    output_bin_counts_ptr: Tensor | None,
    output_bin_counts_stride: int,
    sampled_tokens_ptr: Tensor,
    sampled_tokens_stride: int,
    num_sampled_ptr: Tensor,
    num_rejected_ptr: Tensor,
    query_start_loc_ptr: Tensor | None,
    all_token_ids_ptr: Tensor,
    all_token_ids_stride: int,
    total_len_ptr: Tensor,
) -> None:
    """Write a step's tokens to their requests.

    Args:
        grid: (R,)
        idx_mapping_ptr: [R]; a row with a negative index is left out.
        num_computed_tokens_ptr: [M] int32, written.
        last_sampled_tokens_ptr: [M, 1] int64, written.
        output_bin_counts_ptr: [M, vocabulary] int32, written, or None.
        output_bin_counts_stride: Not used.
        sampled_tokens_ptr: [R, drafts + 1] int64
        sampled_tokens_stride: Not used.
        num_sampled_ptr: [R] int32
        num_rejected_ptr: [R] int32
        query_start_loc_ptr: [R + 1] int32, or None: no token was computed.
        all_token_ids_ptr: [M, max_model_len] int32, written.
        all_token_ids_stride: Not used.
        total_len_ptr: [M] int32, written.

    """
    (used,) = np.nonzero(idx_mapping_ptr.numpy()[: grid[0]] >= 0)
    requests = idx_mapping_ptr.numpy()[used]
    counts = num_sampled_ptr.numpy()[used]
    sampled = sampled_tokens_ptr.numpy()
    total_len, last = total_len_ptr.numpy(), last_sampled_tokens_ptr.numpy()

    some = counts > 0
    last.reshape(-1)[requests[some]] = sampled[used[some], counts[some] - 1]
    row, offset = _repeat(counts)
    tokens = sampled[used[row], offset]
    places = total_len[requests[row]] + offset
    all_token_ids_ptr.numpy()[requests[row], places] = tokens
    if output_bin_counts_ptr is not None:
        np.add.at(output_bin_counts_ptr.numpy(), (requests[row], tokens), 1)
    total_len[requests] += counts

    delta = -num_rejected_ptr.numpy()[used]
    if query_start_loc_ptr is not None:
        delta += np.diff(query_start_loc_ptr.numpy()[: grid[0] + 1])[used]
    num_computed_tokens_ptr.numpy()[requests] += delta


def post_update_num_computed_tokens(
    grid: Grid,
    idx_mapping_ptr: Tensor,
    num_computed_tokens_ptr: Tensor,
    query_start_loc_ptr: Tensor,
) -> None:
    """Add a step's tokens to ``num_computed_tokens_ptr [M]`` of its ``R`` requests."""
    rows = grid[0]
    counts = np.diff(query_start_loc_ptr.numpy()[: rows + 1])
    num_computed_tokens_ptr.numpy()[idx_mapping_ptr.numpy()[:rows]] += counts


def expand_idx_mapping(
    grid: Grid,
    idx_mapping_ptr: Tensor,
    expanded_idx_mapping_ptr: Tensor,
    expanded_local_pos_ptr: Tensor,
    cu_num_logits_ptr: Tensor,
    BLOCK_SIZE: int,
) -> None:
    """Write each logit's request and its place among the request's logits.

    Args:
        grid: (R,)
        idx_mapping_ptr: [R]
        expanded_idx_mapping_ptr: [number of logits], written.
        expanded_local_pos_ptr: [number of logits] int32, written.
        cu_num_logits_ptr: [R + 1] int32
        BLOCK_SIZE: Not used.

    """
    cumulated = cu_num_logits_ptr.numpy()[: grid[0] + 1]
    row, offset = _repeat(np.diff(cumulated))
    place = cumulated[row] + offset
    expanded_idx_mapping_ptr.numpy()[place] = idx_mapping_ptr.numpy()[row]
    expanded_local_pos_ptr.numpy()[place] = offset
