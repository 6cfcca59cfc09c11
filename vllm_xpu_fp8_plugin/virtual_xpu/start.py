# SPDX-License-Identifier: Apache-2.0
"""Makes the device in this process: all of it, or an error and nothing."""

import ctypes
import logging
from pathlib import Path

import psutil
import torch

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.kernel_package import installed
from vllm_xpu_fp8_plugin.virtual_xpu import (
    build,
    checkout,
    intel,
    ops,
    torch_xpu,
    triton_interpreter,
)
from vllm_xpu_fp8_plugin.virtual_xpu.errors import VirtualXPUError
from vllm_xpu_fp8_plugin.virtual_xpu.gpu_profiles import PROFILES, Profile

logger = logging.getLogger("vllm.xpu_fp8_plugin")

_enabled: list[str] = []


def is_enabled() -> bool:
    """Return whether this process has its devices."""
    return bool(_enabled)


def description() -> str:
    """Return one sentence on what runs how."""
    return _enabled[0] if _enabled else "No virtual XPU in this process"


def enable() -> None:
    """Do what `virtual_xpu.enable` says."""
    if _enabled:
        return
    if torch._C._has_xpu:
        raise VirtualXPUError(
            f"torch {torch.__version__} is a build for Intel GPUs, whose devices are "
            "the real ones. A virtual XPU needs a torch for the CPU or for CUDA: use "
            "another environment, or VLLM_XPU_FP8_PLUGIN=1 for the GPU."
        )
    try:
        devices = envs.VIRTUAL_DEVICES.get()
        profile = PROFILES[envs.VIRTUAL_GPU.get()]
        wanted = envs.VIRTUAL_OPS.get()
        memory = _memory(profile)
        checkout.pass_over()
        schemas = installed.op_schemas(installed.package_dir())
    except (ValueError, installed.KernelPackageError) as e:
        raise VirtualXPUError(str(e)) from e
    if wanted == envs.REFERENCE:
        runtime, reason = None, f"{envs.VIRTUAL_OPS.name}=reference"
    else:
        runtime, reason = intel.find()
    folder = build.libraries(runtime)
    device, sycl = _load(folder, runtime, devices, profile, memory)
    # The kernel package's Python imports Triton, which settles then what it is.
    triton_interpreter.use_interpreter()
    # What can fail comes first, so that a device is there whole or not at all.
    reason = ops.install(schemas, sycl, reason)
    version = runtime.version.replace(".", "") if runtime else "0"
    torch_xpu.install(device, torch_xpu.properties(profile, memory), version)
    _enabled.append(_describe(reason))


def _memory(profile: Profile) -> int:
    """Return the bytes that each device has."""
    asked = envs.VIRTUAL_MEMORY.get()
    size = asked << 30 if asked else profile.memory
    return int(min(size, psutil.virtual_memory().total))


def _load(
    folder: Path,
    runtime: intel.IntelRuntime | None,
    devices: int,
    profile: Profile,
    memory: int,
) -> tuple[ctypes.CDLL, ctypes.CDLL | None]:
    """Return ``libvirtual_xpu.so``, and ``libc10_xpu.so`` where there is a runtime."""
    sycl = None
    try:
        if runtime:
            layer = folder / "libvirtual_xpu_layer.so"
            kernels = build.cache_folder() / "kernels"
            runtime.load(kernels, layer, envs.VIRTUAL_OPS.get() == envs.COMPILED)
        device = ctypes.CDLL(str(folder / "libvirtual_xpu.so"), ctypes.RTLD_GLOBAL)
        if runtime:
            # These are what the kernel package's libraries find by name.
            sycl = ctypes.CDLL(str(folder / "libc10_xpu.so"))
            ctypes.CDLL(str(folder / "libze_loader.so.1"))
            properties = ctypes.CDLL(str(folder / "libtorch_xpu.so"))
    except OSError as e:
        build.forget(folder)
        raise VirtualXPUError(
            f"The virtual XPU's libraries do not load ({e}). They were removed and are "
            "compiled anew at the next start; if that does not help, reinstall "
            "vllm-xpu-fp8-plugin[emulation]."
        ) from e
    device.virtual_xpu_configure(devices, ctypes.c_size_t(memory))
    device.virtual_xpu_instead_of_cuda()
    if not device.virtual_xpu_hooked():
        raise VirtualXPUError(
            "torch has settled in this process that there is no XPU. Call "
            "virtual_xpu.enable() earlier, before torch.accelerator is used."
        )
    if sycl:
        sycl.virtual_xpu_use_sycl()
        sycl.virtual_xpu_set_architecture(
            ctypes.c_uint64(profile.architecture), *profile.slices
        )
        sycl.virtual_xpu_rewrite(envs.VIRTUAL_OPS.get() == envs.COMPILED)
        properties.virtual_xpu_set_properties(
            profile.model.encode(),
            profile.execution_units,
            ctypes.c_size_t(memory),
            ctypes.c_size_t(profile.local_memory),
            1024,
        )
    return device, sycl


def _describe(reason: str) -> str:
    table = ops.table()
    counts = {
        kind: sum(op.runs == kind for op in table.values())
        for kind in (ops.COMPILED, ops.REFERENCE, ops.MISSING)
    }
    text = (
        f"{torch_xpu.DEVICE_NAME}: of {len(table)} ops of vllm-xpu-kernels "
        f"{installed.package_version()}, {counts[ops.COMPILED]} run as compiled code, "
        f"{counts[ops.REFERENCE]} in PyTorch, {counts[ops.MISSING]} not at all"
    )
    return f"{text} ({reason})" if reason else text
