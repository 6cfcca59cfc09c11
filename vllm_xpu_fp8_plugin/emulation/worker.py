# SPDX-License-Identifier: Apache-2.0
"""vLLM's worker with the CPU as its device."""

import ctypes
import os
from typing import Any

import psutil
import torch
from vllm.logger import init_logger
from vllm.platforms import current_platform

from vllm_xpu_fp8_plugin import compat
from vllm_xpu_fp8_plugin.emulation import host

try:
    from vllm.utils.mem_utils import format_gib
    from vllm.utils.torch_utils import set_random_seed
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    from vllm.v1.worker.gpu_worker import Worker, init_worker_distributed_environment
    from vllm.v1.worker.worker_base import CompilationTimes
except ImportError as e:
    raise compat.unsupported("The software XPU", e) from e

logger = init_logger("vllm.xpu_fp8_plugin.worker")

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

# Tells vLLM's own setting of OMP_NUM_THREADS from a user's.
_SET_BY_VLLM = "VLLM_OMP_NUM_THREADS_SET_BY_VLLM"

# Filling it takes seconds at start; --kv-cache-memory-bytes takes another amount.
_KV_CACHE_BYTES = 1 << 30


class EmulatedXPUWorker(Worker):  # type: ignore[misc]
    """A worker of the software XPU.

    Runs vLLM's `CPUModelRunner`, which is `GPUModelRunner` on CPU tensors.
    """

    def init_device(self) -> None:
        """Set up the process group and the model runner."""
        self.device = torch.device("cpu")
        _make_accelerator_calls_harmless()
        _keep_freed_memory()
        host.use_unquantized_gemm()
        host.use_pytorch_sampling()
        logger.info_once(
            "Device: %s. It computes what an XPU computes, at a CPU's speed.",
            current_platform.get_device_name(),
        )
        init_worker_distributed_environment(
            self.vllm_config,
            self.rank,
            self.distributed_init_method,
            self.local_rank,
            current_platform.dist_backend,
        )
        set_random_seed(self.model_config.seed)
        self.model_runner = CPUModelRunner(self.vllm_config, self.device)

    def determine_available_memory(self) -> int:
        """Return the bytes to use for the KV cache."""
        if asked := self.cache_config.kv_cache_memory_bytes:
            return int(asked)
        # Room for one sequence of the model's greatest length at the least.
        longest = sum(
            spec.max_memory_usage_bytes(self.vllm_config)
            for spec in self.get_kv_cache_spec().values()
        )
        available = psutil.virtual_memory().available // self.parallel_config.world_size
        size = min(max(_KV_CACHE_BYTES, int(1.1 * longest)), available // 2)
        logger.info("KV cache of the software XPU: %s GiB.", format_gib(size))
        return int(size)

    def compile_or_warm_up_model(self) -> CompilationTimes:
        """Compile nothing: the software XPU runs eagerly."""
        set_random_seed(self.model_config.seed)
        # vLLM goes down to one thread for serving, since a GPU does the work.
        if "OMP_NUM_THREADS" not in os.environ or os.environ.get(_SET_BY_VLLM) == "1":
            cores = len(os.sched_getaffinity(0))
            torch.set_num_threads(max(1, cores // self.parallel_config.world_size))
        return CompilationTimes(language_model=0.0, encoder=0.0)


def _keep_freed_memory() -> None:
    """Have glibc keep large blocks, as a device's caching allocator does.

    It would return each activation to the kernel and fault it in again at the next
    layer, which costs as much as a fifth of a forward pass.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def _make_accelerator_calls_harmless() -> None:
    """Replace what `torch.accelerator` refuses without an accelerator."""

    def nothing(*args: Any, **kwargs: Any) -> int:
        return 0

    for name in (
        "empty_cache",
        "empty_host_cache",
        "max_memory_allocated",
        "reset_peak_memory_stats",
        "synchronize",
    ):
        setattr(torch.accelerator, name, nothing)
