# SPDX-License-Identifier: Apache-2.0
"""What an encoder layer has that its kernel does not compute."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends import triton_attn

from tests.attention_layers import ENCODER_TYPES, make_impl, metadata, oracle
from vllm_xpu_fp8_plugin.attention import (
    upstream,
)

pytestmark = pytest.mark.usefixtures("on_xpu")


@pytest.mark.parametrize("attn_type", ENCODER_TYPES)
@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"alibi_slopes": [0.5] * 4}, ["ALiBi"]),
        ({"logits_soft_cap": 30.0}, ["soft cap"]),
        (
            {"alibi_slopes": [0.5] * 4, "logits_soft_cap": 30.0},
            ["ALiBi", "soft cap"],
        ),
    ],
)
def test_what_the_kernel_ignores_is_refused_at_load(
    attn_type: str,
    extra: dict[str, Any],
    named: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches ALiBi or softcap computed without them, silently, and bad advice.

    Whether the kernel refuses them, as the virtual XPU does, or leaves them out.
    """
    kernel = upstream.flash_attn_varlen_func

    def leaving_out(*, softcap: float, alibi_slopes: Any, **kwargs: Any) -> Any:
        return kernel(**kwargs)

    for installed in (kernel, leaving_out):
        monkeypatch.setattr(upstream, "flash_attn_varlen_func", installed)
        with pytest.raises(NotImplementedError) as error:
            make_impl(attn_type, **extra)
        for part in named:
            assert part in str(error.value)
        # vLLM's Triton function for encoder layers takes neither, up to 0.32.
        assert "with transformers" in str(error.value)
        assert "--attention-backend" not in str(error.value)


def test_a_backend_that_computes_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a refusal without the remedy that a newer vLLM has."""

    def context_attention_fwd(softcap: float) -> None:
        """Take what is asked for."""

    monkeypatch.setattr(triton_attn, "context_attention_fwd", context_attention_fwd)
    with pytest.raises(NotImplementedError, match="--attention-backend TRITON_ATTN"):
        make_impl(logits_soft_cap=30.0)
    with pytest.raises(NotImplementedError, match="with transformers"):
        make_impl(logits_soft_cap=30.0, alibi_slopes=[0.5] * 4)


@pytest.mark.parametrize(
    ("default", "asked"),
    [
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        # No kernel takes it; vLLM takes another backend for such a model.
        (torch.float32, torch.bfloat16),
    ],
)
def test_the_kernel_is_asked_in_the_models_type(
    default: torch.dtype, asked: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an answer of a kernel for another type than the model's."""
    types = []

    def kernel(*, q: torch.Tensor, **kwargs: Any) -> None:
        types.append(q.dtype)

    monkeypatch.setattr(upstream, "flash_attn_varlen_func", kernel)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        with pytest.raises(NotImplementedError):
            make_impl(logits_soft_cap=30.0)
    finally:
        torch.set_default_dtype(before)
    assert types == [asked]


@pytest.mark.parametrize("num_kv_heads", [1, 4])
@pytest.mark.parametrize("sliding_window", [None, 3])
@pytest.mark.parametrize("returns", [True, False])
def test_a_kernel_that_computes_it_is_used(
    num_kv_heads: int,
    sliding_window: int | None,
    returns: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a refusal by name, and a feature that is asked for and not passed on."""

    def kernel(*, q: Any, k: Any, v: Any, out: torch.Tensor, **kwargs: Any) -> Any:
        result = oracle(
            *(q, k, v),
            kwargs["cu_seqlens_q"].diff().tolist(),
            tuple(kwargs["window_size"]),
            None,
            kwargs["softmax_scale"],
            kwargs["softcap"],
            kwargs["alibi_slopes"],
        )
        if not returns:
            out.copy_(result)
        return result.to(out.dtype) if returns else None

    monkeypatch.setattr(upstream, "flash_attn_varlen_func", kernel)
    impl = make_impl(
        num_kv_heads=num_kv_heads,
        sliding_window=sliding_window,
        logits_soft_cap=2.0,
        alibi_slopes=[0.1, 0.2, 0.3, 0.4],
    )
    query = 3 * torch.randn(6, 4, 32, dtype=torch.bfloat16)
    key, value = torch.randn(2, 6, num_kv_heads, 32, dtype=torch.bfloat16)
    output = torch.full_like(query, math.nan)
    impl.forward(
        SimpleNamespace(), query, key, value, torch.empty(0), metadata([6]), output
    )
    expected = oracle(
        *(query, key, value, [6], impl.sliding_window, None, 32**-0.5, 2.0),
        torch.tensor([0.1, 0.2, 0.3, 0.4]),
    )
    assert torch.equal(output, expected.bfloat16())


def test_decoder_may_have_a_softcap() -> None:
    """Catches a refusal of decoder layers, which are upstream's business."""
    make_impl(AttentionType.DECODER, logits_soft_cap=30.0)
