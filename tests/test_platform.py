# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.platform, with the real vLLM on the software XPU."""

import pytest
import torch
from vllm.platforms import PlatformEnum, current_platform
from vllm.platforms.xpu import XPUPlatform
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import AttentionSelectorConfig

from vllm_xpu_fp8_plugin import attention
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


def test_a_class_registered_by_the_user_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches an explicit choice of the user's that the plugin overrides."""
    monkeypatch.setattr(
        XPUPlatform, "get_attn_backend_cls", classmethod(lambda cls, *a, **k: "my.Own")
    )
    assert XPUFp8Platform.get_attn_backend_cls(None, selector()) == "my.Own"


def test_errors_of_upstream_pass_through() -> None:
    """Catches a refusal of upstream's that the plugin hides."""
    with pytest.raises(ValueError, match="Invalid attention backend"):
        XPUFp8Platform.get_attn_backend_cls(AttentionBackendEnum.FLASHINFER, selector())


def test_backend_path_resolves() -> None:
    """Catches a path that names nothing."""
    found = resolve_obj_by_qualname(BACKEND_PATH)
    assert found is attention.XPUFp8AttentionBackend


def test_platform_is_an_xpu_to_vllm() -> None:
    """Catches a platform whose XPU kernel tables and code paths vLLM would not take."""
    for cls in (XPUFp8Platform, type(current_platform)):
        assert cls._enum is PlatformEnum.XPU
        assert issubclass(cls, XPUFp8Platform)
    assert current_platform.get_device_name() == "Emulated Intel XPU (software)"
