# SPDX-License-Identifier: Apache-2.0
"""A virtual Intel GPU: torch's ``xpu`` device on a CPU, and the kernels' own code."""

from vllm_xpu_fp8_plugin.virtual_xpu.errors import VirtualXPUError

__all__ = ["VirtualXPUError", "description", "enable", "is_enabled"]


def enable() -> None:
    """Give this process virtual Intel GPUs. Idempotent, before or after torch's import.

    Afterwards `torch.xpu` has devices, and ``vllm_xpu_kernels`` imports with every op
    in place: as its own compiled code, or in PyTorch where that cannot run on a CPU.

    Raises:
        VirtualXPUError: It cannot be had here; the message says why and what to do.

    """
    # First: under `vllm-xpu-fp8 run` it is what enables them, in there.
    import torch  # noqa: F401

    from vllm_xpu_fp8_plugin.virtual_xpu import start

    start.enable()


def is_enabled() -> bool:
    """Return whether `enable` has given this process its devices."""
    from vllm_xpu_fp8_plugin.virtual_xpu import start

    return start.is_enabled()


def description() -> str:
    """Say in a sentence which ops run as compiled code and which in PyTorch."""
    from vllm_xpu_fp8_plugin.virtual_xpu import start

    return start.description()
