# SPDX-License-Identifier: Apache-2.0
"""The kernels that sample tokens by logits and say how likely they were.

L is the number of logits' rows, V the vocabulary, M the number of places for requests.
"""

import numpy as np
import torch
from torch import Tensor

Grid = tuple[int, ...]


def gumbel_sample(
    grid: Grid,
    local_argmax_ptr: Tensor,
    local_argmax_stride: int,
    local_max_ptr: Tensor,
    local_max_stride: int,
    logits_cache_ptr: Tensor | None,
    logits_cache_stride_0: int,
    logits_cache_stride_1: int,
    logits_cache_col_ptr: Tensor | None,
    logits_cache_source_ptr: Tensor | None,
    logits_cache_source_stride: int,
    logits_ptr: Tensor,
    logits_stride: int,
    expanded_idx_mapping_ptr: Tensor,
    seeds_ptr: Tensor,
    pos_ptr: Tensor,
    temp_ptr: Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
    IS_DRAFTING: bool,
    APPLY_TEMPERATURE: bool,
    USE_FP64: bool,
    PER_TOKEN_COL: bool,
) -> object:
    """Write the best token of each block, with Gumbel noise at a temperature above 0.

    The noise is bit for bit that of Triton's interpreter, so that a seed gives the
    same tokens (vllm/v1/worker/gpu/sample/gumbel.py). Not implemented: drafts and
    noise in float64.

    Args:
        grid: (L, blocks)
        local_argmax_ptr: [L, blocks] int64, written.
        local_argmax_stride: Not used.
        local_max_ptr: [L, blocks] float32, written.
        local_max_stride: Not used.
        logits_cache_ptr: None
        logits_cache_stride_0: Not used.
        logits_cache_stride_1: Not used.
        logits_cache_col_ptr: Not used.
        logits_cache_source_ptr: Not used.
        logits_cache_source_stride: Not used.
        logits_ptr: [L, V]
        logits_stride: Not used.
        expanded_idx_mapping_ptr: [L], each row's place; a negative one has none.
        seeds_ptr: [M] int64
        pos_ptr: [L] int64
        temp_ptr: [M] float32
        vocab_size: V
        BLOCK_SIZE: Tokens of a block.
        IS_DRAFTING: False
        APPLY_TEMPERATURE: Whether logits have not been divided by it yet.
        USE_FP64: False
        PER_TOKEN_COL: Not used.

    """
    if logits_cache_ptr is not None or IS_DRAFTING or USE_FP64:
        return NotImplemented
    rows, blocks = grid
    keys = np.arange(vocab_size, dtype=np.uint32)
    scores = np.full(blocks * BLOCK_SIZE, -np.inf, np.float32)
    first = np.arange(blocks) * BLOCK_SIZE
    for row, place in enumerate(expanded_idx_mapping_ptr[:rows].tolist()):
        logits = logits_ptr[row, :vocab_size].float().numpy()
        temperature = temp_ptr.numpy()[place] if place >= 0 else np.float32(0)
        if temperature != 0:
            if APPLY_TEMPERATURE:
                logits = logits / temperature
            noise = _gumbel_noise(int(seeds_ptr[place]), int(pos_ptr[row]), keys)
            logits = logits + noise
        # As the interpreter's, a maximum looks past what is not a number.
        scores[:vocab_size] = np.where(np.isnan(logits), -np.inf, logits)
        best = first + scores.reshape(blocks, BLOCK_SIZE).argmax(1)
        local_argmax_ptr.numpy()[row] = best
        local_max_ptr.numpy()[row] = scores[best]
    return None


def _gumbel_noise(seed: int, pos: int, keys: np.ndarray) -> np.ndarray:
    """Return float32 Gumbel noise for ``keys [n]`` uint32, by vLLM's formulas."""
    h = np.zeros(1, np.uint32)
    for word in (seed, seed >> 32, pos):
        h = _murmur3_mix(h, np.array([word & 0xFFFFFFFF], np.uint32))
    h = _murmur3_mix(h, keys) ^ np.uint32(16)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    low = (h & np.uint32(0xFFFF)).astype(np.float32)
    high = (h >> np.uint32(16)).astype(np.float32)
    u = high * np.float32(2**-16) + (low + np.float32(0.5)) * np.float32(2**-32)
    noise: np.ndarray = -np.log(-_log1p_neg(u))
    return noise


