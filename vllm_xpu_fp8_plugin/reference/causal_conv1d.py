# SPDX-License-Identifier: Apache-2.0
"""The convolution of Gated DeltaNet: Qwen3-Next's linear attention, first stage.

Contracts: csrc/xpu/gdn_attn/{gdn_attn_interface.cpp, causal_conv1d.hpp,
xe_2/chunk_causal_conv1d_xe2.hpp} of vllm-xpu-kernels.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.gdn_parts import (
    CHUNK,
    check_convolution,
    chunk_rows,
    convolve,
    heads,
    normalized,
    split,
)
from vllm_xpu_fp8_plugin.reference.refusals import require
from vllm_xpu_fp8_plugin.reference.registry import op

_PAD_SLOT = -1


@op("_xpu_C::causal_conv1d_non_spec")
def causal_conv1d_non_spec(
    z: Tensor,
    projected_states_qkvz: Tensor,
    projected_states_ba: Tensor,
    num_k_heads: int,
    num_v_heads: int,
    head_k_dim: int,
    head_v_dim: int,
    conv_state: Tensor,
    conv_weights: Tensor,
    conv_bias: Tensor | None,
    activation: str,
    num_prefills: int,
    num_decodes: int,
    num_spec_decodes: int,
    has_initial_state: Tensor | None,
    non_spec_query_start_loc: Tensor,
    non_spec_token_indx: Tensor | None,
    non_spec_state_indices_tensor: Tensor,
    num_actual_tokens: int,
    tp_size: int,
    reorder_input: bool,
) -> list[Tensor]:
    """Convolve the tokens of sequences, write their gates, and move their states on.

    Args:
        z: [T, v_heads, head_v_dim], written: the gates.
        projected_states_qkvz: [T, ...] as `split` takes it.
        projected_states_ba: [T, 2 * v_heads]
        num_k_heads: Of all ranks, as `num_v_heads`.
        num_v_heads: Likewise.
        head_k_dim: Size of a key head.
        head_v_dim: Size of a value head.
        conv_state: [slots, width - 1, channels], written.
        conv_weights: [channels, width]
        conv_bias: [channels]
        activation: silu or swish, the same.
        num_prefills: If any, q, k, v are laid out by chunks of 64 rows a sequence, q
            and k are normalised, and b and a are float32 [v_heads, rows] with b's
            sigmoid taken.
        num_decodes: Sequences of a token.
        num_spec_decodes: Not used.
        has_initial_state: [sequences], bool; None for all.
        non_spec_query_start_loc: [sequences + 1], int32.
        non_spec_token_indx: Tokens of the sequences, int32; None for all in order.
        non_spec_state_indices_tensor: [sequences], int32; -1 for a sequence to pass
            over.
        num_actual_tokens: Tokens; what is behind them is padding.
        tp_size: Ranks.
        reorder_input: As `plain` of `split`.

    Returns:
        q and k [T, k_heads, head_k_dim], v [T, v_heads, head_v_dim], b and a [T,
        v_heads], of the projections' type; or as said at `num_prefills`.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "causal_conv1d_non_spec"
    sizes = num_k_heads // tp_size, num_v_heads // tp_size, head_k_dim, head_v_dim
    check_convolution(
        name,
        z,
        projected_states_qkvz,
        projected_states_ba,
        conv_state,
        conv_weights,
        sizes,
        activation,
        num_actual_tokens,
    )
    sequences = num_prefills + num_decodes
    require(sequences > 0, "{} requires num_prefills + num_decodes > 0", name)
    require(
        len(non_spec_query_start_loc) == sequences + 1,
        "non_spec_query_start_loc must have size [num_prefills + num_decodes + 1]",
    )
    require(
        len(non_spec_state_indices_tensor) == sequences,
        "non_spec_state_indices_tensor must have size [num_prefills + num_decodes]",
    )
    require(
        has_initial_state is None or len(has_initial_state) == sequences,
        "has_initial_state must have size [num_prefills + num_decodes]",
    )
    tokens = torch.arange(num_actual_tokens)
    if non_spec_token_indx is not None:
        tokens = non_spec_token_indx.long()
    parts = split(
        projected_states_qkvz[tokens],
        projected_states_ba[tokens],
        *sizes,
        reorder_input,
    )
    z[tokens] = parts.z
    outputs = torch.zeros(len(tokens), conv_state.shape[2])
    starts = non_spec_query_start_loc.tolist()
    for i, slot in enumerate(non_spec_state_indices_tensor.tolist()):
        part = slice(starts[i], starts[i + 1])
        if slot == _PAD_SLOT or starts[i] == starts[i + 1]:
            continue
        state = conv_state[slot]
        if has_initial_state is not None and not has_initial_state[i]:
            state = torch.zeros_like(state)
        outputs[part], conv_state[slot] = convolve(
            state, parts.qkv[part], conv_weights, conv_bias
        )
    q, k, v = heads(outputs, sizes[0], head_k_dim, head_v_dim)
    dtype = projected_states_qkvz.dtype
    if not num_prefills:
        return [x.to(dtype) for x in (q, k, v, parts.b, parts.a)]
    rows = chunk_rows(starts)
    q, k = normalized(q) * head_k_dim**-0.5, normalized(k)
    found = []
    count = len(tokens) + sequences * (CHUNK - 1)
    for values in (q, k, v):
        padded = torch.zeros(count, *values.shape[1:], dtype=dtype)
        padded[rows] = values.to(dtype)
        found.append(padded)
    for values in (parts.b.float().sigmoid(), parts.a.float()):
        padded = torch.zeros(values.shape[1], count)
        padded[:, rows] = values.t()
        found.append(padded)
    return found


