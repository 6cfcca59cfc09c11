# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.attention, with the real vLLM on a virtual XPU."""

import importlib
import math
import sys
from collections.abc import Iterator
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends import triton_attn

from vllm_xpu_fp8_plugin.attention import (
    XPUFp8AttentionBackend,
    XPUFp8AttentionImpl,
    upstream,
)


@pytest.fixture(autouse=True)
def on_xpu() -> Iterator[None]:
    """Make every tensor on a virtual XPU."""
    with torch.device("xpu"):
        yield


ENCODER_TYPES = [AttentionType.ENCODER, AttentionType.ENCODER_ONLY]


def make_impl(
    attn_type: str = AttentionType.ENCODER_ONLY,
    num_heads: int = 4,
    num_kv_heads: int = 4,
    head_size: int = 32,
    **kwargs: Any,
) -> XPUFp8AttentionImpl:
    arguments: dict[str, Any] = {
        "alibi_slopes": None,
        "sliding_window": None,
        "kv_cache_dtype": "auto",
        **kwargs,
    }
    return XPUFp8AttentionImpl(
        num_heads,
        head_size,
        head_size**-0.5,
        num_kv_heads,
        attn_type=attn_type,
        **arguments,
    )


def metadata(lengths: list[int]) -> SimpleNamespace:
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return SimpleNamespace(
        query_start_loc=starts,
        max_query_len=max(lengths),
        num_actual_tokens=sum(lengths),
    )


def oracle(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    window: tuple[int, int],
    sinks: torch.Tensor | None,
    scale: float | None = None,
    softcap: float = 0.0,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention from its definition, in float64, one query and head at a time."""
    scale = query.shape[2] ** -0.5 if scale is None else scale
    out = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // key.shape[1]
    start = 0
    for length in lengths:
        for i in range(length):
            low = 0 if window[0] < 0 else max(0, i - window[0])
            high = length if window[1] < 0 else min(length, i + window[1] + 1)
            for head in range(query.shape[1]):
                keys = key[start + low : start + high, head // group].double()
                values = value[start + low : start + high, head // group].double()
                logits = scale * (keys @ query[start + i, head].double())
                if softcap:
                    logits = softcap * (logits / softcap).tanh()
                if slopes is not None:
                    distance = (torch.arange(low, high) - i).abs()
                    logits = logits - slopes[head].double() * distance
                weights = logits.exp()
                total = weights.sum()
                if sinks is not None:
                    total = total + sinks[head].double().exp()
                out[start + i, head] = weights @ values / total
        start += length
    return out


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
            ours = getattr(XPUFp8AttentionImpl, name)
            theirs = getattr(upstream.FlashAttentionImpl, name)
            # A classmethod is bound anew at each access.
            assert getattr(ours, "__func__", ours) is getattr(
                theirs, "__func__", theirs
            ), name
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
