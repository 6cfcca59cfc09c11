# SPDX-License-Identifier: Apache-2.0
"""vLLM's XPU platform, handing out this package's attention backend."""

from typing import TYPE_CHECKING, Any

from vllm.platforms.xpu import XPUPlatform
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from vllm_xpu_fp8_plugin import compat

if TYPE_CHECKING:
    from vllm.config import VllmConfig

BACKEND_PATH = "vllm_xpu_fp8_plugin.attention.XPUFp8AttentionBackend"


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
        path: str = super().get_attn_backend_cls(*args, **kwargs)
        return BACKEND_PATH if path == AttentionBackendEnum.FLASH_ATTN.value else path

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
