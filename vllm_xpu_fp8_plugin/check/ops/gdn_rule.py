# SPDX-License-Identifier: Apache-2.0
"""The recurrence of Gated DeltaNet, alone and behind its convolution."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.ops.gdn import (
    _SIZE,
    _SLOTS,
    _VALUES,
    _convolved,
    _groups,
    _parts,
    _sequences,
    _speculative,
)
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_CONV = {
    *("z", "conv_state", "conv_weights", "conv_bias", "activation"),
    *("projected_states_qkvz", "projected_states_ba", "reorder_input"),
    *("num_k_heads", "head_k_dim"),
}


def _rule(tokens: int, dtype: torch.dtype, state: torch.dtype) -> Arguments:
    return {
        "core_attn_out": making.empty(tokens, _VALUES, _SIZE, dtype=dtype),
        "A_log": making.normal(_VALUES, dtype=torch.float32),
        "dt_bias": making.normal(_VALUES, dtype=dtype),
        "ssm_state": making.normal(_SLOTS, _VALUES, _SIZE, _SIZE, dtype=state),
    }


def _run(
    call: Arguments, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, a: Tensor
) -> dict[str, Expected]:
    """Return the outputs and states, float64, from each token's arguments.

    Args:
        call: The op's arguments.
        q: [T, k_heads, head_k_dim], of any length, and so is `k`.
        k: Keys.
        v: [T, v_heads, head_v_dim]
        beta: [T, v_heads]
        a: [T, v_heads]

    """
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    q = q / q.shape[-1] ** 0.5
    gates = torch.nn.functional.softplus(a + call["dt_bias"].double())
    g = torch.exp(-torch.exp(call["A_log"].double()) * gates)
    out = torch.zeros(call["core_attn_out"].shape).double()
    written = torch.zeros(out.shape, dtype=torch.bool)
    states = call["ssm_state"].double().clone()
    kept = torch.zeros(states.shape, dtype=torch.bool)
    ratio = v.shape[1] // k.shape[1]
    for tokens, slot, to in _groups(call):
        state = call["ssm_state"][slot].double() if slot >= 0 else 0 * states[0]
        for i, t in enumerate(tokens):
            keys, queries = (x[t].repeat_interleave(ratio, 0) for x in (k, q))
            state = g[t][:, None, None] * state
            seen = torch.einsum("hvk,hk->hv", state, keys)
            change = beta[t][:, None] * (v[t] - seen)
            state = state + torch.einsum("hv,hk->hvk", change, keys)
            out[t] = torch.einsum("hvk,hk->hv", state, queries)
            if len(to) > 1:
                states[to[i]], kept[to[i]] = state, True
        states[to[-1]], kept[to[-1]] = state, True
        written[tokens] = True
    # What is kept in half precision between stages, and sums that cancel.
    part = torch.finfo(call["core_attn_out"].dtype).eps
    sizes = out.abs().amax(-1, keepdim=True)
    bound = states.abs().amax((-1, -2), keepdim=True)
    return {
        "core_attn_out": Expected(out, error=sizes * part, written=written),
        "ssm_state": Expected(states, error=bound * part, written=kept),
    }


def _stage(conv: Iterator[Arguments], state: torch.dtype) -> Iterator[Arguments]:
    for arguments in conv:
        tokens = arguments["num_actual_tokens"]
        dtype = arguments["z"].dtype
        kept = {k: x for k, x in arguments.items() if k not in _CONV}
        yield {
            **kept,
            **_rule(tokens, dtype, state),
            "q": making.normal(tokens, _VALUES // 2, _SIZE, dtype=dtype),
            "k": making.normal(tokens, _VALUES // 2, _SIZE, dtype=dtype),
            "v": making.normal(tokens, _VALUES, _SIZE, dtype=dtype),
            "b": making.normal(tokens, _VALUES, dtype=dtype),
            "a": making.normal(tokens, _VALUES, dtype=dtype),
        }


def _decodes() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for state in (dtype, torch.float32):
            yield from _stage(_sequences((1, 1, 1), dtype), state)


def _spec() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        yield from _stage(_speculative(dtype), torch.float32)


def _both() -> Iterator[Arguments]:
    nothing = {
        **dict.fromkeys(("has_initial_state", "non_spec_query_start_loc")),
        **dict.fromkeys(("non_spec_token_indx", "non_spec_state_indices_tensor")),
        **dict.fromkeys(("spec_query_start_loc", "spec_token_indx")),
        **dict.fromkeys(("spec_state_indices_tensor", "num_accepted_tokens")),
    }
    for dtype in making.HALVES:
        for lengths in ((1, 1), (3, 70, 1), (130,)):
            for arguments in _sequences(lengths, dtype):
                rule = _rule(sum(lengths), dtype, torch.float32)
                yield {**nothing, **arguments, **rule}
        for arguments in _speculative(dtype):
            rule = _rule(arguments["num_actual_tokens"], dtype, torch.float32)
            yield {**nothing, **arguments, **rule}


def _ordered(call: Arguments, x: Tensor) -> Tensor:
    """Return values that lie in the order of the sequences by token."""
    order = [token for tokens, _, _ in _groups(call) for token in tokens]
    result = torch.zeros_like(x).double()
    result[order] = x.double()
    return result


def _stage_alone(**call: Any) -> dict[str, Expected]:
    if call["num_prefills"]:
        raise ValueError("what is taken of a prefill is laid out by chunks")
    q, k, v, b, a = (_ordered(call, call[x]) for x in "qkvba")
    return _run(call, q, k, v, b.sigmoid(), a)


for _op, _cases in (("non_spec", _decodes), ("spec", _spec)):
    checked(f"_xpu_C::gated_delta_rule_{_op}", _cases, inplace=("ssm_state",))(
        _stage_alone
    )


@checked("_xpu_C::gdn_attention", _both, inplace=("conv_state", "ssm_state"))
def gdn_attention(**call: Any) -> dict[str, Expected]:
    outputs, result, _ = _convolved(call)
    parts = _parts(call)
    # What the convolution gives is rounded before the recurrence takes it.
    result = result.to(call["z"].dtype).double()
    split = [parts[x].shape[1] for x in "qkv"]
    sizes = (call["head_k_dim"], call["head_k_dim"], call["head_v_dim"])
    q, k, v = (
        x.reshape(len(x), -1, size)
        for x, size in zip(result.split(split, -1), sizes, strict=True)
    )
    rule = _run(call, q, k, v, parts["b"].sigmoid(), parts["a"])
    for name, expected in rule.items():
        wider = Expected(
            expected.values, error=16 * expected.error, written=expected.written
        )
        outputs[name] = wider
    return outputs
