# SPDX-License-Identifier: Apache-2.0
"""Ops that no compiled code runs for, against their definitions in float64."""

import pytest
import torch

from tests.reference.ops import Ops, release
from tests.reference.replayed import faults
from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.registry import specs
from vllm_xpu_fp8_plugin.virtual_xpu.ops import MISSING, table

virtual_xpu.enable()

# Those with tests of their own are attention, FP8 products and copies.
OPS = (
    "_xpu_C::causal_conv1d_non_spec",
    "_xpu_C::causal_conv1d_spec",
    "_xpu_C::cutlass_grouped_gemm_interface",
    "_xpu_C::fp4_gemm",
    "_xpu_C::fp8_mqa_logits",
    "_xpu_C::fp8_paged_mqa_logits",
    "_xpu_C::gated_delta_rule_non_spec",
    "_xpu_C::gated_delta_rule_spec",
    "_xpu_C::gdn_attention",
    "_xpu_C::hc_head_fused",
    "_xpu_C::int4_gemm_w4a16",
    "_xpu_C::int4_gemm_w4a8",
    "_xpu_C::mhc_fused_post_pre",
    "_xpu_C::mhc_pre",
)


@pytest.mark.parametrize("name", OPS)
def test_op_computes_what_it_should(name: str) -> None:
    """Catches a scale, zero point, expert, page, state or mask that is another's."""
    if name not in table() or table()[name].runs == MISSING:
        pytest.skip(f"{name} is not in this release")
    assert not faults(name)


def test_no_op_is_left_out() -> None:
    """Catches an op that neither runs nor says why."""
    missing = {name for name, op in table().items() if op.runs == MISSING}
    unpublished = {"_xpu_C::gated_delta_rule_spec_recoverssm"}
    assert missing == (unpublished if release() >= (0, 1, 16) else set())


def test_prefill_is_laid_out_by_chunks() -> None:
    """Catches the layout that only the op that is both stages hides."""
    making.seed(0)
    calls = list(specs()["_xpu_C::gdn_attention"].cases())
    call = next(c for c in calls if c["num_prefills"] == 2)
    own = {k: v for k, v in call.items() if "spec_" not in k or "non_spec" in k}
    own["num_spec_decodes"] = 0
    for name in ("core_attn_out", "ssm_state", "A_log", "dt_bias"):
        own.pop(name)
    own.pop("num_accepted_tokens")
    q, _, _, b, _ = Ops("_xpu_C").causal_conv1d_non_spec(**own)
    # Sequences of 3, 70 and 1 tokens begin at rows 0, 64 and 192.
    rows = 3 + 70 + 1 + 3 * 63
    assert len(q) == rows and tuple(b.shape) == (4, rows) and b.dtype == torch.float32
    written = q.float().abs().sum((1, 2)) > 0
    assert written.nonzero().flatten().tolist() == [*range(3), *range(64, 134), 192]
    length = q[written].float().norm(dim=-1)
    torch.testing.assert_close(
        length, torch.full_like(length, 128**-0.5), rtol=0.01, atol=0
    )


def test_padding_sequence_leaves_states_alone() -> None:
    """Catches slot -1, which pads a batch, taken for the last slot."""
    making.seed(0)
    call = next(iter(specs()["_xpu_C::gdn_attention"].cases()))
    call["non_spec_state_indices_tensor"] = torch.tensor([5, -1]).int()
    before = {k: call[k].clone() for k in ("conv_state", "ssm_state")}
    Ops("_xpu_C").gdn_attention(**call)
    for name, state in before.items():
        assert not torch.equal(call[name][5], state[5])
        others = [i for i in range(len(state)) if i != 5]
        assert torch.equal(call[name][others], state[others])
