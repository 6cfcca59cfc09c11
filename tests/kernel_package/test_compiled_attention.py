# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.kernel_package.compiled_attention."""

import io

import pytest

from vllm_xpu_fp8_plugin.kernel_package import compiled_attention
from vllm_xpu_fp8_plugin.kernel_package.compiled_attention import (
    AttentionKernel,
    DecodeKernel,
)


def held(kernels: compiled_attention.CompiledSet, head_size: int, **axes: bool) -> bool:
    call = dict.fromkeys(("paged", "causal", "local", "sink", "lse"), False) | axes
    return compiled_attention.find(kernels.prefill, head_size, **call) is not None


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        (
            b"x_chunk_policy_head64_b16_ffftf.cpp",
            AttentionKernel(64, False, False, sink=False, local=True, lse=False),
        ),
        (
            b"x_chunk_policy_head128_tftff.cpp",
            AttentionKernel(128, True, False, sink=True, local=False, lse=False),
        ),
        (
            b"24chunk_policy_head96_b16Lb1ELb0ELb1ELb0ELb0EEvRN4sycl",
            AttentionKernel(96, True, False, sink=False, local=True, lse=False),
        ),
        (
            b"20chunk_policy_head256Lb0ELb1ELb0ELb0ELb1ELb0EEEv",
            AttentionKernel(256, False, True, sink=False, local=False, lse=True),
        ),
    ],
)
def test_names_and_symbols_say_the_same_in_different_orders(
    text: bytes, kernel: AttentionKernel
) -> None:
    """Catches sink taken for local: names and symbols order them differently."""
    assert compiled_attention.read(io.BytesIO(b"\0" + text + b"\0")).prefill == {kernel}


@pytest.mark.parametrize(
    "text",
    [
        b"chunk_policy_head128_fp8_fffff",
        b"chunk_policy_head128Lb0ELb1ELb0ELb0ELb1ELb1EEEv",
        b"chunk_policy_head512_b16TpTnbJEJbbbbEEvRN4sycl3",
        b"chunk_policy_head64_ffft",
    ],
)
def test_kernels_for_an_fp8_query_and_dispatchers_are_not_taken(text: bytes) -> None:
    """Catches a kernel for an FP8 query, which vLLM never sends, counted as one."""
    assert not compiled_attention.read(io.BytesIO(text)).prefill


@pytest.mark.parametrize("split", range(1, 70))
def test_names_across_a_chunk_boundary_are_read_once_and_whole(
    split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a name, or the argument that disqualifies it, lost between chunks."""
    names = (
        b"chunk_policy_head128Lb0ELb1ELb0ELb0ELb1ELb1EEEv\0"
        b"paged_decode_kernel_template_q16_h64_p64_tff\0"
    )
    monkeypatch.setattr(compiled_attention, "_CHUNK", 100)
    found = compiled_attention.read(io.BytesIO(b"\0" * (100 - split) + names))
    assert found == (set(), {DecodeKernel(16, 64, 64, True, False, False)})


def test_a_causal_window_takes_the_kernel_for_a_window() -> None:
    """Catches a decoder's sliding window looked up as a causal kernel."""
    local = AttentionKernel(128, True, False, sink=False, local=True, lse=False)
    kernels = compiled_attention.CompiledSet(frozenset({local}), frozenset())
    assert held(kernels, 128, paged=True, causal=True, local=True)
    assert not held(kernels, 128, paged=True, causal=True)


def test_head_sizes_go_to_the_next_larger_kernel() -> None:
    """Catches head size 32, which has no kernel of its own, taken for missing."""
    plain = AttentionKernel(64, False, False, sink=False, local=False, lse=False)
    kernels = compiled_attention.CompiledSet(frozenset({plain}), frozenset())
    assert [held(kernels, size) for size in (32, 64, 65)] == [True, True, False]


@pytest.mark.parametrize(
    ("heads", "page", "found"), [(8, 64, True), (8, 128, True), (9, 64, False)]
)
def test_decode_kernels_go_by_group_and_page(
    heads: int, page: int, found: bool
) -> None:
    """Catches a decode kernel looked up for another group or page size."""
    kernel = DecodeKernel(8, 128, 64, causal=False, local=False, sink=False)
    result = compiled_attention.find_decode(
        frozenset({kernel}),
        128,
        heads_per_kv_head=heads,
        page_size=page,
        local=False,
        sink=False,
    )
    assert (result is not None) == found
