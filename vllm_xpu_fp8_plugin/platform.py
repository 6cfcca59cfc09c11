# SPDX-License-Identifier: Apache-2.0
"""vLLM's XPU platform, handing out this package's attention backend."""

from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger
from vllm.platforms.xpu import XPUPlatform
from vllm.v1.attention.backends.registry import AttentionBackendEnum

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.xpu_fp8_plugin.platform")

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
        from vllm_xpu_fp8_plugin import attention  # checks the installation

        if attention.HAS_CASCADE:
            _disable_cascade_attention(vllm_config)


def _disable_cascade_attention(vllm_config: "VllmConfig") -> None:
    """Switch off cascade attention, which vLLM 0.20 - 0.31 have.

    It hands the XPU kernel the descale of a query that is not quantised, which the
    kernel package refuses. vLLM 0.32 removed cascade attention.
    """
    model_config = vllm_config.model_config
    if model_config is not None and not model_config.disable_cascade_attn:
        model_config.disable_cascade_attn = True
        logger.warning(
            "Cascade attention is switched off: in this vLLM it passes the XPU "
            "kernel a query descale, which the kernel does not take."
        )
