# SPDX-License-Identifier: Apache-2.0
"""Loads the kernel package's own libraries, and says what of them cannot run."""

import ctypes
import importlib
import sys

import torch

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.kernel_package import installed
from vllm_xpu_fp8_plugin.virtual_xpu.errors import VirtualXPUError


def load(names: list[str], sycl: ctypes.CDLL) -> tuple[str, dict[str, str]]:
    """Import them.

    Args:
        names: Modules of the package, as `installed.library_names` has them.
        sycl: ``libc10_xpu.so``, which gets their device images.

    Returns:
        Why they cannot be used, or "", and the same for single ones of them.

    Raises:
        VirtualXPUError: One does not load, though others do.

    """
    unknown = {}
    before, known_before = _kernels(sycl)
    for name in names:
        try:
            importlib.import_module(f"vllm_xpu_kernels.{name}")
        except (ImportError, OSError) as e:
            if len(_loaded(names)):
                raise VirtualXPUError(
                    f"vllm_xpu_kernels.{name} does not load ({e}), while others of the "
                    "package do: the installation is broken. Reinstall it, or set "
                    f"{envs.VIRTUAL_OPS.name}=reference."
                ) from e
            reason = (
                f"vllm-xpu-kernels {installed.package_version()} does not load with "
                f"torch {torch.__version__} ({str(e).splitlines()[0]})"
            )
            return reason, {}
        after, known_after = _kernels(sycl)
        if after > before and known_after == known_before:
            unknown[name] = f"the device code of {name} is of a form that is not known"
        before, known_before = after, known_after
    return "", unknown


def _kernels(sycl: ctypes.CDLL) -> tuple[int, int]:
    """Return how many kernels were loaded, and how many in a form that is known."""
    counts = (ctypes.c_size_t * 2)()
    size = ctypes.sizeof(ctypes.c_size_t)
    sycl.virtual_xpu_kernels(counts, ctypes.byref(counts, size))
    return counts[0], counts[1]


def _loaded(names: list[str]) -> list[str]:
    return [name for name in names if f"vllm_xpu_kernels.{name}" in sys.modules]
