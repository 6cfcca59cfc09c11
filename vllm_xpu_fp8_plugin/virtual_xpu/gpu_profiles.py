# SPDX-License-Identifier: Apache-2.0
"""Which Intel GPU the virtual one says that it is."""

from dataclasses import dataclass

# No more of it than the host has left is there; this bounds what the device says.
_GIB = 1 << 30


@dataclass(frozen=True)
class Profile:
    """What `torch.xpu.get_device_properties` says of a GPU.

    Figures are Intel's (ark.intel.com), sizes in bytes.

    Attributes:
        model: The GPU that it is like.
        execution_units: XVEs.
        memory: Of the device.
        local_memory: A work-group can have.
        device_id: PCI id.
        architecture: SYCL's number for it (sycl_ext_oneapi_device_architecture).
        integrated: Whether it shares the host's memory.

    """

    model: str
    execution_units: int
    memory: int
    device_id: int
    architecture: int
    local_memory: int = 128 << 10
    integrated: bool = False

    @property
    def slices(self) -> tuple[int, int]:
        """Return the number of render slices, and of Xe cores of each."""
        return self.execution_units // 32, 4


PROFILES = {
    "b580": Profile(
        "Intel(R) Arc(TM) B580 Graphics", 160, 12 * _GIB, 0xE20B, 0x0500400400
    ),
    "b60": Profile(
        # Of its 24 GiB, what the driver gives (vllm-xpu-kernels' tests).
        "Intel(R) Arc(TM) Pro B60 Graphics",
        160,
        24385683456,
        0xE211,
        0x0500400400,
    ),
    # Xe3 (Panther Lake), for which the kernel package takes its Xe2 kernels. Its memory
    # is the host's, here half of 32 GiB.
    "b390": Profile(
        "Intel(R) Arc(TM) B390 GPU",
        96,
        16 * _GIB,
        0xB080,
        0x0780000400,
        integrated=True,
    ),
    # Xe3P (Nova Lake P), for which 0.1.16.2 has attention kernels of its own. Only its
    # architecture is published; the other figures are the B390's.
    "nvl_p": Profile(
        "Intel(R) Nova Lake P", 96, 16 * _GIB, 0xB080, 0x08C2800000, integrated=True
    ),
    "a770": Profile(
        "Intel(R) Arc(TM) A770 Graphics", 512, 16 * _GIB, 0x56A0, 0x030DC00800, 64 << 10
    ),
    "max1550": Profile(
        "Intel(R) Data Center GPU Max 1550", 512, 64 * _GIB, 0x0BD5, 0x030F000700
    ),
}
