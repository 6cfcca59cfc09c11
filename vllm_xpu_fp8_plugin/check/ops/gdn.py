# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet: a causal convolution, and a recurrence over the tokens.

The two stages, and the op that is both. What the convolution returns to a prefill is
laid out by chunks, so with prefills only the op that is both has numbers to compare;
the stages are compared with single tokens and with speculative decoding.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_SLOTS, _WIDTH, _KEYS, _VALUES, _SIZE = 12, 4, 2, 4, 128
_CHANNELS = _SIZE * (2 * _KEYS + _VALUES)


def _base(tokens: int, dtype: torch.dtype, plain: bool) -> Arguments:
    return {
        "z": making.empty(tokens, _VALUES, _SIZE, dtype=dtype),
        "projected_states_qkvz": making.normal(
            tokens, _CHANNELS + _VALUES * _SIZE, dtype=dtype
        ),
        "projected_states_ba": making.normal(tokens, 2 * _VALUES, dtype=dtype),
        "num_k_heads": _KEYS,
        "num_v_heads": _VALUES,
        "head_k_dim": _SIZE,
        "head_v_dim": _SIZE,
        "conv_state": making.normal(_SLOTS, _WIDTH - 1, _CHANNELS, dtype=dtype),
        "conv_weights": making.normal(_CHANNELS, _WIDTH, dtype=dtype),
        "conv_bias": making.normal(_CHANNELS, dtype=dtype) if plain else None,
        "activation": "silu",
        "num_prefills": 0,
        "num_decodes": 0,
        "num_spec_decodes": 0,
        "num_actual_tokens": tokens,
        "tp_size": 1,
        "reorder_input": plain,
    }


def _sequences(lengths: tuple[int, ...], dtype: torch.dtype) -> Iterator[Arguments]:
    """Yield calls for sequences that have, or do not have, a state before."""
    count, prefills = len(lengths), sum(n > 1 for n in lengths)
    for plain in (False, True):
        yield {
            **_base(sum(lengths), dtype, plain),
            "num_prefills": prefills,
            "num_decodes": count - prefills,
            "has_initial_state": torch.arange(count) % 2 == 0,
            "non_spec_query_start_loc": torch.tensor([0, *lengths]).cumsum(0).int(),
            "non_spec_token_indx": None,
            "non_spec_state_indices_tensor": making.distinct(count, _SLOTS).int(),
        }


def _speculative(dtype: torch.dtype) -> Iterator[Arguments]:
    count, tokens = 3, 3
    for plain in (False, True):
        yield {
            **_base(count * tokens, dtype, plain),
            "num_spec_decodes": count,
            "spec_query_start_loc": (torch.arange(count + 1) * tokens).int(),
            "spec_token_indx": making.distinct(count * tokens, count * tokens).int(),
            "spec_state_indices_tensor": making.distinct(count * tokens, _SLOTS)
            .int()
            .view(count, tokens),
            "num_accepted_tokens": torch.tensor([0, 1, 3]).int(),
        }


def _parts(call: Arguments) -> dict[str, Tensor]:
    """Return each token's q, k, v (before the convolution), z, b and a, float64."""
    qkvz, ba = call["projected_states_qkvz"], call["projected_states_ba"]
    ranks = call["tp_size"]
    keys, values = call["num_k_heads"] // ranks, call["num_v_heads"] // ranks
    size, ratio = call["head_k_dim"], values // keys
    own = call["head_v_dim"] * ratio
    widths = {"q": size, "k": size, "v": own, "z": own}
    found: dict[str, list[Tensor]] = {name: [] for name in (*widths, "b", "a")}
    wide = sum(widths.values())
    for head in range(keys):
        at = 0
        for name, width in widths.items():
            start = at * keys + head * width if call["reorder_input"] else at
            start += 0 if call["reorder_input"] else head * wide
            found[name].append(qkvz[:, start : start + width])
            at += width
        for i, name in enumerate("ba"):
            start = head * 2 * ratio + i * ratio
            if call["reorder_input"]:
                start = i * values + head * ratio
            found[name].append(ba[:, start : start + ratio])
    return {name: torch.cat(x, -1).double() for name, x in found.items()}


