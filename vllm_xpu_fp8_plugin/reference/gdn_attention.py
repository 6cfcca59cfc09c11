# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet, Qwen3-Next's linear attention: both stages in one op.

Contract: csrc/xpu/gdn_attn/gdn_attn_interface.cpp of vllm-xpu-kernels.
"""

from typing import Any

from torch import Tensor

from vllm_xpu_fp8_plugin.reference.causal_conv1d import (
    causal_conv1d_non_spec,
    causal_conv1d_spec,
)
from vllm_xpu_fp8_plugin.reference.gated_delta_rule import (
    gated_delta_rule_non_spec,
    gated_delta_rule_spec,
)
from vllm_xpu_fp8_plugin.reference.registry import op


@op("_xpu_C::gdn_attention")
def gdn_attention(
    core_attn_out: Tensor,
    ssm_state: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    has_initial_state: Tensor | None,
    non_spec_query_start_loc: Tensor | None,
    non_spec_token_indx: Tensor | None,
    non_spec_state_indices_tensor: Tensor | None,
    spec_query_start_loc: Tensor | None,
    spec_token_indx: Tensor | None,
    spec_state_indices_tensor: Tensor | None,
    num_accepted_tokens: Tensor | None,
    **conv: Any,
) -> None:
    """Run both stages, of speculative decoding first, then of the other sequences.

    Arguments are those of the stages.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    counts = {x: conv[x] for x in ("num_prefills", "num_decodes", "num_spec_decodes")}
    rule = {
        "core_attn_out": core_attn_out,
        "ssm_state": ssm_state,
        "A_log": A_log,
        "dt_bias": dt_bias,
        **{x: conv[x] for x in ("num_v_heads", "head_v_dim")},
        **{x: conv[x] for x in ("num_actual_tokens", "tp_size")},
        **counts,
    }
    names = ("q", "k", "v", "b", "a")
    if conv["num_spec_decodes"] > 0:
        own: dict[str, Any] = {
            "spec_query_start_loc": spec_query_start_loc,
            "spec_token_indx": spec_token_indx,
            "spec_state_indices_tensor": spec_state_indices_tensor,
            "num_accepted_tokens": num_accepted_tokens,
        }
        parts = causal_conv1d_spec(**conv, **own)
        gated_delta_rule_spec(**dict(zip(names, parts, strict=True)), **rule, **own)
    if conv["num_prefills"] + conv["num_decodes"] > 0:
        own = {
            "has_initial_state": has_initial_state,
            "non_spec_query_start_loc": non_spec_query_start_loc,
            "non_spec_token_indx": non_spec_token_indx,
            "non_spec_state_indices_tensor": non_spec_state_indices_tensor,
        }
        parts = causal_conv1d_non_spec(**conv, **own)
        gated_delta_rule_non_spec(**dict(zip(names, parts, strict=True)), **rule, **own)
