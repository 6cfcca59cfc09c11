# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.activation in this process: every decision and its reason.

test_activation.py has the same with the real vLLM in processes of their own.
"""

import io
import logging
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vllm_xpu_fp8_plugin import activation, envs
from vllm_xpu_fp8_plugin.activation import Decision
from vllm_xpu_fp8_plugin.kernel_package import installed

NAME = envs.PLUGIN.name


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    activation.activate.cache_clear()
    yield
    activation.activate.cache_clear()


def host(
    monkeypatch: pytest.MonkeyPatch, *, detects: bool, build: bool, visible: bool
) -> None:
    """Put in vLLM's and torch's answers for a host."""
    platforms: Any = ModuleType("vllm.platforms")
    platforms.xpu_platform_plugin = lambda: "a.Platform" if detects else None
    torch: Any = ModuleType("torch")
    torch.__version__ = "2.99"
    torch.version = SimpleNamespace(xpu="20250302" if build else None)
    torch.xpu = SimpleNamespace(is_available=lambda: visible)
    for module in (platforms, torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    # What vLLM's XPU platform imports on such a host is there.
    xpu = ModuleType("vllm.platforms.xpu")
    monkeypatch.setitem(sys.modules, xpu.__name__, xpu)
    monkeypatch.setenv(NAME, "1")


@pytest.mark.parametrize(
    ("detects", "build", "visible", "platform", "reason", "remedy"),
    [
        (True, True, True, activation.XPU_PLATFORM, f"{NAME}=1 and vLLM detects", None),
        (False, False, False, None, "torch 2.99 is not a build for Intel", "emulate"),
        (False, True, False, None, "no Intel GPU is visible", "ZE_AFFINITY_MASK"),
        # A torch that has no version string for XPUs and sees one.
        (False, False, True, None, "no Intel GPU is visible", "/dev/dri"),
    ],
)
def test_on(
    detects: bool,
    build: bool,
    visible: bool,
    platform: str | None,
    reason: str,
    remedy: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a wrong answer, or one with another's reason or remedy."""
    host(monkeypatch, detects=detects, build=build, visible=visible)
    decision = activation.decide()
    assert decision.requested == envs.ON
    assert decision.platform == platform
    assert decision.active == (platform is not None)
    assert reason in decision.reason
    assert (remedy or "") in (decision.remedy or "")
    assert (decision.remedy is None) == (remedy is None)


def test_on_with_a_platform_that_does_not_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches the crash of a vLLM whose kernel package is not there, or broken."""
    host(monkeypatch, detects=True, build=True, visible=True)
    monkeypatch.setitem(sys.modules, "vllm.platforms.xpu", None)
    decision = activation.decide()
    assert not decision.active
    assert "vllm.platforms.xpu does not import (ModuleNotFoundError" in decision.reason
    assert "requirements/xpu.txt" in (decision.remedy or "")


def test_on_with_a_vllm_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error that vLLM swallows without a word."""
    host(monkeypatch, detects=True, build=True, visible=True)

    def fail() -> None:
        raise OSError("libsycl.so.8")

    monkeypatch.setattr(sys.modules["vllm.platforms"], "xpu_platform_plugin", fail)
    decision = activation.decide()
    assert not decision.active
    assert "could not be asked for an Intel GPU (OSError: libsycl" in decision.reason
    assert "update the plugin" in (decision.remedy or "")


@pytest.mark.parametrize(("value", "setting"), [("", f"{NAME}="), ("0", f"{NAME}=0")])
def test_off_asks_nobody(
    value: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches vLLM being asked where the plugin is off."""
    monkeypatch.setenv(NAME, value)
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)
    assert activation.decide() == Decision(envs.OFF, None, setting)


def test_an_unset_variable_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a plugin that is on by default."""
    monkeypatch.delenv(NAME)
    assert activation.decide() == Decision(envs.OFF, None, f"{NAME}=")


def test_a_decision_is_not_changed_afterwards() -> None:
    """Catches one that `doctor` or vLLM's second call could find altered."""
    decision = Decision(envs.OFF, None, "why")
    with pytest.raises(FrozenInstanceError):
        decision.platform = "a.P"  # type: ignore[misc]


class Lines:
    """The plugin's log lines and stderr, as a user sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stderr = io.StringIO()
        monkeypatch.setattr(sys, "stderr", self.stderr)
        monkeypatch.setattr(activation.logger, "hasHandlers", lambda: False)

    def get(self) -> list[str]:
        return self.stderr.getvalue().splitlines()


@pytest.mark.parametrize(
    ("decision", "level", "text"),
    [
        (Decision(envs.ON, "a.P", "why"), "INFO", "XPU FP8 plugin is active: why."),
        (Decision(envs.OFF, None, "why"), "INFO", "XPU FP8 plugin is inactive: why."),
        (
            Decision(envs.ON, None, "why", "Do this."),
            "WARNING",
            f"XPU FP8 plugin is inactive although {NAME} asks for it: why. Do this.",
        ),
    ],
)
def test_one_line_says_what_was_decided(
    decision: Decision, level: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches silence, a second line, another level or words for another decision."""
    lines = Lines(monkeypatch)
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    monkeypatch.setattr(activation, "decide", lambda: decision)
    for _ in range(2):
        assert activation.activate() == decision.platform
    (line,) = lines.get()
    assert line.startswith(f"{level} ")
    assert line.endswith(f" [xpu_fp8_plugin] {text}")


@pytest.mark.parametrize(
    ("threshold", "shown"),
    [
        ("DEBUG", ["INFO", "WARNING"]),
        ("info", ["INFO", "WARNING"]),
        ("WARNING", ["WARNING"]),
        ("ERROR", []),
        ("nonsense", ["INFO", "WARNING"]),
    ],
)
def test_vllms_level_counts(
    threshold: str, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches lines below vLLM's level, or a level that hides all of them."""
    lines = Lines(monkeypatch)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", threshold)
    for level in (logging.INFO, logging.WARNING):
        activation._log(level, "text")
    assert [line.split()[0] for line in lines.get()] == shown


def test_vllms_handler_is_used_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches lines that are printed past vLLM's own logging."""
    lines = Lines(monkeypatch)
    monkeypatch.setattr(activation.logger, "hasHandlers", lambda: True)
    monkeypatch.setattr(activation.logger, "handlers", [caplog.handler])
    activation.logger.setLevel(logging.INFO)
    activation._log(logging.INFO, "text")
    assert "text" in [r.getMessage() for r in caplog.records]
    assert lines.get() == []


@pytest.mark.parametrize("value", ["yes", "2"])
def test_a_value_that_is_not_allowed_ends_vllm(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a vLLM that goes on without what was asked for."""
    monkeypatch.setenv(NAME, value)
    with pytest.raises(SystemExit, match=f"vllm-xpu-fp8-plugin: {NAME}='{value}'"):
        activation.activate()


def test_emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a virtual XPU without its kernel package, or with none at all."""
    monkeypatch.setenv(NAME, "emulate")
    decision = activation.decide()
    assert decision.requested == envs.EMULATE
    assert decision.platform == activation.EMULATED_PLATFORM
    assert decision.reason.startswith(f"{NAME}=emulate")

    def missing() -> None:
        raise installed.KernelPackageError("pip install it")

    monkeypatch.setattr(installed, "package_dir", missing)
    decision = activation.decide()
    assert decision.requested == envs.EMULATE
    assert not decision.active
    assert decision.reason == "pip install it"
    with pytest.raises(SystemExit, match="vllm-xpu-fp8-plugin: pip install it"):
        activation.activate()
