# SPDX-License-Identifier: Apache-2.0
"""Gives `torch.xpu` what a torch for the CPU was built without.

`torch.xpu` is Python over some thirty functions of `torch._C`. Here they are, over
`torch.accelerator`'s, which every build has; `torch.xpu` itself is torch's own.
"""

import ctypes
import importlib
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from vllm_xpu_fp8_plugin.virtual_xpu import mem_pool
from vllm_xpu_fp8_plugin.virtual_xpu.gpu_profiles import Profile

DEVICE_NAME = "Virtual Intel GPU (software)"
# Private functions of torch that stand behind `torch.accelerator`.
_C: Any = torch._C


@dataclass
class DeviceProperties:
    """What `torch.xpu.get_device_properties` returns; names are torch's."""

    name: str
    platform_name: str
    vendor: str
    device_id: int
    driver_version: str
    version: str
    max_compute_units: int
    gpu_eu_count: int
    gpu_subslice_count: int
    max_work_group_size: int
    max_num_sub_groups: int
    local_mem_size: int
    total_memory: int
    architecture: int
    is_integrated: bool
    sub_group_sizes: list[int] = field(default_factory=lambda: [16, 32])
    type: str = "gpu"
    uuid: str = "00000000-0000-0000-0000-000000000000"
    has_fp16: bool = True
    has_fp64: bool = True
    has_atomic64: bool = True
    has_bfloat16_conversions: bool = True
    has_subgroup_matrix_multiply_accumulate: bool = False
    has_subgroup_matrix_multiply_accumulate_tensor_float32: bool = False
    has_subgroup_2d_block_io: bool = False


class _XpuStreamBase(torch.Stream):
    """Base of `torch.xpu.Stream`."""

    def __new__(
        cls,
        priority: int = 0,
        stream_id: int | None = None,
        device_index: int = 0,
        device_type: int = 0,
        stream_ptr: int = 0,
    ) -> "_XpuStreamBase":
        if stream_id is not None:
            return super().__new__(
                cls,
                stream_id=stream_id,
                device_index=device_index,
                device_type=device_type,
            )
        return super().__new__(
            cls, torch.device("xpu", torch.xpu.current_device()), priority=priority
        )

    @property
    def sycl_queue(self) -> int:
        """Stand for the queue's address, which is made when first needed."""
        return int(self.stream_id)

    @property
    def priority(self) -> int:
        return 0

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return 0, 0


class _XpuEventBase(torch.Event):
    """Base of `torch.xpu.Event`.

    An event is recorded once the work before it is done, so the time of recording is
    what a GPU's clock would have noted.
    """

    _timed: bool
    _recorded: float | None

    def __new__(cls, enable_timing: bool = False, **_: Any) -> "_XpuEventBase":
        made = super().__new__(cls, "xpu", enable_timing=enable_timing)
        made._timed, made._recorded = enable_timing, None
        return made

    @property
    def sycl_event(self) -> int:
        """Stand for the event's address."""
        return id(self)

    def record(self, stream: torch.Stream | None = None) -> None:
        """Wait for the stream's work and note the time."""
        super().record(stream)
        self._recorded = time.perf_counter()

    def elapsed_time(self, end_event: torch.Event) -> float:
        """Return the milliseconds from this event to another."""
        start, end = self._recorded, getattr(end_event, "_recorded", None)
        if not self._timed or not getattr(end_event, "_timed", False):
            raise RuntimeError(
                "Both events must be created with argument 'enable_timing=True'."
            )
        if start is None or end is None:
            raise RuntimeError(
                "Both events must be recorded before calculating elapsed time."
            )
        return float(end - start) * 1e3


def properties(profile: Profile, memory: int) -> DeviceProperties:
    """Return the properties of a device with `memory` bytes that is like a GPU."""
    return DeviceProperties(
        name=DEVICE_NAME,
        platform_name=f"Virtual XPU, after {profile.model}",
        vendor="Intel(R) Corporation",
        device_id=profile.device_id,
        driver_version="0",
        version="0",
        max_compute_units=profile.execution_units,
        gpu_eu_count=profile.execution_units,
        gpu_subslice_count=profile.execution_units // 8,
        max_work_group_size=1024,
        max_num_sub_groups=64,
        local_mem_size=profile.local_memory,
        total_memory=memory,
        architecture=profile.architecture,
        is_integrated=profile.integrated,
    )


def install(device: ctypes.CDLL, props: DeviceProperties, xpu_version: str) -> None:
    """Put the functions in place and load `torch.xpu` anew over them.

    Args:
        device: ``libvirtual_xpu.so``.
        props: Of each device.
        xpu_version: What `torch.version.xpu` says.

    """
    functions = {
        "_has_xpu": True,
        "_XpuDeviceProperties": DeviceProperties,
        "_XpuStreamBase": _XpuStreamBase,
        "_XpuEventBase": _XpuEventBase,
        "_xpu_init": lambda: _set_generators(device),
        "_xpu_isInBadFork": lambda: bool(device.virtual_xpu_forked()),
        "_xpu_getDeviceCount": lambda: int(device.virtual_xpu_count()),
        "_xpu_getDevice": _C._accelerator_getDeviceIndex,
        "_xpu_setDevice": _C._accelerator_setDeviceIndex,
        "_xpu_exchangeDevice": _C._accelerator_exchangeDevice,
        "_xpu_maybeExchangeDevice": _C._accelerator_maybeExchangeDevice,
        "_xpu_canDeviceAccessPeer": lambda device, peer: device == peer,
        "_xpu_getCurrentStream": _current_stream,
        "_xpu_getCurrentRawStream": lambda index: (
            _C._accelerator_getStream(index).stream_id
        ),
        "_xpu_setStream": _set_stream,
        "_xpu_synchronize": _C._accelerator_synchronizeDevice,
        "_xpu_emptyCache": _C._accelerator_emptyCache,
        "_xpu_memoryStats": _C._accelerator_getDeviceStats,
        "_xpu_resetPeakMemoryStats": _C._accelerator_resetPeakStats,
        "_xpu_resetAccumulatedMemoryStats": _C._accelerator_resetAccumulatedStats,
        "_xpu_getMemoryInfo": _C._accelerator_getMemoryInfo,
        "_xpu_getArchFlags": lambda: None,
        **mem_pool.functions(device),
    }
    for name, value in functions.items():
        setattr(_C, name, value)
    torch.version.xpu = xpu_version
    # Where torch has both, programs take CUDA first, and Triton its driver.
    torch.cuda.is_available = lambda: False
    torch.cuda.device_count = lambda: 0
    # They took what was missing for good when torch was imported.
    for module in ("streams", "graphs", "memory", "random", ""):
        importlib.reload(importlib.import_module(f"torch.xpu.{module}".rstrip(".")))
    torch.xpu._get_device_properties = lambda index: props  # type: ignore[attr-defined]


def _set_generators(device: ctypes.CDLL) -> None:
    generators = []
    for index in range(device.virtual_xpu_count()):
        # The next one that torch asks for is the device's own.
        device.virtual_xpu_next_generator_is_default()
        generators.append(torch.Generator(f"xpu:{index}"))
    torch.xpu.default_generators = tuple(generators)  # type: ignore[assignment]


def _current_stream(index: int) -> tuple[int, int, int]:
    stream = _C._accelerator_getStream(index)
    return stream.stream_id, stream.device_index, stream.device_type


def _set_stream(stream_id: int, device_index: int, device_type: int) -> None:
    _C._accelerator_setStream(
        torch.Stream(
            stream_id=stream_id, device_index=device_index, device_type=device_type
        )
    )
