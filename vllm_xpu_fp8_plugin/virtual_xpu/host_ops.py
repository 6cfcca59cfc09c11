# SPDX-License-Identifier: Apache-2.0
"""Ops that ask for the device itself, answered by the virtual one."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin import reference


def get_memory_info(device_index: int) -> tuple[int, int]:
    """Return free and total bytes of a device (csrc/xpu/mem_info.cpp)."""
    # Not torch.accelerator's: vLLM puts this op in its place.
    free, total = torch._C._accelerator_getMemoryInfo(device_index)
    return free, total


def get_xpu_view_from_cpu_tensor(cpu_tensor: Tensor) -> Tensor:
    """Return an XPU tensor over pinned memory, or over a pinned copy of other.

    As csrc/xpu_view.cpp has it.
    """
    device = torch.xpu.current_device()
    if not cpu_tensor.numel():
        return torch.empty_like(cpu_tensor, device=f"xpu:{device}")
    if not cpu_tensor.is_pinned():
        cpu_tensor = cpu_tensor.contiguous().pin_memory()
    view: Tensor = torch.ops.virtual_xpu.device(cpu_tensor, device)
    return view


def xpu_host_register(ptr: int | Tensor, n_bytes: int) -> bool:
    """Make host memory known to the device, which reaches all of it anyway.

    Returns:
        False for no memory, as the driver has it.

    """
    return int(ptr) != 0 and n_bytes > 0


def xpu_host_unregister(ptr: int | Tensor) -> bool:
    """Take back what `xpu_host_register` did: nothing."""
    return int(ptr) != 0


def swap_blocks_batch(src_ptrs: Tensor, dst_ptrs: Tensor, sizes: Tensor) -> None:
    """Copy blocks between addresses, after all work of every device.

    Args:
        src_ptrs: [n], int64 or uint64, addresses of host or device memory, on the CPU.
        dst_ptrs: [n]
        sizes: [n], bytes.

    """
    for index in range(torch.xpu.device_count()):
        torch.xpu.synchronize(index)
    reference.implementations()["_C_cache_ops::swap_blocks_batch"](
        src_ptrs=src_ptrs, dst_ptrs=dst_ptrs, sizes=sizes
    )


def implementations() -> Mapping[str, Callable[..., Any]]:
    """Return the op's name -> its function."""
    return {
        "_C_cache_ops::getMemoryInfo": get_memory_info,
        "_C_cache_ops::swap_blocks_batch": swap_blocks_batch,
        "_C::get_xpu_view_from_cpu_tensor": get_xpu_view_from_cpu_tensor,
        "_C::xpu_host_register": xpu_host_register,
        "_C::xpu_host_unregister": xpu_host_unregister,
    }
