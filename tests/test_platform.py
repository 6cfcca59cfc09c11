# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.platform, with the real vLLM on the virtual XPU."""

import pytest
import torch
from vllm.model_executor.model_loader.reload import meta
from vllm.platforms import PlatformEnum, current_platform
from vllm.platforms.xpu import XPUPlatform
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend
from vllm.v1.attention.backends.registry import (
    AttentionBackendEnum,
    register_backend,
)
from vllm.v1.attention.selector import AttentionSelectorConfig

from vllm_xpu_fp8_plugin import attention, compat, envs, platform, ray_workers
from vllm_xpu_fp8_plugin.check import guard
from vllm_xpu_fp8_plugin.platform import BACKEND_PATH, XPUFp8Platform


def selector(**kwargs: object) -> AttentionSelectorConfig:
    values = {
        "head_size": 64,
        "dtype": torch.bfloat16,
        "kv_cache_dtype": "auto",
        "block_size": 64,
        **kwargs,
    }
    return AttentionSelectorConfig(**values)


@pytest.mark.parametrize(
    ("backend", "config"),
    [
        (None, {}),
        (AttentionBackendEnum.FLASH_ATTN, {}),
        (AttentionBackendEnum.TRITON_ATTN, {}),
        (None, {"kv_cache_dtype": "fp8"}),
        (None, {"kv_cache_dtype": "turboquant_k8v4"}),
        (None, {"dtype": torch.float32}),
        (AttentionBackendEnum.TRITON_MLA, {"use_mla": True}),
        (None, {"use_mla": True, "use_sparse": True}),
        (None, {"use_mm_prefix": True}),
        (None, {"use_batch_invariant": True}),
    ],
)
def test_flash_attn_and_nothing_else_is_replaced(
    backend: AttentionBackendEnum | None, config: dict[str, object]
) -> None:
    """Catches an answer of upstream's that does not pass through untouched."""
    theirs = XPUPlatform.get_attn_backend_cls(backend, selector(**config))
    ours = XPUFp8Platform.get_attn_backend_cls(backend, selector(**config), num_heads=8)
    if theirs == AttentionBackendEnum.FLASH_ATTN.get_path():
        assert ours == BACKEND_PATH
    else:
        assert ours == theirs


@pytest.mark.parametrize(("value", "times"), [(None, 0), ("off", 0), ("warn", 1)])
def test_models_are_checked_where_that_is_asked_for(
    value: str | None, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check that never runs, or that runs unasked."""
    installed: list[None] = []
    monkeypatch.setattr(guard, "install", lambda: installed.append(None))
    monkeypatch.delenv(envs.CHECK.name, raising=False)
    if value:
        monkeypatch.setenv(envs.CHECK.name, value)
    XPUFp8Platform.get_attn_backend_cls(None, selector(), num_heads=8)
    assert len(installed) == times


class Registered(FlashAttentionBackend):
    """A FLASH_ATTN of a user's own."""


class OfANewerVllm(FlashAttentionBackend):
    """A FLASH_ATTN for XPUs that some vLLM could have."""


class ForOtherLayers(FlashAttentionBackend):
    """A subclass with a name of its own, such as vLLM's FLASH_ATTN_DIFFKV."""

    @staticmethod
    def get_name() -> str:
        return "FLASH_ATTN_DIFFKV"


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that the platform's warnings are added to."""
    lines: list[str] = []
    monkeypatch.setattr(platform.logger, "warning", lambda t, *a: lines.append(t % a))
    for function in (platform.is_passed_over, platform._warn_once):
        function.cache_clear()
    return lines


def test_a_class_registered_by_the_user_is_kept(warnings: list[str]) -> None:
    """Catches an explicit choice of the user's that the plugin overrides."""
    flash_attn = AttentionBackendEnum.FLASH_ATTN
    register_backend(flash_attn)(Registered)
    try:
        ours = XPUFp8Platform.get_attn_backend_cls(None, selector())
        assert resolve_obj_by_qualname(ours) is Registered
    finally:
        flash_attn.clear_override()
    assert XPUFp8Platform.get_attn_backend_cls(None, selector()) == BACKEND_PATH
    assert warnings == []


def hands_out(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(
        XPUPlatform, "get_attn_backend_cls", classmethod(lambda cls, *a, **k: path)
    )


def test_a_flash_attn_that_is_not_known_is_named_once(
    warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a plugin that changes nothing while the log says that it is active."""
    path = f"{__name__}.OfANewerVllm"
    hands_out(monkeypatch, path)
    for _ in range(3):
        assert XPUFp8Platform.get_attn_backend_cls(None, selector()) == path
    (line,) = warnings
    assert path in line
    assert "changes nothing" in line
    assert "VLLM_XPU_FP8_PLUGIN=0" in line


@pytest.mark.parametrize(
    "path", [f"{__name__}.ForOtherLayers", f"{__name__}.NoSuchClass", "no.such.module"]
)
def test_what_is_no_flash_attn_is_none(
    path: str, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a warning, or an error, about what was never to be replaced."""
    hands_out(monkeypatch, path)
    assert XPUFp8Platform.get_attn_backend_cls(None, selector()) == path
    assert warnings == []


def test_no_adjustment_raises_where_a_backend_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a probe of vLLM that fails and takes every model down."""

    def fail(*args: object) -> None:
        raise TypeError("one parameter more")

    compat.adjust_loading.cache_clear()
    compat._loses_biases.cache_clear()
    monkeypatch.setattr(meta, "materialize_layer", fail)
    assert XPUFp8Platform.get_attn_backend_cls(None, selector()) == BACKEND_PATH
    compat.adjust_loading.cache_clear()


def test_errors_of_upstream_pass_through() -> None:
    """Catches a refusal of upstream's that the plugin hides."""
    with pytest.raises(ValueError, match="Invalid attention backend"):
        XPUFp8Platform.get_attn_backend_cls(AttentionBackendEnum.FLASHINFER, selector())


def test_backend_path_resolves() -> None:
    """Catches a path that names nothing."""
    found = resolve_obj_by_qualname(BACKEND_PATH)
    assert found is attention.XPUFp8AttentionBackend


def test_a_config_is_adjusted_after_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an adjustment that upstream undoes, or upstream left out."""
    config, calls = object(), []
    monkeypatch.setattr(
        XPUPlatform,
        "check_and_update_config",
        classmethod(lambda cls, given: calls.append((cls, given))),
    )
    monkeypatch.setattr(compat, "adjust_config", lambda given: calls.append(given))
    monkeypatch.setattr(ray_workers, "pass_on", lambda given: calls.append(given))
    XPUFp8Platform.check_and_update_config(config)
    assert calls == [(XPUFp8Platform, config), config, config]


def test_platform_is_an_xpu_to_vllm() -> None:
    """Catches a platform whose XPU kernel tables and code paths vLLM would not take."""
    for cls in (XPUFp8Platform, type(current_platform)):
        assert cls._enum is PlatformEnum.XPU
        assert issubclass(cls, XPUFp8Platform)
    assert current_platform.get_device_name() == "Virtual Intel GPU (software)"
