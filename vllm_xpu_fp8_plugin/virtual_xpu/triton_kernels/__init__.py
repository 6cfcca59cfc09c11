# SPDX-License-Identifier: Apache-2.0
"""vLLM's Triton kernels of every step, over all of a batch's requests at once.

Triton's interpreter takes a millisecond and more for each program, and these kernels
have a program for each request: a step of 64 would take seconds in it. What is not
here runs in the interpreter, which is also what the tests compare with.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from vllm_xpu_fp8_plugin.virtual_xpu.triton_kernels import (
    block_tables,
    inputs,
    logits,
    sampling,
)

# Module of vLLM -> name of a kernel there -> the function that does the same. It gets
# the grid and the kernel's own arguments, tensors on the host's memory, and writes to
# them; or it returns NotImplemented, having written nothing.
_FUNCTIONS: dict[str, dict[str, Callable[..., object]]] = {
    "vllm.v1.worker.gpu.input_batch": {
        "_prepare_prefill_inputs_kernel": inputs.prepare_prefill_inputs,
        "_prepare_pos_seq_lens_kernel": inputs.prepare_pos_seq_lens,
        "_combine_sampled_and_draft_tokens_kernel": (
            inputs.combine_sampled_and_draft_tokens
        ),
        "_get_num_sampled_and_rejected_kernel": inputs.get_num_sampled_and_rejected,
        "_post_update_kernel": inputs.post_update,
        "_post_update_num_computed_tokens_kernel": (
            inputs.post_update_num_computed_tokens
        ),
        "_expand_idx_mapping_kernel": inputs.expand_idx_mapping,
    },
    "vllm.v1.worker.gpu.buffer_utils": {
        "_apply_write_kernel": block_tables.apply_write
    },
    "vllm.v1.worker.gpu.block_table": {
        "_gather_block_tables_kernel": block_tables.gather_block_tables,
        "_compute_slot_mappings_kernel": block_tables.compute_slot_mappings,
    },
    "vllm.v1.worker.block_table": {
        "ComputeSlotMappingKernel.kernel": block_tables.compute_slot_mapping,
        "_compute_slot_mapping_kernel": block_tables.compute_slot_mapping,
    },
    "vllm.v1.worker.gpu.sample.gumbel": {
        "_gumbel_sample_kernel": sampling.gumbel_sample,
        "_temperature_kernel": logits.temperature,
    },
    "vllm.v1.worker.gpu.sample.logprob": {
        "_topk_log_softmax_kernel": sampling.topk_log_softmax,
        "_ranks_kernel": sampling.ranks,
    },
    "vllm.v1.worker.gpu.sample.min_p": {"_min_p_kernel": logits.min_p},
    "vllm.v1.worker.gpu.sample.penalties": {
        "_penalties_kernel": logits.penalties,
        "_bincount_kernel": logits.bincount,
    },
    "vllm.v1.worker.gpu.structured_outputs": {
        "_apply_grammar_bitmask_kernel": logits.apply_grammar_bitmask,
    },
    "vllm.v1.sample.ops.topk_topp_triton": {"_topk_topp_kernel": sampling.topk_topp},
}


@functools.cache
def find(
    kernel: Callable[..., Any], parameters: tuple[str, ...]
) -> Callable[..., object] | None:
    """Return the function for one of vLLM's kernels, or None where there is none.

    A kernel of the same name with other parameters, in another release of vLLM, is
    another kernel.

    Args:
        kernel: What vLLM decorated with `triton.jit`.
        parameters: The names of its parameters.

    """
    function = _FUNCTIONS.get(kernel.__module__, {}).get(kernel.__qualname__)
    if function is None:
        return None
    _grid, *known = inspect.signature(function).parameters
    return function if tuple(known) == parameters else None
