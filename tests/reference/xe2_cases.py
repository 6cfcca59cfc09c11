# SPDX-License-Identifier: Apache-2.0
"""Runs compiled ops beside attention that use Xe2 instructions; prints what is wrong.

See `compiled_process`.
"""

import json
import sys

import torch

from tests.reference.replayed import faults
from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.virtual_xpu.ops import COMPILED, table

OPS = (
    "_xpu_C::fp8_mqa_logits",
    "_xpu_C::fp8_paged_mqa_logits",
    "_xpu_C::mhc_pre",
    "_xpu_C::mhc_fused_post_pre",
)


def small_heads() -> str:
    """Return what the convolution of a GDN layer says of heads of 32."""
    op = torch.ops._xpu_C.causal_conv1d_non_spec.default
    given = {
        **{"num_k_heads": 1, "num_v_heads": 1, "head_k_dim": 32, "head_v_dim": 32},
        **{"num_prefills": 1, "num_decodes": 0, "num_spec_decodes": 0},
        **{"num_actual_tokens": 1, "tp_size": 1, "activation": "silu"},
        "reorder_input": False,
    }
    arguments = [
        given.get(a.name, None if "Optional" in str(a.type) else torch.zeros(1).xpu())
        for a in op._schema.arguments
    ]
    try:
        op(*arguments)
    except NotImplementedError as e:
        return str(e)
    return ""


if __name__ == "__main__":
    virtual_xpu.enable()
    found: dict[str, list[str] | str] = {
        name: [f"runs in PyTorch: {table()[name].reason}"]
        if table()[name].runs != COMPILED
        else faults(name)
        for name in OPS
    }
    json.dump({**found, "small heads": small_heads()}, sys.stdout)
