# SPDX-License-Identifier: Apache-2.0
"""What an XPU runs and the kernel package does not hold, for CPU tensors.

Without these vLLM's code would run all the same, and slowly.
"""

import inspect

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.emulation.weights import dequantized


def use_unquantized_gemm() -> None:
    """Have vLLM take `unquantized_gemm` for layers that are not quantised."""
    from vllm.model_executor.layers import utils

    utils.default_unquantized_gemm = unquantized_gemm


def use_slot_mapping() -> None:
    """Have vLLM take `compute_slot_mapping` for the kernel with the same parameters.

    vLLM before 0.32 has another, which goes on to run in Triton's interpreter.
    """
    from vllm.v1.worker import block_table

    owner = getattr(block_table, "ComputeSlotMappingKernel", None)
    names = list(inspect.signature(compute_slot_mapping).parameters)
    if owner is not None and list(getattr(owner.kernel, "arg_names", ())) == names:
        from vllm.triton_utils.dispatcher import KernelOverride

        # register_kernels would look into each value of each module for further
        # references, which loads the CUDA driver: humming-kernels, which vLLM
        # installs, has a value that does so when looked at.
        owner.kernel = KernelOverride(owner.kernel, compute_slot_mapping)


def use_pytorch_sampling() -> None:
    """Have vLLM filter logits by its PyTorch code where it would by its Triton kernel.

    It does so for requests with a seed of their own, which the kernel package's
    sampler does not take. Triton 3.6's interpreter fails at that kernel.
    """
    from vllm.v1.sample.ops import topk_topp_sampler as sampler

    if hasattr(sampler, "apply_top_k_top_p_pytorch"):
        sampler.apply_top_k_top_p_triton = sampler.apply_top_k_top_p_pytorch


def unquantized_gemm(
    layer: torch.nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return ``x [..., K] @ weight.T [K, N] + bias [N]``, rounded once to x's dtype.

    Few processors have a matrix product for bf16, and hardly one for fp16: torch's
    is up to ten times slower than its float32 one, which this takes. An FP8
    checkpoint's head is such a layer.

    Args:
        layer: Not used; vLLM's hook passes it.
        x: [..., K]
        weight: [N, K]
        bias: [N]

    """
    bias32 = None if bias is None else bias.float()
    product = torch.nn.functional.linear(
        x.float(), dequantized(weight.t(), None), bias32
    )
    return product.to(x.dtype)


def compute_slot_mapping(
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
    """Write the KV-cache slot of each token, as vLLM's Triton kernel does.

    In Triton's interpreter it takes a quarter of a decode step. The parameters are
    that kernel's (vllm/v1/worker/block_table.py).

    Args:
        num_tokens: Tokens of this step; the rest of the slots gets `PAD_ID`.
        max_num_tokens: Number of slots to write.
        query_start_loc_ptr: [num_reqs + 1]
        positions_ptr: [num_tokens], position of each token in its sequence.
        block_table_ptr: [max_num_reqs, block_table_stride]
        block_table_stride: Blocks a row of the table has room for.
        slot_mapping_ptr: [max_num_tokens], written.
        KV_CACHE_BLOCK_SIZE: Tokens a block holds on a rank.
        TOTAL_CP_WORLD_SIZE: Ranks that share a sequence's tokens.
        TOTAL_CP_RANK: This one.
        CP_KV_CACHE_INTERLEAVE_SIZE: Consecutive tokens that a rank takes.
        PAD_ID: The slot of a token that this rank does not hold.
        BLOCK_SIZE: Not used: tokens that one step of Triton's loop takes.

    """
    # The rest of the step's tokens is padding.
    in_use = min(num_tokens, int(query_start_loc_ptr[-1]))
    positions = positions_ptr[:in_use]
    token = torch.arange(in_use, dtype=query_start_loc_ptr.dtype)
    request = torch.searchsorted(query_start_loc_ptr, token, right=True) - 1
    virtual_block_size = KV_CACHE_BLOCK_SIZE * TOTAL_CP_WORLD_SIZE
    offset = positions % virtual_block_size
    interleave = CP_KV_CACHE_INTERLEAVE_SIZE
    is_local = offset // interleave % TOTAL_CP_WORLD_SIZE == TOTAL_CP_RANK
    block = block_table_ptr[request, positions // virtual_block_size].long()
    local_offset = (
        offset // (TOTAL_CP_WORLD_SIZE * interleave) * interleave + offset % interleave
    )
    slots = block * KV_CACHE_BLOCK_SIZE + local_offset
    slot_mapping_ptr[:in_use] = torch.where(is_local, slots, PAD_ID)
    slot_mapping_ptr[num_tokens:max_num_tokens] = PAD_ID
