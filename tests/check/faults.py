# SPDX-License-Identifier: Apache-2.0
"""Faults to put into ops, and what `check` should say of each."""

import torch
from torch import Tensor

from tests.check.fault_kinds import (
    PutIn,
    before,
    behind,
    changed,
    first,
    floats,
    gaps,
    has,
    has_values,
    input_changed,
    many,
    neighbour,
    no_stride,
    race,
    swapped,
    transposed,
    unwritten,
)

_STATIC, _NORM = "_C::static_scaled_fp8_quant", "_C::rms_norm"
_CACHE = "_C_cache_ops::reshape_and_cache_flash"
_W8A16, _W8A8 = "_xpu_C::fp8_gemm_w8a16", "_xpu_C::fp8_gemm"
_ATTENTION = "_vllm_fa2_C::varlen_fwd"
_ROTARY = "_C::rotary_embedding"

FAULTS = {
    "scale ignored": PutIn(
        _STATIC, changed(scale=torch.ones_like), "values", "ignores scale"
    ),
    "scale twice": PutIn(
        _STATIC, changed(scale=torch.square), "values", "applies scale twice"
    ),
    "scale inverted": PutIn(
        _STATIC,
        changed(scale=torch.reciprocal),
        "values",
        "applies the inverse of scale",
    ),
    "scale of row 0": PutIn(
        _STATIC,
        changed(scale=first),
        "values",
        "reads scale of channel 0 for all",
        many("scale"),
    ),
    "last row unwritten": PutIn(
        "_C::dynamic_per_token_scaled_fp8_quant",
        unwritten("result", -1),
        "unwritten",
        "never writes result in 2048 of 14336 elements (row 6 of 7)",
    ),
    "tail unwritten": PutIn(
        "_C::gelu_tanh_and_mul",
        unwritten("out", (..., slice(-64, None))),
        "unwritten",
        "column 1984 to 2047 of 2048",
    ),
    "weight ignored": PutIn(
        _NORM, changed(weight=torch.ones_like), "values", "ignores weight"
    ),
    "epsilon ignored": PutIn(
        "_C::fused_add_rms_norm",
        changed(epsilon=lambda e: 1.0),
        "values",
        "wrong input",
    ),
    "write behind the end": PutIn(_NORM, behind, "outside", "16 bytes behind its end"),
    "write before the start": PutIn(
        _NORM, before, "outside", "2 bytes before its start"
    ),
    "input changed": PutIn(_NORM, input_changed, "input", "changes its input input"),
    "race": PutIn(_NORM, race, "runs", "gives another result when run", floats),
    "neighbour": PutIn(
        _NORM, neighbour, "neighbours", "depends on the values of other", floats
    ),
    "gate for up": PutIn(
        "_C::silu_and_mul",
        changed(input=lambda x: torch.cat(x.chunk(2, -1)[::-1], -1)),
        "values",
        "swaps the halves of input",
    ),
    "stride": PutIn(_STATIC, no_stride, "values", "wrong result", gaps),
    "position": PutIn(
        _ROTARY,
        changed(positions=lambda p: (p + 1) % 128),
        "values",
        "is off by one in positions",
    ),
    "style": PutIn(
        _ROTARY, changed(is_neox=lambda x: not x), "values", "takes is_neox for False"
    ),
    "slot": PutIn(
        _CACHE,
        changed(slot_mapping=lambda s: (s + 1).where(s >= 0, s)),
        "values",
        "is off by one slot",
    ),
    "key's scale for values": PutIn(
        _CACHE,
        changed(v_scale=lambda s: s / 4),
        "values",
        "wrong value_cache",
        has_values(kv_cache_dtype="fp8"),
    ),
    "scales swapped": PutIn(
        _CACHE,
        swapped("k_scale", "v_scale"),
        "values",
        "takes v_scale for k_scale",
        has_values(kv_cache_dtype="fp8"),
    ),
    "page": PutIn(
        "_C_cache_ops::gather_cache",
        changed(block_table=lambda t: t.roll(-1, 1)),
        "values",
        "is off by one page",
    ),
    "channel": PutIn(
        _W8A16,
        changed(B_scale_=first),
        "values",
        "reads B_scale_ of channel 0 for all 512",
        many("B_scale_"),
    ),
    "off by a channel": PutIn(
        _W8A16,
        changed(B_scale_=lambda s: s.roll(1)),
        "values",
        "is off by one in B_scale_",
        many("B_scale_"),
    ),
    "bias twice": PutIn(
        _W8A16,
        changed(bias_=lambda b: 2 * b),
        "values",
        "adds bias_ twice",
        has("bias_"),
    ),
    "blocks transposed": PutIn(
        _W8A16,
        transposed,
        "values",
        "takes B_scale_ transposed",
        lambda a: (
            isinstance(a["B_scale_"], Tensor)
            and a["B_scale_"].dim() == 2
            and a["B_scale_"].shape[0] > 1
        ),
    ),
    "token's scale": PutIn(
        _W8A8,
        changed(A_scale_=first),
        "values",
        "reads A_scale_ of channel 0 for all",
        many("A_scale_"),
    ),
    "mask": PutIn(
        _ATTENTION,
        changed(is_causal=lambda x: False),
        "values",
        "takes is_causal for False",
        lambda a: a["is_causal"] and a["block_table"] is None,
    ),
    "window": PutIn(
        _ATTENTION,
        changed(window_size_left=lambda x: -1),
        "values",
        "ignores window_size_left",
        lambda a: a["window_size_left"] > 0,
    ),
    "last page": PutIn(
        _ATTENTION,
        changed(seqused_k=lambda n: n // 64 * 64),
        "values",
        "leaves out the last, partial page",
        lambda a: a["seqused_k"] is not None and int(a["seqused_k"].min()) > 64,
    ),
    "pages of another": PutIn(
        _ATTENTION,
        changed(block_table=lambda t: t.roll(1, 0).contiguous()),
        "values",
        "takes another sequence's pages",
        lambda a: a["block_table"] is not None and len(a["block_table"]) > 2,
    ),
    "sink": PutIn(
        _ATTENTION,
        changed(softmax_sink=lambda s: None),
        "values",
        "ignores softmax_sink",
        has("softmax_sink"),
    ),
}
