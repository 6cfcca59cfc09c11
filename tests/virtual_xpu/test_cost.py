# SPDX-License-Identifier: Apache-2.0
"""What the virtual XPU costs in time and in memory."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from tests.engine import run_engine
from tests.models import make_model, token_ids
from tests.reference.test_attention import flash_attn_varlen_func, starts


def seconds(work: Callable[[], object]) -> float:
    """Return the least time of several."""
    times = []
    for _ in range(15):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def encoder(lengths: list[int]) -> Callable[[], object]:
    """Return a call of encoder attention on sequences of these lengths."""
    query, key, value = (torch.randn(sum(lengths), 4, 64).half() for _ in range(3))
    cu_seqlens = starts(lengths)
    return lambda: flash_attn_varlen_func(
        query,
        key,
        value,
        max_seqlen_q=max(lengths),
        cu_seqlens_q=cu_seqlens,
        max_seqlen_k=max(lengths),
        cu_seqlens_k=cu_seqlens,
        causal=False,
    )


def test_attention_time_follows_the_lengths_and_not_the_longest() -> None:
    """Catches padding: short sequences that cost as much as the longest."""

    def holds() -> bool:
        long, short = seconds(encoder([2048])), seconds(encoder([64] * 31))
        mixed = seconds(encoder([2048, *[64] * 31]))
        # Padded to the longest, 31 of 64 would take as long as 31 of 2048.
        return mixed < 1.5 * (long + short) and short < 2 * long

    assert any(holds() for _ in range(3))


def test_attention_time_is_linear_in_the_number_of_sequences() -> None:
    """Catches one product over all sequences, masked where they differ."""

    def holds() -> bool:
        few, many = seconds(encoder([256] * 8)), seconds(encoder([256] * 32))
        # One product would take 16 times as long.
        return many < 2 * 4 * few

    assert any(holds() for _ in range(3))


@pytest.mark.slow
def test_encoder_takes_at_most_twice_its_size_in_float32(tmp_path: Path) -> None:
    """Catches weights that are dequantised twice, or kept in several types."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072}
    small = peak(make_model("BertModel", tmp_path / "small"))
    model = make_model("BertModel", tmp_path / "model", num_hidden_layers=8, **sizes)
    in_float32 = sum(p.nbytes for p in AutoModel.from_pretrained(model).parameters())
    # Input and output of the widest layer, before and after quantisation.
    activations = 2 * 8 * 128 * 4 * sum(sizes.values())
    took = peak(model) - small
    print(f"{took / in_float32:.2f} times the model in float32")
    assert took <= 2 * in_float32 + activations


def peak(model: str) -> int:
    """Return the bytes that an FP8 engine and a pass of eight sequences take."""
    llm = {"model": model, "runner": "pooling", "quantization": "fp8"}
    result = run_engine(llm=llm, embed=token_ids([128] * 8))
    assert result["error"] is None
    peak_bytes: int = result["peak_bytes"]
    return peak_bytes
