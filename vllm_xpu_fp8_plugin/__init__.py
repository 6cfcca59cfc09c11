# SPDX-License-Identifier: Apache-2.0
"""FP8 encoder models on Intel GPUs with vLLM, and a virtual XPU to run them anywhere.

vLLM imports this module in every process in order to call `register`, and an
import of ``vllm`` from here can re-enter its plugin loading. So nothing but the
standard library is imported at the top.
"""

import os

__version__ = "0.2.0"


def register() -> str | None:
    """Entry point of the group ``vllm.platform_plugins``.

    vLLM calls it in every process, and twice where it activates, so it is cheap
    and idempotent: `activation.decide` does its work once a process.

    Returns:
        The import path of the platform class for vLLM to use, or None to leave
        vLLM as if this package were not installed.

    Raises:
        SystemExit: ``VLLM_XPU_FP8_PLUGIN`` has a value that is not allowed, or
            asks for the virtual XPU where it cannot run. vLLM swallows every
            `Exception` raised here (vllm/platforms/__init__.py) and would go on
            without the platform that the user asked for.

    """
    if not os.environ.get("VLLM_XPU_FP8_PLUGIN"):
        return None
    from vllm_xpu_fp8_plugin.activation import activate

    return activate()
