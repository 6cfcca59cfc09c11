# SPDX-License-Identifier: Apache-2.0
"""vLLM's XPU platform, handing out this package's attention backend."""

import functools
from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger
from vllm.platforms.xpu import XPUPlatform
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from vllm_xpu_fp8_plugin import compat, descales, envs, ray_workers

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.xpu_fp8_plugin.platform")

BACKEND_PATH = "vllm_xpu_fp8_plugin.attention.XPUFp8AttentionBackend"


@functools.cache
def is_passed_over(path: str) -> bool:
    """Return whether a backend is a FLASH_ATTN that the plugin leaves as it is.

    A class of vLLM's own for XPUs would be one. Another class that the user has
    registered for FLASH_ATTN is a choice, and none.

    Args:
        path: Import path of a backend that vLLM's XPU platform hands out.

    """
    flash_attn = AttentionBackendEnum.FLASH_ATTN
    if path in (flash_attn.value, flash_attn.get_path(), BACKEND_PATH):
        return False
    try:
        return bool(resolve_obj_by_qualname(path).get_name() == flash_attn.name)
    except Exception:  # vLLM fails on it itself, and says why
        return False


@functools.cache
def _warn_once(path: str) -> None:
    logger.warning(
        "The XPU FP8 plugin is active and changes nothing: this vLLM's FLASH_ATTN on "
        "an XPU is %s, which the plugin does not know. Update the plugin, or set "
        "VLLM_XPU_FP8_PLUGIN=0.",
        path,
    )


class XPUFp8Platform(XPUPlatform):  # type: ignore[misc]
    """`XPUPlatform` with `XPUFp8AttentionBackend` in place of FLASH_ATTN.

    ``_enum`` stays ``PlatformEnum.XPU``: vLLM asks ``is_xpu()`` all over, and its
    kernel tables are keyed by it.
    """

    @classmethod
    def get_attn_backend_cls(cls, *args: Any, **kwargs: Any) -> str:
        """Return the import path of the attention backend for a layer.

        The arguments are upstream's (they differ between releases) and go on to
        it unchanged. Only upstream's own FLASH_ATTN is replaced: Triton, MLA,
        TurboQuant and a class that the user registered for FLASH_ATTN are not.
        """
        # Every process that loads a model comes here first.
        compat.adjust_loading()
        descales.install()
        if envs.CHECK.get() != envs.OFF:
            from vllm_xpu_fp8_plugin.check import guard

            guard.install()
        path: str = super().get_attn_backend_cls(*args, **kwargs)
        if path == AttentionBackendEnum.FLASH_ATTN.value:
            return BACKEND_PATH
        if is_passed_over(path):
            _warn_once(path)
        return path

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Adjust the engine's configuration as upstream does, and for the plugin.

        Raises:
            RuntimeError: The installed vLLM lacks what the backend builds on.

        """
        super().check_and_update_config(vllm_config)
        # Here and not at the first layer, so that it fails before any weight loads.
        from vllm_xpu_fp8_plugin import attention  # noqa: F401, checks the installation

        compat.adjust_config(vllm_config)
        ray_workers.pass_on(vllm_config)
