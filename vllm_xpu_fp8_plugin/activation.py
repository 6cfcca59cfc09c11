# SPDX-License-Identifier: Apache-2.0
"""Shall the plugin run in this process, and why.

`register()` and the command line ask the same question here.
"""

import functools
import importlib
import logging
import os
from dataclasses import dataclass, replace

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.kernel_package import installed

# Only loggers below "vllm" have a handler in vLLM's processes.
logger = logging.getLogger("vllm.xpu_fp8_plugin")

XPU_PLATFORM = "vllm_xpu_fp8_plugin.platform.XPUFp8Platform"
EMULATED_PLATFORM = "vllm_xpu_fp8_plugin.virtual_xpu.platform.VirtualXPUPlatform"


@dataclass(frozen=True)
class Decision:
    """What the plugin does in this process.

    Attributes:
        requested: `envs.OFF`, `envs.ON` or `envs.EMULATE`.
        platform: Import path of the platform class, None if the plugin is inactive.
        reason: The check that decided, in a sentence.
        remedy: What to do where the request could not be met, else None.

    """

    requested: str
    platform: str | None
    reason: str
    remedy: str | None = None

    @property
    def active(self) -> bool:
        """Whether vLLM gets a platform of this package."""
        return self.platform is not None


def decide() -> Decision:
    """Decide from the environment and the installation.

    Raises:
        ValueError: ``VLLM_XPU_FP8_PLUGIN`` has a value that is not allowed.

    """
    requested = envs.PLUGIN.get()
    setting = f"{envs.PLUGIN.name}={os.environ.get(envs.PLUGIN.name, '')}"
    if requested == envs.OFF:
        return Decision(requested, None, setting)
    if requested == envs.EMULATE:
        try:
            installed.package_dir()
        except installed.KernelPackageError as e:
            return Decision(requested, None, str(e))
        return Decision(requested, EMULATED_PLATFORM, f"{setting}, a virtual Intel GPU")
    try:
        failure = _xpu_failure()
    except Exception as e:  # vLLM would swallow it without a word
        failure = (
            f"vLLM could not be asked for an Intel GPU ({type(e).__name__}: {e})",
            "Mend what the error names, or update the plugin for this vLLM.",
        )
    if failure:
        reason, remedy = failure
        return Decision(requested, None, reason, remedy)
    return Decision(requested, XPU_PLATFORM, f"{setting} and vLLM detects an Intel GPU")


def _xpu_failure() -> tuple[str, str] | None:
    """Return why vLLM detects no Intel GPU and what to do, None if it does."""
    from vllm.platforms import xpu_platform_plugin

    if xpu_platform_plugin() is None:
        import torch

        if torch.version.xpu is None and not torch.xpu.is_available():
            return (
                f"torch {torch.__version__} is not a build for Intel GPUs",
                "Install vLLM's XPU build with its torch, or set "
                f"{envs.PLUGIN.name}=emulate to run on the CPU.",
            )
        return (
            "torch.xpu.is_available() is False: no Intel GPU is visible",
            "Check the driver (`sycl-ls`), the rights on /dev/dri and "
            "ZE_AFFINITY_MASK.",
        )
    try:
        importlib.import_module("vllm.platforms.xpu")
    except Exception as e:  # a broken kernel library raises OSError and others
        return (
            f"vllm.platforms.xpu does not import ({type(e).__name__}: {e})",
            "Install the kernel package that this vLLM's requirements/xpu.txt names.",
        )
    return None


@functools.cache
def activate() -> str | None:
    """Decide once a process, say so in one log line, return the platform's path.

    Raises:
        SystemExit: As `register` says.

    """
    envs.register_with_vllm()
    try:
        envs.CHECK.get()  # a wrong value is said before anything loads
        decision = decide()
        if decision.requested == envs.EMULATE:
            if not decision.active:
                raise installed.KernelPackageError(decision.reason)
            decision = replace(decision, reason=_virtual(decision.reason))
    except (ValueError, installed.KernelPackageError) as e:
        raise SystemExit(f"vllm-xpu-fp8-plugin: {e}") from None
    if decision.active:
        _log(logging.INFO, f"XPU FP8 plugin is active: {decision.reason}.")
    elif decision.requested == envs.OFF:
        _log(logging.INFO, f"XPU FP8 plugin is inactive: {decision.reason}.")
    else:
        _log(
            logging.WARNING,
            f"XPU FP8 plugin is inactive although {envs.PLUGIN.name} asks for it: "
            f"{decision.reason}. {decision.remedy}",
        )
    return decision.platform


def _virtual(reason: str) -> str:
    """Make the virtual XPUs of this process and say what they are."""
    from vllm_xpu_fp8_plugin import virtual_xpu

    try:
        virtual_xpu.enable()
    except virtual_xpu.VirtualXPUError as e:
        raise ValueError(e) from e
    return f"{reason}. {virtual_xpu.description()}"


def _log(level: int, message: str) -> None:
    """Log below "vllm", or to stderr where vLLM has not set up its handler yet.

    Since 0.32 vLLM sets it up when the engine starts, after it has asked for the
    platform: an INFO line from here would be lost.
    """
    if logger.hasHandlers():
        logger.log(level, message)
        return
    threshold = logging.getLevelName(
        os.environ.get("VLLM_LOGGING_LEVEL", "INFO").upper()
    )
    # A name that logging does not know comes back as a string; vLLM refuses it.
    if isinstance(threshold, str) or level >= threshold:
        handler = logging.StreamHandler()
        handler.setFormatter(
            logging.Formatter(
                "%(levelname)s %(asctime)s [xpu_fp8_plugin] %(message)s",
                "%m-%d %H:%M:%S",
            )
        )
        handler.handle(
            logging.LogRecord(logger.name, level, __file__, 0, message, None, None)
        )
