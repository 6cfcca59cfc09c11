# SPDX-License-Identifier: Apache-2.0
"""The plugin's platform on a virtual XPU, with what a CPU's speed and memory need."""

import functools
import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vllm_xpu_fp8_plugin import processes, virtual_xpu
from vllm_xpu_fp8_plugin.platform import XPUFp8Platform
from vllm_xpu_fp8_plugin.virtual_xpu import host_speed

if TYPE_CHECKING:
    from vllm.config import VllmConfig

virtual_xpu.enable()
# Before vLLM imports most of itself, its quantisations among it.
processes.collect_less_often()
host_speed.leave_out_cuda_builds()

# vLLM would fill nine tenths of the device's memory at start, which is the host's.
_KV_CACHE_BYTES = 1 << 30
# Tokens of the step that vLLM runs at start, which would have 8192.
_PROFILED_TOKENS = 16


class VirtualXPUPlatform(XPUFp8Platform):
    """`XPUFp8Platform` that runs eagerly and leaves memory to the host.

    Devices, workers, runners and kernels are those of an XPU.
    """

    # Inductor has no compiler for the device.
    simple_compile_backend = "eager"

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
        kernel_config: Any = getattr(vllm_config, "kernel_config", None)
        if hasattr(kernel_config, "enable_jit_warmup"):
            # There is nothing to compile ahead.
            kernel_config.enable_jit_warmup = False

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Adjust the engine's configuration as upstream, and bound the KV cache."""
        super().check_and_update_config(vllm_config)
        host_speed.keep_what_was_imported()
        cache_config = vllm_config.cache_config
        if cache_config is not None and not cache_config.kv_cache_memory_bytes:
            cache_config.kv_cache_memory_bytes = _KV_CACHE_BYTES
        model_config = vllm_config.model_config
        multimodal: Any = getattr(model_config, "multimodal_config", None)
        if hasattr(multimodal, "skip_mm_profiling"):
            # As in _profile_few_tokens: nothing depends on what it would measure.
            multimodal.skip_mm_profiling = True

    @classmethod
    def get_attn_backend_cls(cls, *args: Any, **kwargs: Any) -> str:
        """Return upstream's or the plugin's backend, as the plugin's platform does."""
        # Every process that loads a model comes here first.
        host_speed.keep_what_was_imported()
        host_speed.use_every_core()
        host_speed.use_float32_products()
        _skip_warm_up()
        _profile_few_tokens()
        return super().get_attn_backend_cls(*args, **kwargs)


def _skip_warm_up() -> None:
    """Leave out vLLM's warm-up of kernels where it cannot be imported.

    Since 0.32 it imports a model that wants torchvision, for kernels of other GPUs
    (vllm/model_executor/warmup/kernel_warmup.py).
    """
    if importlib.util.find_spec("torchvision") is not None:
        return
    from vllm.v1.worker import gpu_worker

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    if hasattr(gpu_worker, "kernel_warmup"):
        gpu_worker.kernel_warmup = nothing


@functools.cache
def _profile_few_tokens() -> None:
    """Have vLLM's runners start with a small step in place of the largest one.

    The largest step's memory says how much is left for the KV cache, whose size is
    given here, and it is what vLLM compiles for, which it does not here. What remains
    is that a model that cannot run is found at start.
    """
    for name in ("gpu.model_runner", "gpu_model_runner"):
        # The worker has imported those that it can take.
        if module := sys.modules.get(f"vllm.v1.worker.{name}"):
            runner = module.GPUModelRunner
            runner.profile_run = _with_few_tokens(runner.profile_run)


def _with_few_tokens(profile_run: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(profile_run)
    def run(self: Any, *args: Any, **kwargs: Any) -> None:
        most = self.max_num_tokens
        self.max_num_tokens = min(most, _PROFILED_TOKENS)
        try:
            profile_run(self, *args, **kwargs)
        finally:
            self.max_num_tokens = most

    return run
