# SPDX-License-Identifier: Apache-2.0
"""The kernel package's own Python code, on the virtual XPU."""

import importlib
from typing import Any

import pytest
import torch

from tests.reference import oracle
from tests.reference.ops import on_xpu
from tests.reference.oracle_fp8 import expand, is_nearest, scale_is_right


@pytest.mark.parametrize(
    "module",
    [
        "flash_attn_interface",
        "fused_moe_interface",
        "moe_utils",
        "quantization",
        "rotary",
    ],
)
def test_every_module_imports(module: str) -> None:
    """Catches a library that is asked for at import and not stood in for."""
    importlib.import_module(f"vllm_xpu_kernels.{module}")


@pytest.mark.parametrize(("recipe", "group"), [("fp8block", 128), ("mxfp8", 32)])
def test_activations_are_quantised_in_blocks(recipe: str, group: int) -> None:
    """Catches scales of another shape, type or order than the package reads."""
    from vllm_xpu_kernels.moe_utils import dequant_act, quant_act_xpu

    x = torch.randn(7, 256).bfloat16()
    x[3] *= 100
    q, scale = on_xpu(quant_act_xpu, x, recipe)
    amax = x.double().abs().view(7, -1, group).amax(-1)
    assert scale_is_right(scale.float(), amax, q.dtype, recipe == "mxfp8")
    full = expand(scale.float(), (7, 256))
    assert is_nearest(q, x.double() / full)
    back = on_xpu(dequant_act, q, scale, recipe)
    assert torch.allclose(back.double(), q.double() * full, rtol=1e-6)


def test_a_query_descale_is_refused_or_applied() -> None:
    """Catches a descale that is dropped, and one that an old release would refuse."""
    from vllm_xpu_kernels.flash_attn_interface import flash_attn_varlen_func

    torch.manual_seed(0)
    query, key, value = torch.randn(3, 5, 2, 16).to(torch.float8_e4m3fn)
    lengths = torch.tensor([0, 5], dtype=torch.int32)
    scales = {"q": 2.0, "k": 0.5, "v": 3.0}
    arguments: dict[str, Any] = {
        "max_seqlen_q": 5,
        "cu_seqlens_q": lengths,
        "max_seqlen_k": 5,
        "cu_seqlens_k": lengths,
        **{f"{name}_descale": torch.tensor(scale) for name, scale in scales.items()},
    }
    if "q_scale" not in str(torch.ops._vllm_fa2_C.varlen_fwd.default._schema):
        with pytest.raises(NotImplementedError, match="does not support q_descale"):
            on_xpu(flash_attn_varlen_func, query, key, value, **arguments)
        return
    result = on_xpu(flash_attn_varlen_func, query, key, value, **arguments)
    q, k, v = (
        tensor.double() * scale
        for tensor, scale in zip((query, key, value), scales.values(), strict=True)
    )
    expected, _ = oracle.attention(q, k, v, 0.25)
    assert result.dtype == torch.bfloat16
    assert torch.allclose(result.double(), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("fp8", [None, torch.float8_e4m3fn, torch.float8_e5m2])
def test_decoding_with_a_plan_of_splits_is_right(fp8: torch.dtype | None) -> None:
    """Catches a result that depends on how the kernel is told to share its work."""
    from vllm_xpu_kernels.flash_attn_interface import flash_attn_varlen_func

    torch.manual_seed(0)
    lengths, page = [1, 70, 2500], 16
    query = torch.randn(3, 4, 16).bfloat16()
    table = torch.arange(3 * 157, dtype=torch.int32).view(3, 157)
    caches = torch.randn(2, table.numel(), page, 2, 16).to(fp8 or torch.bfloat16)
    descale = torch.tensor(0.5)
    result = on_xpu(
        flash_attn_varlen_func,
        query,
        *caches,
        max_seqlen_q=1,
        cu_seqlens_q=torch.arange(4, dtype=torch.int32),
        max_seqlen_k=max(lengths),
        causal=True,
        block_table=table,
        num_splits_kv=8,
        host_kv_lens=torch.tensor(lengths),
        k_descale=descale if fp8 else None,
        v_descale=descale if fp8 else None,
    )
    for i, length in enumerate(lengths):
        k, v = caches[:, table[i].long()].flatten(1, 2)[:, :length].double()
        scale = 0.5 if fp8 else 1.0
        expected, _ = oracle.attention(query[i : i + 1], scale * k, scale * v, 0.25)
        error = (result[i].double() - expected[0]).abs()
        assert bool((error <= 2**-8 * expected.abs().amax()).all())
