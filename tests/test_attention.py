# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.attention, with the real vLLM on a virtual XPU."""

import importlib
import inspect
import math
import sys
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.attention.backend import AttentionType

from tests.attention_layers import ENCODER_TYPES, make_impl, metadata, oracle
from vllm_xpu_fp8_plugin.attention import (
    XPUFp8AttentionBackend,
    XPUFp8AttentionImpl,
    upstream,
)

pytestmark = pytest.mark.usefixtures("on_xpu")


class Recorder:
    """Records the arguments of the kernel layer's call and passes it on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        self._kernel = upstream.flash_attn_varlen_func
        monkeypatch.setattr(upstream, "flash_attn_varlen_func", self)

    def __call__(self, **kwargs: Any) -> Any:
        self.calls.append(kwargs)
        return self._kernel(**kwargs)


def test_only_two_attributes_differ_from_upstream() -> None:
    """Catches an override that would change decoder layers."""
    own = {n for n in vars(XPUFp8AttentionImpl) if not _is_boilerplate(n)}
    assert own == {"__init__", "_forward_encoder_attention"}
    for name in dir(upstream.FlashAttentionImpl):
        if name not in own and not _is_boilerplate(name):
            # A classmethod is bound anew at each access.
            ours = inspect.getattr_static(XPUFp8AttentionImpl, name)
            theirs = inspect.getattr_static(upstream.FlashAttentionImpl, name)
            assert ours is theirs, name
    backend = {n for n in vars(XPUFp8AttentionBackend) if not _is_boilerplate(n)}
    assert backend == {"get_impl_cls"}
    for kind in (XPUFp8AttentionBackend, upstream.FlashAttentionBackend):
        assert isinstance(vars(kind)["get_impl_cls"], staticmethod)
    assert XPUFp8AttentionBackend.get_impl_cls() is XPUFp8AttentionImpl
    assert XPUFp8AttentionBackend.get_name() == "FLASH_ATTN"


def _is_boilerplate(name: str) -> bool:
    """Whether Python makes the attribute for each class."""
    return name in {
        "__abstractmethods__",
        "__annotations__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__init_subclass__",
        "__module__",
        "__parameters__",
        "__static_attributes__",
        "__subclasshook__",
        "__weakref__",
        "_abc_impl",
        "__orig_bases__",
        "__class__",
    }


@pytest.mark.parametrize("attn_type", ENCODER_TYPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("sliding_window", [None, 5])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_encoder_attention_is_right(
    attn_type: str,
    dtype: torch.dtype,
    num_kv_heads: int,
    sliding_window: int | None,
    has_sinks: bool,
) -> None:
    """Catches a wrong scale, window, head mapping or sink, and unwritten output."""
    torch.manual_seed(0)
    lengths = [1, 9, 4]
    sinks = torch.randn(4) if has_sinks else None
    impl = make_impl(
        attn_type,
        num_kv_heads=num_kv_heads,
        sliding_window=sliding_window,
        sinks=sinks,
    )
    total = sum(lengths)
    query = torch.randn(total, 4, 32, dtype=dtype)
    key, value = torch.randn(2, total, num_kv_heads, 32, dtype=dtype)
    output = torch.full((total + 2, 4, 32), math.nan, dtype=dtype)
    impl.forward(
        SimpleNamespace(),
        *(
            torch.cat([t, torch.full_like(t[:2], math.nan)])
            for t in (query, key, value)
        ),
        torch.empty(0),
        metadata(lengths),
        output,
    )
    expected = oracle(query, key, value, lengths, impl.sliding_window, sinks)
    tolerance = 2 * torch.finfo(dtype).eps * expected.abs().max()
    assert (output[:total].double() - expected).abs().max() <= tolerance
    assert output[total:].isnan().all(), "padding must stay as it was"


@pytest.mark.parametrize("attn_type", ENCODER_TYPES)
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8", "fp8_e4m3"])
def test_encoder_call_has_no_descale(
    attn_type: str, kv_cache_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches any descale in encoder attention, with and without an FP8 KV cache."""
    impl = make_impl(attn_type, kv_cache_dtype=kv_cache_dtype)
    recorder = Recorder(monkeypatch)
    query = torch.randn(6, 4, 32, dtype=torch.bfloat16)
    output = torch.empty_like(query)
    impl.forward(
        SimpleNamespace(), query, query, query, torch.empty(0), metadata([6]), output
    )
    (call,) = recorder.calls
    assert not [name for name in call if "descale" in name]
    assert call["causal"] is False
    assert call["cu_seqlens_k"] is call["cu_seqlens_q"]
    assert "block_table" not in call


@pytest.mark.parametrize("attn_type", ENCODER_TYPES)
def test_encoder_never_quantises_its_query(
    attn_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches vLLM's attention layer quantising the query where the cache is FP8."""
    monkeypatch.setattr(upstream, "flash_attn_supports_quant_query_input", lambda: True)
    impl = make_impl(attn_type, kv_cache_dtype="fp8")
    assert impl.supports_quant_query_input is False


def test_decoder_keeps_upstreams_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a change to a decoder layer's instance."""
    for supported in (True, False):
        monkeypatch.setattr(
            upstream, "flash_attn_supports_quant_query_input", lambda s=supported: s
        )
        ours = vars(make_impl(AttentionType.DECODER, kv_cache_dtype="fp8"))
        theirs = vars(
            upstream.FlashAttentionImpl(4, 32, 32**-0.5, 4, None, None, "fp8")
        )
        assert ours == theirs


@pytest.mark.parametrize(
    ("module", "lacks"),
    [
        ("vllm.v1.attention.backend", "AttentionType"),
        ("vllm.v1.attention.backends.flash_attn", "FlashAttentionImpl"),
    ],
)
def test_a_vllm_without_what_is_built_on_is_named(
    module: str, lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback that names neither the plugin nor the way out."""
    monkeypatch.delattr(sys.modules[module], lacks)
    monkeypatch.delitem(sys.modules, "vllm_xpu_fp8_plugin.attention")
    with pytest.raises((ImportError, RuntimeError)) as error:
        importlib.import_module("vllm_xpu_fp8_plugin.attention")
    assert f"cannot run with vLLM {version('vllm')}" in str(error.value)
    assert lacks in str(error.value)
    assert "pdate the plugin" in str(error.value)


@pytest.mark.parametrize("attn_type", ENCODER_TYPES)
def test_result_is_taken_from_the_return_value(
    attn_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches uninitialised output with kernel layers that do not write `out`.

    vllm-xpu-kernels 0.1.10 - 0.1.13.2, where a kernel is not compiled.
    """
    kernel = upstream.flash_attn_varlen_func

    def unwritten(*, out: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return kernel(out=torch.empty_like(out), **kwargs)

    query = torch.randn(6, 4, 32, dtype=torch.bfloat16)
    expected = torch.empty_like(query)
    impl = make_impl(attn_type)
    arguments = (SimpleNamespace(), query, query, query, torch.empty(0), metadata([6]))
    impl.forward(*arguments, expected)
    monkeypatch.setattr(upstream, "flash_attn_varlen_func", unwritten)
    output = torch.full_like(query, math.nan)
    impl.forward(*arguments, output)
    assert torch.equal(output, expected)
