# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.attention, through the kernels' Python layer."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference import oracle
from tests.reference.attention_calls import close, flash_attn_varlen_func, starts
from vllm_xpu_fp8_plugin.kernel_package import compiled_attention, installed

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """Draw lengths, heads, masks and types of a call."""
    sequences = draw(st.integers(1, 4))
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    # A decode step has one query a sequence.
    longest = draw(st.sampled_from([1, 9]))
    lengths_q = draw(
        st.lists(st.integers(0, longest), min_size=sequences, max_size=sequences)
    )
    more = draw(st.lists(st.integers(0, 12), min_size=sequences, max_size=sequences))
    if not sum(lengths_q):
        lengths_q[0] = 1
    return {
        "lengths_q": lengths_q,
        "more": more,
        "kv_heads": kv_heads,
        "heads": kv_heads * draw(st.sampled_from([1, 2, 4])),
        "head_size": draw(st.sampled_from([8, 32, 40])),
        "dtype": draw(st.sampled_from([torch.float16, torch.bfloat16])),
        "causal": draw(st.booleans()),
        "window": (draw(st.integers(-1, 6)), draw(st.integers(-1, 6))),
        "sink": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


def tensors(p: dict[str, Any], total_q: int) -> tuple[Tensor, Tensor | None]:
    """Return query and sinks of a problem, seeded."""
    torch.manual_seed(p["seed"])
    query = torch.randn(total_q, p["heads"], p["head_size"], dtype=p["dtype"])
    return query, torch.randn(p["heads"]) if p["sink"] else None


@PROPERTY
@given(problems(), st.booleans(), st.booleans())
def test_ragged_attention_is_right(
    p: dict[str, Any], with_out: bool, lse: bool
) -> None:
    """Catches a wrong mask, head mapping, sink, LSE, or `out`."""
    # Ragged keys are of the queries' own lengths: encoder attention.
    lengths = p["lengths_q"]
    query, sink = tensors(p, sum(lengths))
    key = torch.randn(sum(lengths), p["kv_heads"], p["head_size"], dtype=p["dtype"])
    value = torch.randn_like(key)
    storage = torch.full((sum(lengths) + 2, p["heads"], p["head_size"]), math.nan)
    storage = storage.to(p["dtype"])
    out = storage[1:-1] if with_out else None
    result = flash_attn_varlen_func(
        query,
        key,
        value,
        max_seqlen_q=max(lengths),
        cu_seqlens_q=starts(lengths),
        max_seqlen_k=max(lengths),
        cu_seqlens_k=starts(lengths),
        causal=p["causal"],
        window_size=list(p["window"]),
        s_aux=sink,
        out=out,
        return_softmax_lse=lse,
    )
    result, result_lse = result if lse else (result, None)
    parts = [
        oracle.attention(
            q, k, v, p["head_size"] ** -0.5, p["causal"], p["window"], sink
        )
        for q, k, v in zip(
            *(t.split(lengths) for t in (query, key, value)), strict=True
        )
    ]
    assert close(result, torch.cat([x for x, _ in parts]))
    if with_out:
        assert result.data_ptr() == storage[1:-1].data_ptr()
        assert storage[[0, -1]].isnan().all(), "written outside of `out`"
    if result_lse is not None:
        expected = torch.cat([x for _, x in parts], dim=1)
        assert result_lse.shape == expected.shape
        assert torch.allclose(result_lse.double(), expected, atol=1e-5)


@PROPERTY
@given(
    problems(),
    st.sampled_from([1, 4, 16]),
    st.sampled_from([None, *FP8]),
    st.sampled_from(["nhd", "hnd", "layers"]),
    st.integers(1, 4),
)
def test_paged_attention_is_right(
    p: dict[str, Any],
    page: int,
    fp8: torch.dtype | None,
    layout: str,
    splits: int,
) -> None:
    """Catches a wrong page, stride, descale or position, and a read past the last."""
    lengths_q = p["lengths_q"]
    lengths_k = [q + m for q, m in zip(lengths_q, p["more"], strict=True)]
    query, sink = tensors(p, sum(lengths_q))
    scales = torch.tensor([0.5, 1.7]) if fp8 else torch.ones(2)
    pages = [-(-n // page) for n in lengths_k]
    shape = (sum(pages) + 1, page, p["kv_heads"], p["head_size"])
    keys, values = (_pages(shape, layout, fp8 or p["dtype"]) for _ in range(2))
    order = torch.randperm(shape[0], dtype=torch.int32).tolist()
    table = torch.full((len(pages), max(*pages, 1)), 10**6, dtype=torch.int32)
    for row, count in enumerate(pages):
        table[row, :count] = torch.tensor([order.pop() for _ in range(count)])
        used = lengths_k[row] - (count - 1) * page
        if count:
            for cache in (keys, values):
                cache[table[row, count - 1], used:] = math.nan  # never written
    before = [t.float().clone() for t in (keys, values)]
    out = torch.full_like(query, math.nan)
    # As vLLM's attention backend passes them: views of a scalar.
    views = [s.clone().expand(len(pages), p["kv_heads"]) for s in scales]
    result = flash_attn_varlen_func(
        query,
        keys,
        values,
        max_seqlen_q=max(lengths_q),
        cu_seqlens_q=starts(lengths_q),
        max_seqlen_k=max(lengths_k),
        seqused_k=torch.tensor(lengths_k, dtype=torch.int32),
        causal=p["causal"],
        window_size=list(p["window"]),
        block_table=table,
        s_aux=sink,
        out=out,
        k_descale=views[0] if fp8 else None,
        v_descale=views[1] if fp8 else None,
        num_splits_kv=splits,
    )
    parts = []
    for i, q in enumerate(query.split(lengths_q)):
        rows = table[i, : pages[i]].tolist()
        k, v = (
            torch.cat([t[r].double() for r in rows] or [t[0][:0].double()])
            for t in before
        )
        k, v = k[: lengths_k[i]] * scales[0], v[: lengths_k[i]] * scales[1]
        scale = p["head_size"] ** -0.5
        parts.append(
            oracle.attention(q, k, v, scale, p["causal"], p["window"], sink)[0]
        )
    assert close(result, torch.cat(parts))
    for after, original in zip((keys, values), before, strict=True):
        same = (after.float() == original) | original.isnan()
        assert same.all(), "the cache was written"


def _pages(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    """Return a cache [blocks, page, kv_heads, head_size] in one of vLLM's layouts."""
    blocks, page, heads, size = shape
    if layout == "hnd":
        return torch.randn(blocks, heads, page, size).to(dtype).transpose(1, 2)
    if layout == "layers":
        return torch.randn(blocks, 3, page, heads, size).to(dtype)[:, 1]
    return torch.randn(shape).to(dtype)


def test_a_query_that_sees_no_key_gives_zeros() -> None:
    """Catches NaN from an empty softmax."""
    query = torch.randn(2, 1, 8, dtype=torch.float16)
    result = flash_attn_varlen_func(
        query,
        query[:0],
        query[:0],
        max_seqlen_q=2,
        cu_seqlens_q=starts([2]),
        max_seqlen_k=0,
        cu_seqlens_k=starts([0]),
    )
    assert torch.equal(result, torch.zeros_like(query))


@pytest.mark.parametrize("head_size", [32, 64, 80, 96])
@pytest.mark.parametrize("window", [(-1, -1), (4, 4)])
def test_a_kernel_that_is_not_compiled_falls_back(
    head_size: int,
    window: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches coverage that is not the installed wheel's, and a wrong fallback."""
    held = compiled_attention.find(
        compiled_attention.attention_kernels(installed.package_dir()),
        head_size,
        paged=False,
        causal=False,
        local=window != (-1, -1),
        sink=False,
        lse=False,
    )
    monkeypatch.setenv("VLLM_XPU_FP8_EMULATE_COVERAGE", "1")
    query = torch.randn(20, 2, head_size, dtype=torch.float16)
    out = torch.full_like(query, math.nan)
    flash_attn_varlen_func(
        query,
        query,
        query,
        max_seqlen_q=20,
        cu_seqlens_q=starts([20]),
        max_seqlen_k=20,
        cu_seqlens_k=starts([20]),
        window_size=list(window),
        out=out,
    )
    expected, _ = oracle.attention(query, query, query, head_size**-0.5, window=window)
    assert (out.double() - expected).abs().max() < 1e-2
    fell_back = "not compiled" in capsys.readouterr().err
    assert fell_back == (held is None)


def test_what_a_page_holds_beyond_its_sequence_is_not_read() -> None:
    """Catches NaN of unwritten memory in a batch of sequences of unlike lengths."""
    lengths = torch.tensor([3, 7], dtype=torch.int32)
    cache = torch.randn(2, 2, 16, 1, 8).half()
    for page, length in enumerate(lengths):
        cache[:, page, length:] = math.nan
    query = torch.randn(2, 1, 8).half()
    result = flash_attn_varlen_func(
        query,
        *cache,
        max_seqlen_q=1,
        cu_seqlens_q=starts([1, 1]),
        max_seqlen_k=7,
        seqused_k=lengths,
        causal=True,
        block_table=torch.tensor([[0], [1]], dtype=torch.int32),
    )
    parts = [
        oracle.attention(
            query[i : i + 1],
            *cache[:, i, : lengths[i]].double(),
            8**-0.5,
            True,
            (-1, -1),
            None,
        )[0]
        for i in range(2)
    ]
    assert close(result, torch.cat(parts))
