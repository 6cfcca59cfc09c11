# SPDX-License-Identifier: Apache-2.0
"""The device that calls are made on, and the installed ops."""

import importlib
from typing import Any

import torch

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.check.call import operator
from vllm_xpu_fp8_plugin.kernel_package import installed

COMPILED = "compiled"


def ready(name: str) -> torch.device:
    """Return the device, with the kernel package's ops in place.

    Raises:
        ValueError: There is no such device; the message says what to do.

    """
    if envs.PLUGIN.get() == envs.EMULATE:
        from vllm_xpu_fp8_plugin import virtual_xpu

        virtual_xpu.enable()
    device = torch.device(name)
    if device.type == "cpu":
        raise ValueError("--device cpu: the kernel package has ops for an xpu only.")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise ValueError(
            f"torch has no device {name} ({str(e).splitlines()[0]}). On a machine "
            f"without an Intel GPU: {envs.PLUGIN.name}=emulate"
        ) from e
    for library in installed.library_names(installed.package_dir()):
        importlib.import_module(f"vllm_xpu_kernels.{library}")
    return device


def registered() -> list[str]:
    """Return ``namespace::name`` of each op that the installed package registers."""
    schemas = installed.op_schemas(installed.package_dir())
    return sorted(name for name in schemas if operator(name) is not None)


def runs_as() -> dict[str, str]:
    """Return op -> how it runs where it is not the package's compiled code."""
    from vllm_xpu_fp8_plugin import virtual_xpu

    if not virtual_xpu.is_enabled():
        return {}
    from vllm_xpu_fp8_plugin.virtual_xpu import ops

    return {n: op.runs for n, op in ops.table().items() if op.runs != COMPILED}


def described(device: torch.device) -> dict[str, Any]:
    """Return the device's name and the versions that a result depends on."""
    properties = torch.get_device_module(device).get_device_properties(device)
    return {
        "device": str(getattr(properties, "name", device)),
        "kernels": installed.package_version(),
        "torch": torch.__version__,
    }
