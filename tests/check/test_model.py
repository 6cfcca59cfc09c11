# SPDX-License-Identifier: Apache-2.0
"""Calls that a model makes: recorded with their layers, and guarded at the start."""

import re
from typing import Any

import pytest

from tests.engine import run_engine
from vllm_xpu_fp8_plugin import activation

pytestmark = pytest.mark.slow

# Columns of the weights of MiniLM's intermediate layers, which no others have.
_WIDTH = 1536


def engine(model: str, width: int, **environ: str) -> dict[str, Any]:
    return run_engine(
        llm={"model": model, "runner": "pooling", "quantization": "fp8"},
        width=width,
        env=environ,
        call="tests.check.faulty_engine:run",
    )


def test_faulty_op_is_named_with_its_layers(minilm: str) -> None:
    """Catches calls that are not recorded, and a layer that is not the one."""
    result = engine(minilm, _WIDTH)
    assert result["error"] is None, result["log"][-3000:]
    called = {op for op, _ in result["calls"]}
    # Attention is called inside of an op of vLLM's.
    assert {"_xpu_C::fp8_gemm_w8a16", "_vllm_fa2_C::varlen_fwd"} <= called
    assert result["faults"]
    for op, layers, words in result["faults"]:
        assert op == "_xpu_C::fp8_gemm_w8a16" and "ignores B_scale_" in words
        assert len(layers) == 6
        assert all(layer.endswith("intermediate.dense") for layer in layers)


def test_guard_refuses_and_names_the_layer(minilm: str) -> None:
    """Catches a guard that does not run, or lets a wrong product pass."""
    result = engine(minilm, _WIDTH, VLLM_XPU_FP8_CHECK="refuse")
    assert "encoder.layer.0.intermediate.dense" in result["error"]
    assert "ignores B_scale_" in result["error"]
    assert "vllm-xpu-fp8 check --model" in result["error"]


def test_a_wrong_value_ends_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a value that is taken for off, or a traceback out of the loader."""
    monkeypatch.setenv("VLLM_XPU_FP8_CHECK", "always")
    activation.activate.cache_clear()
    with pytest.raises(SystemExit, match="VLLM_XPU_FP8_CHECK='always' is not an"):
        activation.activate()
    activation.activate.cache_clear()


def test_guard_passes_a_sound_model(minilm: str) -> None:
    """Catches a false alarm, and a guard that says nothing of what it did."""
    result = engine(minilm, 0, VLLM_XPU_FP8_CHECK="refuse")
    assert result["error"] is None and not result["faults"]
    (said,) = result["said"]
    assert re.search("[4-9] products of FP8 layers and 0 KV caches", said)
