# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.loading."""

import pytest
import torch
from vllm.model_executor.model_loader import base_loader

from vllm_xpu_fp8_plugin.loading import after_loading

PROCESS = "process_weights_after_loading"


def test_each_check_sees_a_loaded_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check that another one hides, and one that runs twice."""
    seen: list[str] = []
    monkeypatch.setattr(base_loader, PROCESS, lambda model, *_: seen.append("loaded"))

    def first(model: torch.nn.Module) -> None:
        seen.append("first")

    def second(model: torch.nn.Module) -> None:
        seen.append("second")

    for check in (first, second, first, second):
        after_loading(check)
    getattr(base_loader, PROCESS)(torch.nn.Identity(), None, None)
    assert seen == ["loaded", "first", "second"]


def test_a_loader_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a guard that is silently never called."""
    monkeypatch.delattr(base_loader, PROCESS)
    with pytest.raises(NotImplementedError, match="loads models in another way"):
        after_loading(lambda model: None)
