# SPDX-License-Identifier: Apache-2.0
"""torch.xpu.MemPool with the kernel package's own allocator, as vLLM's sleep mode."""

import pytest
import torch

from vllm_xpu_fp8_plugin import virtual_xpu

virtual_xpu.enable()

xpumem_allocator = pytest.importorskip("vllm_xpu_kernels.xpumem_allocator")


def test_memory_is_given_up_and_taken_back_at_its_address() -> None:
    """Catches a sleeping model that keeps its memory, or wakes up elsewhere.

    And a pool whose tensors come from the device's own memory, or never go back, and
    one that ends with a pool inside of it.
    """
    known: dict[int, tuple[int, int, int]] = {}

    def note(handle: tuple[int, int, int, int]) -> None:
        device, size, address, other = handle
        known[address] = (device, size, other)

    def forget(address: int) -> tuple[int, int, int, int]:
        device, size, other = known.pop(address)
        return device, size, address, other

    xpumem_allocator.init_module(note, forget)
    allocator = torch.xpu.memory.XPUPluggableAllocator(
        xpumem_allocator.__file__, "my_malloc", "my_free"
    )
    pool = torch.xpu.MemPool(allocator._allocator)
    with torch.xpu.memory.use_mem_pool(pool):
        with torch.xpu.memory.use_mem_pool(torch.xpu.MemPool()):
            outside = [torch.ones(2, device="xpu")]
        x = torch.ones(1 << 20, 8, device="xpu")
    outside += [torch.ones(2, device="xpu")]
    assert list(known) == [x.data_ptr()]
    assert not known.keys() & {y.data_ptr() for y in outside}

    # A compiled kernel reads and writes it.
    out = torch.empty(1 << 20, 4, device="xpu")
    torch.ops._C.silu_and_mul(out, x)
    assert out.eq(out[0, 0]).all()
    assert x.sum().item() == 8 << 20

    handle = (0, x.nbytes, x.data_ptr(), 0)
    before = _resident()
    xpumem_allocator.python_unmap_and_release(*handle)
    assert before - _resident() > 0.9 * x.nbytes
    xpumem_allocator.python_create_and_allocate(*handle)
    assert x.add_(2).eq(2).all()

    del x
    assert known == {}


def _resident() -> int:
    """Return the bytes of this process that are in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def test_the_devices_own_allocator_stays() -> None:
    """Catches a request that is taken and has no effect."""
    pool = torch.xpu.MemPool()
    with torch.xpu.memory.use_mem_pool(pool):
        assert torch.ones(2, device="xpu").sum().item() == 2
    allocator = torch.xpu.memory._XPUAllocator(None)
    with pytest.raises(RuntimeError, match=r"torch\.xpu\.MemPool"):
        torch.xpu.memory.change_current_allocator(allocator)
