# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.check.guard; test_model.py has it in an engine."""

from typing import Any

import pytest
import torch

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.check import guard


@pytest.mark.parametrize("value", [envs.WARN, envs.REFUSE])
def test_a_model_that_it_cannot_judge_is_served(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a fault of the guard's own that ends a server's start, or is not said."""
    said: list[str] = []

    def unknown(model: torch.nn.Module) -> Any:
        raise KeyError("weight_scale_2")

    monkeypatch.setenv(envs.CHECK.name, value)
    monkeypatch.setattr(guard, "_layers", unknown)
    monkeypatch.setattr(
        guard.logger, "warning", lambda message, *values: said.append(message % values)
    )
    guard.guard(torch.nn.Identity())
    (line,) = said
    assert "cannot be checked (KeyError: 'weight_scale_2')" in line
    assert torch.get_default_dtype() == torch.float32
