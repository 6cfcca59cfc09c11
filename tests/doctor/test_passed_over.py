# SPDX-License-Identifier: Apache-2.0
"""A vLLM whose FLASH_ATTN for XPUs the plugin does not know, as doctor tells it."""

import pytest

from tests.doctor.packages import installed_vllm
from tests.test_platform import OfANewerVllm, XPUPlatform
from vllm_xpu_fp8_plugin import platform
from vllm_xpu_fp8_plugin.doctor import probe
from vllm_xpu_fp8_plugin.doctor.checks import vllm
from vllm_xpu_fp8_plugin.doctor.report import Status

PATH = f"{OfANewerVllm.__module__}.OfANewerVllm"


def test_the_probe_asks_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a question that only a model raises, and one that is never answered."""
    platform.is_passed_over.cache_clear()
    assert probe._backend([])["passed_over"] is None
    monkeypatch.setattr(
        XPUPlatform, "get_attn_backend_cls", classmethod(lambda cls, *a, **k: PATH)
    )
    assert probe._backend([])["passed_over"] == PATH


@pytest.mark.parametrize(
    ("plugin", "status"), [(True, Status.PROBLEM), (False, Status.WARNING)]
)
def test_the_report_says_so(plugin: bool, status: Status) -> None:
    """Catches "active" and no word of a plugin that changes nothing."""
    answers = {"torch": {"version": "2"}, "backend": {"passed_over": PATH}}
    checks = vllm.check(installed_vllm(), answers, plugin=plugin)
    (found,) = [c for c in checks if c.name == "supported"]
    assert found.status is status
    assert PATH in found.finding
    del answers["backend"]
    checks = vllm.check(installed_vllm(), answers, plugin=plugin)
    assert "supported" not in {c.name for c in checks}
