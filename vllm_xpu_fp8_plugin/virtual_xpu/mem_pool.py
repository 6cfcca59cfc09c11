# SPDX-License-Identifier: Apache-2.0
"""What `torch.xpu.MemPool` and `XPUPluggableAllocator` are made of.

vLLM's sleep mode on XPUs (vllm/device_allocator/xpumem.py) keeps weights and caches in
such a pool, with the allocator of vllm_xpu_kernels.xpumem_allocator.
"""

import ctypes
import itertools
import weakref
from typing import Any


class PluggableAllocator:
    """Addresses of ``void* (size, device, queue)`` and of its counterpart."""

    def __init__(self, allocate: int, free: int) -> None:
        self.allocate, self.free = allocate, free


_ids = itertools.count(1)
_pools: "weakref.WeakValueDictionary[tuple[int, int], MemPoolBase]" = (
    weakref.WeakValueDictionary()
)


class MemPoolBase:
    """Base of `torch.xpu.MemPool`; without an allocator it is the device's memory."""

    def __init__(
        self,
        allocator: PluggableAllocator | None = None,
        is_user_created: bool = True,
        use_on_oom: bool = False,
    ) -> None:
        self._allocator = allocator
        self._id = (0, next(_ids))
        _pools[self._id] = self

    @property
    def id(self) -> tuple[int, int]:
        """Number of the pool, as torch has it."""
        return self._id

    @property
    def allocator(self) -> PluggableAllocator | None:
        """Where its memory comes from."""
        return self._allocator

    def use_count(self) -> int:
        """Return 1: nothing of it is kept beside it."""
        return 1


def _refuse(*args: Any) -> None:
    raise RuntimeError(
        "The virtual XPU's allocator cannot be changed, since it is in use already. "
        "Use torch.xpu.MemPool with your allocator."
    )


def functions(device: ctypes.CDLL) -> dict[str, Any]:
    """Return what belongs into `torch._C`, name -> value.

    Args:
        device: ``libvirtual_xpu.so``.

    """
    device.virtual_xpu_begin_mem_pool.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )

    def begin(index: int, pool_id: tuple[int, int]) -> None:
        own = _pools[pool_id].allocator
        functions = (own.allocate, own.free) if own else (None, None)
        device.virtual_xpu_begin_mem_pool(index, *functions)

    def end(index: int, pool_id: tuple[int, int]) -> None:
        device.virtual_xpu_end_mem_pool(index)

    return {
        "_xpu_XPUAllocator": PluggableAllocator,
        "_XPUMemPool": MemPoolBase,
        "_xpu_customAllocator": PluggableAllocator,
        "_xpu_beginAllocateCurrentThreadToPool": begin,
        "_xpu_endAllocateToPool": end,
        "_xpu_releasePool": lambda index, pool_id: None,
        "_xpu_changeCurrentAllocator": _refuse,
        "_xpu_getAllocator": _refuse,
    }
