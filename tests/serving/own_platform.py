# SPDX-License-Identifier: Apache-2.0
"""``vllm`` on vLLM's own XPU platform, without the plugin, on the virtual XPU.

    vllm-xpu-fp8 run -- env VLLM_XPU_FP8_PLUGIN=0 python own_platform.py serve MODEL

vLLM detects the virtual XPU by its own code, and its platform, worker, attention and
API are as installed. One thing is left out, since 0.32 wants torchvision for it: the
warm-up of kernels that other GPUs have. The engine's process, which is spawned, runs
this module's top as well.
"""

import importlib.util
import sys
from typing import Any

from vllm.v1.worker import gpu_worker


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


if importlib.util.find_spec("torchvision") is None:
    gpu_worker.kernel_warmup = _nothing

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main
    from vllm.platforms import current_platform
    from vllm.platforms.xpu import XPUPlatform

    if type(current_platform) is not XPUPlatform:
        sys.exit(f"not vLLM's own XPU platform, but {type(current_platform)}")
    main()
