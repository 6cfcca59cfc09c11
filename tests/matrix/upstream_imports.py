# SPDX-License-Identifier: Apache-2.0
"""Whether a vLLM release and a kernel release go together without the plugin.

vLLM's own XPU platform is put in place on a virtual XPU, and what an encoder needs is
imported.
"""

import importlib

MODULES = (
    "vllm._xpu_ops",
    "vllm.v1.attention.backends.flash_attn",
    "vllm.model_executor.layers.quantization.fp8",
    "vllm.model_executor.layers.fused_moe",
    "vllm.model_executor.models.bert",
)


def refusal() -> str | None:
    """Return the error with which upstream refuses the pair, None if it does not."""
    from vllm_xpu_fp8_plugin import virtual_xpu

    virtual_xpu.enable()
    try:
        import vllm.platforms
        from vllm.platforms.xpu import XPUPlatform

        vllm.platforms._current_platform = XPUPlatform()
        for module in MODULES:
            importlib.import_module(module)
    except ImportError as e:
        # Anything else that does not import is a fault of the environment.
        if (e.name or "").partition(".")[0] not in ("vllm", "vllm_xpu_kernels"):
            raise
        # The file that lacks the name; where it lies says nothing.
        message = " ".join(str(e).split()).partition(" (/")[0]
        return f"{type(e).__name__}: {message}"
    return None
