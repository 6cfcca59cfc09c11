# SPDX-License-Identifier: Apache-2.0
"""The kernels that change logits in place before a token is sampled.

L is the number of logits' rows, V the vocabulary, R the number of a batch's requests,
M that of the places for requests.
"""

import numpy as np
import torch
from torch import Tensor

Grid = tuple[int, ...]


def temperature(
    grid: Grid,
    logits_ptr: Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: Tensor,
    temperature_ptr: Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Divide logits by temperatures (vllm/v1/worker/gpu/sample/gumbel.py).

    Args:
        grid: (L, blocks)
        logits_ptr: [L, V], written.
        logits_stride: Not used.
        expanded_idx_mapping_ptr: [L], each row's place.
        temperature_ptr: [M] float32; 0 and 1 leave a row as it is.
        vocab_size: V
        BLOCK_SIZE: Not used.

    """
    divisors = temperature_ptr[expanded_idx_mapping_ptr[: grid[0]].long()]
    for row, divisor in enumerate(divisors.tolist()):
        if divisor not in (0.0, 1.0):
            logits = logits_ptr[row, :vocab_size]
            logits.copy_(logits.float() / divisors[row])


def min_p(
    grid: Grid,
    logits_ptr: Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: Tensor,
    min_p_ptr: Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Mask tokens by the likeliest one's probability (gpu/sample/min_p.py).

    Args:
        grid: (L,)
        logits_ptr: [L, V], written.
        logits_stride: Not used.
        expanded_idx_mapping_ptr: [L], each row's place.
        min_p_ptr: [M] float32; 0 leaves a row as it is.
        vocab_size: V
        BLOCK_SIZE: Not used.

    """
    shares = min_p_ptr[expanded_idx_mapping_ptr[: grid[0]].long()].numpy()
    for row in np.flatnonzero(shares):
        logits = logits_ptr[row, :vocab_size]
        threshold = logits.max().float().numpy() + np.log(shares[row])
        logits.masked_fill_(logits < float(threshold), -torch.inf)


def penalties(
    grid: Grid,
    logits_ptr: Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: Tensor,
    token_ids_ptr: Tensor,
    expanded_local_pos_ptr: Tensor,
    repetition_penalty_ptr: Tensor,
    frequency_penalty_ptr: Tensor,
    presence_penalty_ptr: Tensor,
    prompt_bin_mask_ptr: Tensor,
    prompt_bin_mask_stride: int,
    output_bin_counts_ptr: Tensor,
    output_bin_counts_stride: int,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Apply penalties for tokens that occurred (gpu/sample/penalties.py).

    Args:
        grid: (L, blocks)
        logits_ptr: [L, V], written.
        logits_stride: Not used.
        expanded_idx_mapping_ptr: [L], each row's place.
        token_ids_ptr: [L], a row's token; drafts' rows follow their request's first.
        expanded_local_pos_ptr: [L] int32, a row's place among its request's.
        repetition_penalty_ptr: [M] float32; 1 is none.
        frequency_penalty_ptr: [M] float32; 0 is none.
        presence_penalty_ptr: [M] float32; 0 is none.
        prompt_bin_mask_ptr: [M, V / 32] int32, a bit for each token of the prompt.
        prompt_bin_mask_stride: Not used.
        output_bin_counts_ptr: [M, V] int32, how often a token was generated.
        output_bin_counts_stride: Not used.
        vocab_size: V
        BLOCK_SIZE: Not used.

    """
    one = torch.ones(())
    for row, place in enumerate(expanded_idx_mapping_ptr[: grid[0]].tolist()):
        repetition = repetition_penalty_ptr[place]
        frequency, presence = frequency_penalty_ptr[place], presence_penalty_ptr[place]
        if repetition == 1 and frequency == 0 and presence == 0:
            continue
        logits = logits_ptr[row, :vocab_size].float()
        counts = output_bin_counts_ptr[place, :vocab_size].clone()
        first = row - int(expanded_local_pos_ptr[row])
        for token in token_ids_ptr[first + 1 : row + 1].tolist():
            counts[token] += 1
        occurs = counts > 0
        if repetition != 1:
            in_prompt = _bits(prompt_bin_mask_ptr[place], vocab_size)
            scale = torch.where(in_prompt | occurs, repetition, one)
            logits *= torch.where(logits > 0, 1.0 / scale, scale)
        logits -= frequency * counts.float()
        logits -= presence * occurs.float()
        logits_ptr[row, :vocab_size] = logits


def bincount(
    grid: Grid,
    expanded_idx_mapping_ptr: Tensor,
    all_token_ids_ptr: Tensor,
    all_token_ids_stride: int,
    prompt_len_ptr: Tensor,
    prefill_len_ptr: Tensor,
    prompt_bin_mask_ptr: Tensor,
    prompt_bin_mask_stride: int,
    output_bin_counts_ptr: Tensor,
    output_bin_counts_stride: int,
    BLOCK_SIZE: int,
) -> None:
    """Count the tokens that new requests come with (gpu/sample/penalties.py).

    Args:
        grid: (R, blocks)
        expanded_idx_mapping_ptr: [R], places.
        all_token_ids_ptr: [M, max_model_len] int32
        all_token_ids_stride: Not used.
        prompt_len_ptr: [M] int32
        prefill_len_ptr: [M] int32, with what was generated before a preemption.
        prompt_bin_mask_ptr: [M, V / 32] int32, a bit for each token; bits are set.
        prompt_bin_mask_stride: Not used.
        output_bin_counts_ptr: [M, V] int32, added to.
        output_bin_counts_stride: Not used.
        BLOCK_SIZE: Not used.

    """
    masks = prompt_bin_mask_ptr.numpy()
    for place in expanded_idx_mapping_ptr[: grid[0]].tolist():
        prompt_len, end = int(prompt_len_ptr[place]), int(prefill_len_ptr[place])
        tokens = all_token_ids_ptr.numpy()[place]
        prompt, output = tokens[: min(prompt_len, end)], tokens[prompt_len:end]
        bits = np.left_shift(np.int32(1), prompt % 32)
        np.bitwise_or.at(masks[place], prompt // 32, bits)
        np.add.at(output_bin_counts_ptr.numpy()[place], output, 1)


def apply_grammar_bitmask(
    grid: Grid,
    logits_ptr: Tensor,
    logits_stride: int,
    logits_indices_ptr: Tensor,
    cu_num_logits_ptr: Tensor,
    bitmask_ptr: Tensor,
    bitmask_stride: int,
    vocab_size: int,
    MASK_STRIDE: int,
    BLOCK_SIZE: int,
) -> None:
    """Mask the tokens that a grammar forbids (gpu/structured_outputs.py).

    Args:
        grid: (number of masks, blocks)
        logits_ptr: [L, V], written.
        logits_stride: Not used.
        logits_indices_ptr: [masks] int32, request * `MASK_STRIDE` + place of the logits
            among the request's; of one that the request has not, nothing is written.
        cu_num_logits_ptr: [R + 1] int32
        bitmask_ptr: [masks, V / 32] int32, a bit for each allowed token.
        bitmask_stride: Not used.
        vocab_size: V
        MASK_STRIDE: The most logits that a request has.
        BLOCK_SIZE: Not used.

    """
    starts = cu_num_logits_ptr.tolist()
    for mask, index in enumerate(logits_indices_ptr[: grid[0]].tolist()):
        request, place = divmod(index, MASK_STRIDE)
        row = starts[request] + place
        if row < starts[request + 1]:
            forbidden = ~_bits(bitmask_ptr[mask], vocab_size)
            logits_ptr[row, :vocab_size].masked_fill_(forbidden, -torch.inf)


def _bits(packed: Tensor, count: int) -> Tensor:
    """Return the first bits ``[count]`` of ``packed [count / 32]`` int32 as bool."""
    data = packed.numpy().view(np.uint8)
    bits = np.unpackbits(data, count=count, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))
