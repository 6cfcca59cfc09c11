# SPDX-License-Identifier: Apache-2.0
"""The recurrence of Gated DeltaNet: Qwen3-Next's linear attention, second stage.

Contracts: csrc/xpu/gdn_attn/{gdn_attn_interface.cpp, gated_delta_rule.hpp} of
vllm-xpu-kernels. A state is a matrix S [head_v_dim, head_k_dim] for each value head:

    S = g * S + beta * (v - g * S k) k^T, out = S q
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.gdn_parts import chunk_rows, normalized
from vllm_xpu_fp8_plugin.reference.refusals import require
from vllm_xpu_fp8_plugin.reference.registry import op


def _check(
    name: str,
    out: Tensor,
    state: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    tokens: int,
    heads: int,
    v: int,
) -> None:
    """Refuse what the host code refuses."""
    contiguous = {
        "core_attn_out": out,
        "ssm_state of each batch": state[0],
        "A_log": a_log,
        "dt_bias": dt_bias,
    }
    for label, tensor in contiguous.items():
        require(tensor.is_contiguous(), "{} must be contiguous", label)
    require(
        len(out) >= tokens,
        "core_attn_out.size(0) ({}) must be >= num_actual_tokens ({})",
        len(out),
        tokens,
    )
    require(
        list(out.shape[1:]) == [heads, v],
        "{}: core_attn_out must be [tokens, {}, {}], got {}",
        name,
        heads,
        v,
        list(out.shape),
    )


def _steps(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each token's output [heads, head_v_dim] and the state behind it.

    Args:
        state: [heads, head_v_dim, head_k_dim], float32.
        q: [T, k_heads, head_k_dim], float32, of length 1 / sqrt(head_k_dim).
        k: [T, k_heads, head_k_dim], float32, of length 1.
        v: [T, heads, head_v_dim]
        beta: [T, heads]
        g: [T, heads]

    """
    ratio = v.shape[1] // k.shape[1]
    q, k = q.repeat_interleave(ratio, 1), k.repeat_interleave(ratio, 1)
    for t in range(len(v)):
        state = state * g[t, :, None, None]
        old = (state * k[t].unsqueeze(1)).sum(-1)
        delta = (v[t].float() - old) * beta[t].unsqueeze(-1)
        state = state + delta.unsqueeze(-1) * k[t].unsqueeze(1)
        yield (state * q[t].unsqueeze(1)).sum(-1), state