@op("_xpu_C::causal_conv1d_spec")
def causal_conv1d_spec(
    z: Tensor,
    projected_states_qkvz: Tensor,
    projected_states_ba: Tensor,
    num_k_heads: int,
    num_v_heads: int,
    head_k_dim: int,
    head_v_dim: int,
    conv_state: Tensor,
    conv_weights: Tensor,
    conv_bias: Tensor | None,
    activation: str,
    num_prefills: int,
    num_decodes: int,
    num_spec_decodes: int,
    spec_query_start_loc: Tensor,
    spec_token_indx: Tensor,
    spec_state_indices_tensor: Tensor,
    num_accepted_tokens: Tensor,
    num_actual_tokens: int,
    tp_size: int,
    reorder_input: bool,
) -> list[Tensor]:
    """Convolve the tokens of speculative decoding.

    As `causal_conv1d_non_spec`, but each sequence has as many tokens as slots, takes
    its state from the slot of the last token that was accepted, and leaves it in its
    last slot. `spec_query_start_loc` is [sequences + 1], `spec_token_indx` [sequences *
    slots], `spec_state_indices_tensor` [sequences, slots], `num_accepted_tokens`
    [sequences], all int32.

    Returns:
        q, k, v, b, a of the tokens in the order of `spec_token_indx`.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "causal_conv1d_spec"
    sizes = num_k_heads // tp_size, num_v_heads // tp_size, head_k_dim, head_v_dim
    check_convolution(
        name,
        z,
        projected_states_qkvz,
        projected_states_ba,
        conv_state,
        conv_weights,
        sizes,
        activation,
        num_actual_tokens,
    )
    require(num_spec_decodes > 0, "{} requires num_spec_decodes > 0", name)
    require(
        len(spec_token_indx) == spec_state_indices_tensor.numel(),
        "{}: spec_token_indx has {} tokens, spec_state_indices_tensor {} slots",
        name,
        len(spec_token_indx),
        spec_state_indices_tensor.numel(),
    )
    tokens = spec_token_indx.long()
    parts = split(
        projected_states_qkvz[tokens],
        projected_states_ba[tokens],
        *sizes,
        reorder_input,
    )
    z[tokens] = parts.z
    outputs = torch.zeros(len(tokens), conv_state.shape[2])
    starts = spec_query_start_loc.tolist()
    accepted = num_accepted_tokens.tolist()
    for i, slots in enumerate(spec_state_indices_tensor.tolist()):
        part = slice(starts[i], starts[i + 1])
        state = conv_state[slots[max(accepted[i] - 1, 0)]].clone()
        outputs[part], conv_state[slots[-1]] = convolve(
            state, parts.qkv[part], conv_weights, conv_bias
        )
    q, k, v = heads(outputs, sizes[0], head_k_dim, head_v_dim)
    dtype = projected_states_qkvz.dtype
    return [x.to(dtype) for x in (q, k, v, parts.b, parts.a)]
