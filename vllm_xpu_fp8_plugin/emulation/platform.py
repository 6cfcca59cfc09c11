# SPDX-License-Identifier: Apache-2.0
"""The plugin's platform on CPU tensors."""

# isort: skip_file
import os
from typing import TYPE_CHECKING, Any

from vllm_xpu_fp8_plugin import emulation

# Before vLLM's XPU platform is imported, which imports the kernel modules.
emulation.install()

import psutil
import torch

from vllm_xpu_fp8_plugin.emulation import host
from vllm_xpu_fp8_plugin.emulation.generator import PhiloxState
from vllm_xpu_fp8_plugin.platform import XPUFp8Platform

if TYPE_CHECKING:
    from vllm.config import VllmConfig

# vLLM's own Triton kernels run in Triton's interpreter, on CPU tensors. vLLM takes
# Triton for usable without a GPU driver where the visible devices are empty.
os.environ["TRITON_INTERPRET"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Model runner V2 works on device streams and events, which a CPU has not.
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"


def _get_memory_info(device: Any = None) -> tuple[int, int]:
    """Return (free, total) bytes of the host's memory."""
    memory = psutil.virtual_memory()
    return memory.available, memory.total


# vllm.platforms.xpu has put in a version that asks the XPU.
torch.accelerator.get_memory_info = _get_memory_info

# vLLM looks for a device's generator by the index of the device, of which a CPU has
# none.
_generator = PhiloxState()
torch.xpu.default_generators = {None: _generator}  # type: ignore[assignment]


class EmulatedXPUPlatform(XPUFp8Platform):
    """`XPUFp8Platform` whose device is the CPU.

    ``PlatformEnum.XPU`` stays, so vLLM takes its XPU paths throughout.
    """

    device_type = "cpu"
    dispatch_key = "CPU"
    dist_backend = "gloo"
    # Inductor would take seconds to compile the few functions that vLLM decorates.
    simple_compile_backend = "eager"

    @classmethod
    def import_kernels(cls) -> None:
        """Import nothing: `emulation.install` has put the ops in place."""

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        """Say what it is wherever vLLM shows a device name."""
        return emulation.DEVICE_NAME

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Return the host's memory in bytes."""
        return int(psutil.virtual_memory().total)

    @classmethod
    def device_count(cls) -> int:
        """Return as many devices as the host has cores; each is a process."""
        return max(2, os.cpu_count() or 1)

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        """Return the number of cores."""
        return os.cpu_count() or 1

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        """Do nothing: there is one CPU."""

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        """Seed torch's CPU generator, and the one that samples tokens."""
        torch.manual_seed(seed)
        _generator.manual_seed(seed)

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        """Pinned memory needs an accelerator."""
        return False

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """Return vLLM's CPU communicator, over gloo."""
        return "vllm.distributed.device_communicators.cpu_communicator.CpuCommunicator"

    @classmethod
    def register_triton_kernel_overrides(cls) -> None:
        """Replace the Triton kernel that is slowest in the interpreter."""
        host.use_slot_mapping()

    @classmethod
    def apply_config_platform_defaults(cls, vllm_config: "VllmConfig") -> None:
        """Run eagerly, with the custom ops that an XPU runs with --enforce-eager.

        vLLM asks here, before it derives its custom ops from the compilation mode.
        """
        from vllm.config import CompilationMode, CUDAGraphMode

        super().apply_config_platform_defaults(vllm_config)
        if vllm_config.model_config is not None:
            vllm_config.model_config.enforce_eager = True
        compilation_config = vllm_config.compilation_config
        compilation_config.mode = CompilationMode.NONE
        compilation_config.cudagraph_mode = CUDAGraphMode.NONE
        compilation_config.cudagraph_capture_sizes = []

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Turn off what needs a device, so that the user need not."""
        if vllm_config.parallel_config.worker_cls == "auto":
            vllm_config.parallel_config.worker_cls = (
                "vllm_xpu_fp8_plugin.emulation.worker.EmulatedXPUWorker"
            )
        super().check_and_update_config(vllm_config)
        # It overlaps steps by means of device events.
        vllm_config.scheduler_config.async_scheduling = False
        vllm_config.parallel_config.disable_custom_all_reduce = True
        if vllm_config.parallel_config.distributed_executor_backend == "ray":
            # An XPU counts as a GPU for Ray, which offers none where the visible
            # devices are empty. They were needed for the import of Triton only.
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
