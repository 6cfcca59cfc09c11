# SPDX-License-Identifier: Apache-2.0
"""Asks vLLM and torch what they find, in processes of their own.

A process that only the question is asked in cannot be misled by what this one has
imported, and a crash in a driver takes nothing else with it. Each answer is one JSON
object after `_MARK`; vLLM and drivers print to stdout as they please.
"""

import contextlib
import dataclasses
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vllm_xpu_fp8_plugin import activation, envs, processes
from vllm_xpu_fp8_plugin.kernel_package import installed

_MARK = "vllm-xpu-fp8-probe: "
_TIMEOUT = 180


class Running(NamedTuple):
    """A probe that was started."""

    name: str
    process: subprocess.Popen[str]

    def answer(self) -> dict[str, Any]:
        """Wait for the probe and return its answer: part -> what it found.

        Without an answer the part of the probe's name is ``{"error": …}``.
        """
        try:
            stdout, stderr = self.process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return {self.name: {"error": f"no answer within {_TIMEOUT} s"}}
        for line in reversed(stdout.splitlines()):
            if line.startswith(_MARK):
                answer: dict[str, Any] = json.loads(line[len(_MARK) :])
                return answer
        last = stderr.strip().splitlines()[-1:] or ["no output"]
        error = f"exit status {self.process.returncode}: {last[0][:300]}"
        return {self.name: {"error": error}}

    def stop(self) -> None:
        """End the probe if nobody waited for it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def start(
    name: str, environ: Mapping[str, str] | None = None, argument: object = None
) -> Running:
    """Start a probe: ``platform``, ``kernels`` or ``backend``.

    `argument`, of what JSON has, goes to ``backend``.
    """
    return Running(
        name,
        subprocess.Popen(
            processes.command(__name__, name, json.dumps(argument)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            cwd=processes.folder(),
            env=processes.environment(environ),
        ),
    )


def _platform() -> dict[str, Any]:
    """Return what each platform plugin answers, and what vLLM makes of it."""
    logging.getLogger("vllm").setLevel(logging.ERROR)
    import vllm.envs

    allowed = vllm.envs.VLLM_PLUGINS
    answer: dict[str, Any] = {"plugins": [], "platform": None}
    from importlib.metadata import entry_points

    for point in entry_points(group="vllm.platform_plugins"):
        if allowed is not None and point.name not in allowed:
            continue
        entry = {"name": point.name, "value": point.value, "class": None, "error": None}
        try:
            entry["class"] = point.load()()
        except BaseException as e:  # SystemExit is this plugin's way to stop vLLM
            entry["error"] = _describe(e)
            entry["traceback"] = traceback.format_exc(limit=-4)
        answer["plugins"].append(entry)
    try:
        from vllm.platforms import current_platform

        answer["is_xpu"] = current_platform.is_xpu()
        kind = type(current_platform)
        answer["platform"] = f"{kind.__module__}.{kind.__qualname__}"
    except BaseException as e:
        answer["platform_error"] = _describe(e)
        answer["platform_traceback"] = traceback.format_exc(limit=-4)
    return answer


def _torch() -> dict[str, Any]:
    """Return what torch says about Intel GPUs."""
    import torch

    devices = []
    if torch.xpu.is_available():
        for index in range(torch.xpu.device_count()):
            properties = torch.xpu.get_device_properties(index)
            devices.append(
                {
                    "name": properties.name,
                    "memory": properties.total_memory,
                    "driver": getattr(properties, "driver_version", None),
                }
            )
    return {
        "version": torch.__version__,
        "xpu": torch.version.xpu,
        "cuda": torch.version.cuda,
        "devices": devices,
    }


def _decision() -> dict[str, Any]:
    """Return what the plugin decides here, by the code that `register` runs."""
    try:
        return {**dataclasses.asdict(activation.decide()), "error": None}
    except ValueError as e:
        remedy = f"Set {envs.PLUGIN.name} to one of these."
        return {"error": str(e), "remedy": remedy}


def _kernels() -> dict[str, Any]:
    """Return which of the kernel package's libraries load."""
    import importlib

    import torch  # noqa: F401  # brings the libraries that they are linked to

    from vllm_xpu_fp8_plugin import virtual_xpu

    # Where it cannot be had, the libraries' own errors say more.
    with contextlib.suppress(ValueError, virtual_xpu.VirtualXPUError):
        if envs.PLUGIN.get() == envs.EMULATE:
            virtual_xpu.enable()
    names = installed.library_names(installed.package_dir())
    errors = {}
    for name in names:
        try:
            importlib.import_module(f"vllm_xpu_kernels.{name}")
        except Exception as e:
            errors[name] = _describe(e)
    return {"libraries": names, "errors": errors}


def _backend(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the attention backends that vLLM chooses, without and with the plugin.

    Runs on a virtual XPU, of which the choice is that of an Intel GPU.

    Args:
        layers: For each kind of layers, fields of vLLM's AttentionSelectorConfig.

    """
    from vllm_xpu_fp8_plugin import virtual_xpu

    # Before vLLM's XPU platform is imported, which imports the kernel modules. A host
    # with a GPU has its own.
    with contextlib.suppress(virtual_xpu.VirtualXPUError):
        virtual_xpu.enable()

    import torch
    from vllm.platforms.xpu import XPUPlatform
    from vllm.v1.attention.selector import AttentionSelectorConfig

    from vllm_xpu_fp8_plugin.platform import XPUFp8Platform, is_passed_over

    # Releases differ in it.
    fields = AttentionSelectorConfig._fields

    def selector(**values: Any) -> Any:
        known = {name: value for name, value in values.items() if name in fields}
        return AttentionSelectorConfig(dtype=torch.bfloat16, block_size=None, **known)

    chosen = []
    for values in layers:
        config = selector(**values)
        found: dict[str, str | None] = {"error": None}
        for name, platform in (
            ("upstream", XPUPlatform),
            ("plugin", XPUFp8Platform),
        ):
            try:
                found[name] = platform.get_attn_backend_cls(None, config)
            except Exception as e:
                found |= {name: None, "error": _describe(e)}
        chosen.append(found)
    # Checks that vLLM has what the plugin's backend builds on.
    import vllm_xpu_fp8_plugin.attention  # noqa: F401

    # An encoder's, without a model: what the plugin is there to replace.
    plain = selector(head_size=64, kv_cache_dtype="auto", attn_type="encoder_only")
    path = XPUPlatform.get_attn_backend_cls(None, plain)
    answer: dict[str, Any] = {
        "chosen": chosen,
        "passed_over": path if is_passed_over(path) else None,
    }
    if virtual_xpu.is_enabled():
        from vllm_xpu_fp8_plugin.virtual_xpu import ops

        answer["ops"] = {name: op._asdict() for name, op in ops.table().items()}
    return answer


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]


def _main(name: str, argument: Any) -> None:
    processes.collect_less_often()
    answer: dict[str, Any] = {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "platform": _platform,
        "torch": _torch,
        "decision": _decision,
        "kernels": _kernels,
        "backend": lambda: _backend(argument),
    }
    for part in ("platform", "torch", "decision") if name == "platform" else (name,):
        try:
            answer[part] = parts[part]()
        except BaseException as e:
            answer[part] = {"error": _describe(e)}
    print(f"\n{_MARK}{json.dumps(answer)}")
    processes.end(0)


EMULATE = {envs.PLUGIN.name: envs.EMULATE, "VLLM_PLUGINS": "xpu_fp8"}

if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
