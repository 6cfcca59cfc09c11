# SPDX-License-Identifier: Apache-2.0
"""The worker of the software XPU, where vLLM is not as it should be."""

import importlib
import sys

import pytest


def test_a_vllm_without_the_model_runner_is_named_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a vLLM that the software XPU cannot run, and an error that names none."""
    name = "vllm_xpu_fp8_plugin.emulation.worker"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "vllm.v1.worker.cpu_model_runner", None)
    with pytest.raises(ImportError) as caught:
        importlib.import_module(name)
    for part in ("software XPU", "vLLM 0.", "cpu_model_runner", "Use a vLLM from 0.2"):
        assert part in str(caught.value)
