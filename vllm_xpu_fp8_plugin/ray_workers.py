# SPDX-License-Identifier: Apache-2.0
"""The plugin's variables in Ray's workers, before those ask for a platform.

vLLM sets the driver's variables in a worker after that has asked for its platform
(vllm/v1/executor/ray_executor_v2.py, `initialize_worker`). Where Ray was started
without them, which is how a cluster of several hosts is started, the workers would run
without the plugin and not say so.
"""

import os
from typing import TYPE_CHECKING

from vllm_xpu_fp8_plugin import envs

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def pass_on(vllm_config: "VllmConfig") -> None:
    """Have Ray start an engine's workers with the variables of this process.

    Args:
        vllm_config: Its ``parallel_config.ray_runtime_env`` gets them. What the user
            has put there stays. ``VLLM_XPU_FP8_CACHE`` is left out: a path is the
            host's own.

    """
    parallel_config = vllm_config.parallel_config
    if getattr(parallel_config, "distributed_executor_backend", None) != "ray":
        return
    if not hasattr(parallel_config, "ray_runtime_env"):
        return
    runtime_env = dict(parallel_config.ray_runtime_env or {})
    names = [variable.name for variable in envs.ENV_VARS if variable != envs.CACHE]
    # Which plugins vLLM calls is settled at the same time.
    names.append("VLLM_PLUGINS")
    ours = {name: os.environ[name] for name in names if name in os.environ}
    runtime_env["env_vars"] = ours | runtime_env.get("env_vars", {})
    parallel_config.ray_runtime_env = runtime_env