def _groups(call: Arguments) -> Iterator[tuple[list[int], int, list[int]]]:
    """Yield each sequence's tokens, the slot of its state (-1: none), and to write."""
    if call["num_spec_decodes"]:
        order = call["spec_token_indx"].tolist()
        slots = call["spec_state_indices_tensor"].tolist()
        for i, own in enumerate(slots):
            tokens = order[i * len(own) : (i + 1) * len(own)]
            yield tokens, own[max(int(call["num_accepted_tokens"][i]) - 1, 0)], own
        return
    starts = call["non_spec_query_start_loc"].tolist()
    order = list(range(starts[-1]))
    if call.get("non_spec_token_indx") is not None:
        order = call["non_spec_token_indx"].tolist()
    for i, slot in enumerate(call["non_spec_state_indices_tensor"].tolist()):
        initial = call.get("has_initial_state")
        known = initial is None or bool(initial[i])
        yield order[starts[i] : starts[i + 1]], slot if known else -1, [slot]


def _convolved(call: Arguments) -> tuple[dict[str, Expected], Tensor, Tensor]:
    """Return z, the state, and the convolution of each token with its error."""
    parts = _parts(call)
    rows = torch.cat([parts[x] for x in "qkv"], -1)
    weights, bias = call["conv_weights"].double(), call["conv_bias"]
    result, error = torch.zeros_like(rows), torch.zeros_like(rows)
    state = call["conv_state"].double().clone()
    kept = torch.zeros(call["conv_state"].shape, dtype=torch.bool)
    width = weights.shape[1]
    for tokens, slot, to in _groups(call):
        before = call["conv_state"][slot].double() if slot >= 0 else 0 * state[0]
        line = torch.cat((before, rows[tokens]))
        for i, token in enumerate(tokens):
            sums = (line[i : i + width] * weights.t()).sum(0)
            sizes = (line[i : i + width] * weights.t()).abs().sum(0)
            if bias is not None:
                sums = sums + bias.double()
            result[token] = sums * sums.sigmoid()
            error[token] = sizes * 2.0**-20
        state[to[-1]] = line[len(line) - width + 1 :]
        kept[to[-1]] = True
    z = parts["z"].view(call["z"].shape)
    outputs = {"z": Expected(z), "conv_state": Expected(state, written=kept)}
    return outputs, result, error


def _conv(call: Arguments) -> dict[str, Expected]:
    outputs, result, error = _convolved(call)
    parts = _parts(call)
    order = [token for tokens, _, _ in _groups(call) for token in tokens]
    at = 0
    for i, name in enumerate("qkv"):
        width, size = (
            parts[name].shape[1],
            call["head_v_dim" if i == 2 else "head_k_dim"],
        )
        shape = (len(order), -1, size)
        values, off = (x[order, at : at + width] for x in (result, error))
        outputs[f"return.{i}"] = Expected(values.view(shape), error=off.view(shape))
        at += width
    for i, name in enumerate("ba"):
        outputs[f"return.{3 + i}"] = Expected(parts[name][order])
    return outputs


def _decodes() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        yield from _sequences((1, 1, 1), dtype)


def _spec_cases() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        yield from _speculative(dtype)


@checked("_xpu_C::causal_conv1d_non_spec", _decodes, inplace=("conv_state",))
def causal_conv1d_non_spec(**call: Any) -> dict[str, Expected]:
    if call["num_prefills"]:
        raise ValueError("what is returned to a prefill is laid out by chunks")
    return _conv(call)


@checked("_xpu_C::causal_conv1d_spec", _spec_cases, inplace=("conv_state",))
def causal_conv1d_spec(**call: Any) -> dict[str, Expected]:
    return _conv(call)