def _murmur3_mix(h: np.ndarray, key: np.ndarray) -> np.ndarray:
    key = _rotl(key * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
    return _rotl(h ^ key, 13) * np.uint32(5) + np.uint32(0xE6546B64)


def _rotl(value: np.ndarray, shift: int) -> np.ndarray:
    return (value << np.uint32(shift)) | (value >> np.uint32(32 - shift))


def _log1p_neg(value: np.ndarray) -> np.ndarray:
    """Return ``log(1 - value)``: a series below a quarter, as vLLM has it."""
    polynomial = np.full(1, 1 / 8, np.float32)
    for n in range(7, 0, -1):
        polynomial = np.float32(1 / n) + value * polynomial
    direct = np.log(np.maximum(np.float32(1) - value, np.float32(2**-24)))
    return np.where(value < np.float32(0.25), -value * polynomial, direct)


def topk_topp(
    grid: Grid,
    LOGITS: Tensor,
    LOGITS_STRIDE_0: int,
    BUFFER: Tensor,
    PERCENTILE_TO_STD_TABLE: Tensor,
    NORMAL_CDF_TO_SIGMA_TABLE: Tensor,
    K: Tensor,
    P: Tensor,
    BATCH_SIZE: int,
    VOCAB_SIZE: int,
    MASK_VALUE: float,
    BLOCK_SIZE: int,
    BLOCK_SIZE_TRUNC: int,
    TOPK_ENABLED: bool,
    TOPP_ENABLED: bool,
    SPLIT_COVERS_PONLY: bool,
) -> object:
    """Mask all but the likeliest tokens, by vLLM's own PyTorch code for it.

    It keeps all tokens that are as likely as the last one kept by top-k
    (vllm/v1/sample/ops/topk_topp_sampler.py).

    Args:
        grid: Not used.
        LOGITS: [L, V] float32, written.
        LOGITS_STRIDE_0: Not used.
        BUFFER: Not used.
        PERCENTILE_TO_STD_TABLE: Not used.
        NORMAL_CDF_TO_SIGMA_TABLE: Not used.
        K: [L] int32, if `TOPK_ENABLED`.
        P: [L] float32, if `TOPP_ENABLED`.
        BATCH_SIZE: L
        VOCAB_SIZE: V
        MASK_VALUE: -inf
        BLOCK_SIZE: Not used.
        BLOCK_SIZE_TRUNC: Not used.
        TOPK_ENABLED: Whether there is a top-k.
        TOPP_ENABLED: Whether there is a top-p.
        SPLIT_COVERS_PONLY: False

    """
    if -torch.inf != MASK_VALUE or SPLIT_COVERS_PONLY:
        return NotImplemented
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    logits = LOGITS[:BATCH_SIZE, :VOCAB_SIZE]
    k = K[:BATCH_SIZE] if TOPK_ENABLED else None
    p = P[:BATCH_SIZE] if TOPP_ENABLED else None
    logits.copy_(apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True))
    return None


def topk_log_softmax(
    grid: Grid,
    output_ptr: Tensor,
    logits_ptr: Tensor,
    logits_stride: int,
    topk_ids_ptr: Tensor,
    topk_ids_stride: int,
    topk: int,
    vocab_size: int,
    BLOCK_SIZE: int,
    TOPK_BLOCK_SIZE: int,
) -> None:
    """Write log-probabilities of some tokens (gpu/sample/logprob.py).

    Args:
        grid: (L,)
        output_ptr: [L, topk] float32, written.
        logits_ptr: [L, V]
        logits_stride: Not used.
        topk_ids_ptr: [L, topk] int64
        topk_ids_stride: Not used.
        topk: Tokens of a row.
        vocab_size: V
        BLOCK_SIZE: Not used.
        TOPK_BLOCK_SIZE: Not used.

    """
    logits = logits_ptr[: grid[0], :vocab_size].float()
    log_sum = logits.logsumexp(1, keepdim=True)
    wanted = topk_ids_ptr[: grid[0], :topk].long()
    output_ptr[: grid[0]] = logits.gather(1, wanted) - log_sum


def ranks(
    grid: Grid,
    output_ptr: Tensor,
    logits_ptr: Tensor,
    logits_stride: int,
    token_ids_ptr: Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
) -> None:
    """Write how many tokens are at least as likely (gpu/sample/logprob.py).

    Args:
        grid: (L,)
        output_ptr: [L] int64, written.
        logits_ptr: [L, V]
        logits_stride: Not used.
        token_ids_ptr: [L], each row's token.
        vocab_size: V
        BLOCK_SIZE: Not used.

    """
    logits = logits_ptr[: grid[0], :vocab_size]
    own = logits.gather(1, token_ids_ptr[: grid[0], None].long())
    output_ptr[: grid[0]] = (logits >= own).sum(1)