def _decay(a: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """Return g [T, heads]."""
    gates = torch.nn.functional.softplus(a.float() + dt_bias.float())
    return (-a_log.float().exp() * gates).exp()


@op("_xpu_C::gated_delta_rule_non_spec")
def gated_delta_rule_non_spec(
    core_attn_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    b: Tensor,
    a: Tensor,
    num_v_heads: int,
    head_v_dim: int,
    A_log: Tensor,
    dt_bias: Tensor,
    ssm_state: Tensor,
    num_prefills: int,
    num_decodes: int,
    num_spec_decodes: int,
    has_initial_state: Tensor | None,
    non_spec_query_start_loc: Tensor,
    non_spec_token_indx: Tensor | None,
    non_spec_state_indices_tensor: Tensor,
    num_actual_tokens: int,
    tp_size: int,
) -> None:
    """Run the recurrence over the tokens of sequences.

    Args:
        core_attn_out: [T, v_heads, head_v_dim], written.
        q: What `causal_conv1d_non_spec` returns, and so are `k`, `v`, `b`, `a`.
        k: Keys.
        v: Values.
        b: Before, or behind, its sigmoid.
        a: The decay's input.
        num_v_heads: Of all ranks.
        head_v_dim: Size of a value head.
        A_log: [v_heads], float32.
        dt_bias: [v_heads]
        ssm_state: [slots, v_heads, head_v_dim, head_k_dim], written.
        num_prefills: Whether `q` to `a` are laid out by chunks.
        num_decodes: Sequences of a token.
        num_spec_decodes: Not used.
        has_initial_state: [sequences], bool; None for all.
        non_spec_query_start_loc: [sequences + 1], int32.
        non_spec_token_indx: Where in `core_attn_out` the tokens belong, int32.
        non_spec_state_indices_tensor: [sequences], int32.
        num_actual_tokens: Tokens; what is behind them is padding.
        tp_size: Ranks.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "gated_delta_rule_non_spec"
    _check(
        name,
        core_attn_out,
        ssm_state,
        A_log,
        dt_bias,
        num_actual_tokens,
        num_v_heads // tp_size,
        head_v_dim,
    )
    require(
        num_prefills + num_decodes > 0,
        "{} requires num_prefills + num_decodes > 0",
        name,
    )
    starts = non_spec_query_start_loc.tolist()
    tokens = torch.arange(starts[-1])
    if non_spec_token_indx is not None:
        tokens = non_spec_token_indx.long()
    if num_prefills:
        rows = chunk_rows(starts)
        q, k, v = q[rows].float(), k[rows].float(), v[rows]
        beta, a = b[:, rows].t().float(), a[:, rows].t()
    else:
        beta = b.float().sigmoid()
        q, k = normalized(q) * q.shape[-1] ** -0.5, normalized(k)
    g = _decay(a, A_log, dt_bias)
    for i, slot in enumerate(non_spec_state_indices_tensor.tolist()):
        # A sequence that pads the batch.
        if slot < 0:
            continue
        part = slice(starts[i], starts[i + 1])
        state = ssm_state[slot].float()
        if has_initial_state is not None and not has_initial_state[i]:
            state = torch.zeros_like(state)
        steps = _steps(state, q[part], k[part], v[part], beta[part], g[part])
        for token, (out, after) in zip(tokens[part].tolist(), steps, strict=True):
            core_attn_out[token], state = out, after
        ssm_state[slot] = state


@op("_xpu_C::gated_delta_rule_spec")
def gated_delta_rule_spec(
    core_attn_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    b: Tensor,
    a: Tensor,
    num_v_heads: int,
    head_v_dim: int,
    A_log: Tensor,
    dt_bias: Tensor,
    ssm_state: Tensor,
    num_prefills: int,
    num_decodes: int,
    num_spec_decodes: int,
    spec_query_start_loc: Tensor,
    spec_token_indx: Tensor,
    spec_state_indices_tensor: Tensor,
    num_accepted_tokens: Tensor,
    num_actual_tokens: int,
    tp_size: int,
) -> None:
    """Run the recurrence over the tokens of speculative decoding.

    As `gated_delta_rule_non_spec`, but the state comes from the slot of the last
    token that was accepted, and the state behind each token goes to its own slot:
    `spec_token_indx` is [sequences * slots], `spec_state_indices_tensor` [sequences,
    slots], `num_accepted_tokens` [sequences], all int32.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "gated_delta_rule_spec"
    _check(
        name,
        core_attn_out,
        ssm_state,
        A_log,
        dt_bias,
        num_actual_tokens,
        num_v_heads // tp_size,
        head_v_dim,
    )
    require(num_spec_decodes > 0, "{} requires num_spec_decodes > 0", name)
    require(
        len(spec_token_indx) > 0, "spec_token must be > 0 for gated_delta_rule_spec"
    )
    beta, g = b.float().sigmoid(), _decay(a, A_log, dt_bias)
    q, k = normalized(q) * q.shape[-1] ** -0.5, normalized(k)
    accepted = num_accepted_tokens.tolist()
    count = spec_state_indices_tensor.shape[1]
    for i, slots in enumerate(spec_state_indices_tensor.tolist()):
        part = slice(i * count, (i + 1) * count)
        state = ssm_state[slots[max(accepted[i] - 1, 0)]].float()
        steps = _steps(state, q[part], k[part], v[part], beta[part], g[part])
        tokens = spec_token_indx[part].tolist()
        for token, slot, (out, after) in zip(tokens, slots, steps, strict=True):
            core_attn_out[token] = out
            ssm_state[slot] = after
