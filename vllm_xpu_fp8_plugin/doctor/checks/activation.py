# SPDX-License-Identifier: Apache-2.0
"""Whether the plugin will be active in vLLM's processes."""

import difflib
import importlib.metadata
import os
from typing import Any

from vllm_xpu_fp8_plugin import __version__, envs
from vllm_xpu_fp8_plugin.doctor.report import Check, Status

_PACKAGE, _GROUP = "vllm_xpu_fp8_plugin", "vllm.platform_plugins"
_BUILT_IN = ("tpu", "cuda", "rocm", "xpu", "cpu")


def check(answer: dict[str, Any]) -> list[Check]:
    """Return the checks.

    Args:
        answer: The probe's, with ``platform`` and ``decision``.

    """
    points = list(importlib.metadata.entry_points(group=_GROUP))
    ours = [p for p in points if p.value.partition(":")[0] == _PACKAGE]
    decision, platform = answer.get("decision", {}), answer.get("platform", {})
    checks = [_entry_point(ours), *_others(points, platform), *_misspelt()]
    if ours:
        checks += _allow_list(ours[0].name, decision)
    return [*checks, _decision(decision), _platform(decision, platform)]


def _entry_point(ours: list[importlib.metadata.EntryPoint]) -> Check:
    name = "entry_point"
    if not ours:
        return Check(
            name,
            Status.PROBLEM,
            f"No entry point of {_PACKAGE} in the group {_GROUP}: vLLM does not know "
            "of the plugin",
            "Install the package in vLLM's environment: pip install .",
        )
    copies = {}
    for distribution in importlib.metadata.distributions(name="vllm-xpu-fp8-plugin"):
        path = distribution.locate_file(f"{_PACKAGE}/__init__.py")
        if os.path.exists(str(path)):
            copies[os.path.realpath(str(path))] = distribution.version
    data = {"name": ours[0].name, "copies": copies}
    if len(copies) > 1:
        return Check(
            name,
            Status.WARNING,
            f"{len(copies)} copies are installed; Python takes the first: "
            + ", ".join(copies),
            "Uninstall all but one.",
            data,
        )
    installed = ours[0].dist.version if ours[0].dist else __version__
    if installed != __version__:
        return Check(
            name,
            Status.WARNING,
            f"The entry point is of version {installed}, the code of {__version__}",
            "Install the package again: pip install .",
            data,
        )
    finding = f"Entry point {ours[0].name} found (version {installed})"
    return Check(name, Status.OK, finding, data=data)


def _others(
    points: list[importlib.metadata.EntryPoint], platform: dict[str, Any]
) -> list[Check]:
    """Return checks of other platform plugins and of what they answered."""
    checks = []
    answers = {p["name"]: p for p in platform.get("plugins", [])}
    for point in points:
        if point.value.partition(":")[0] == _PACKAGE:
            continue
        if point.name in _BUILT_IN:
            checks.append(
                Check(
                    "name_clash",
                    Status.WARNING,
                    f"The platform plugin {point.value} has the name {point.name!r} of "
                    "a platform of vLLM's own and hides it",
                    "Uninstall it, or leave it out of VLLM_PLUGINS.",
                )
            )
        error = answers.get(point.name, {}).get("error")
        checks.append(
            Check(
                "other_plugin",
                Status.WARNING if error else Status.NOTE,
                f"Another platform plugin is installed: {point.name} ({point.value})"
                + (f", which fails: {error}" if error else ""),
                "Uninstall it if it is not wanted." if error else "",
                answers.get(point.name),
            )
        )
    active = [p["name"] for p in answers.values() if p.get("class")]
    if len(active) > 1:
        checks.append(
            Check(
                "conflict",
                Status.PROBLEM,
                f"{' and '.join(active)} are active at once: vLLM refuses to start",
                f"Name one of them in VLLM_PLUGINS: VLLM_PLUGINS={active[0]}",
            )
        )
    return checks


def _misspelt() -> list[Check]:
    """Return a check for each variable that looks like ours and is not."""
    known = {var.name for var in envs.ENV_VARS}
    checks = []
    for name in sorted(set(os.environ) - known):
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.85)
        if close or "XPU_FP8" in name.upper():
            meant = close[0] if close else envs.PLUGIN.name
            checks.append(
                Check(
                    "unknown_variable",
                    Status.WARNING if meant in os.environ else Status.PROBLEM,
                    f"{name} is set, and is no variable of this package",
                    f"Did you mean {meant}?",
                )
            )
    return checks


def _allow_list(name: str, decision: dict[str, Any]) -> list[Check]:
    """Return a check if VLLM_PLUGINS leaves the plugin out."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is None or name in allowed.split(","):
        return []
    wanted = decision.get("requested") != envs.OFF
    return [
        Check(
            "vllm_plugins",
            Status.PROBLEM if wanted else Status.NOTE,
            f"VLLM_PLUGINS={allowed} leaves out {name}: vLLM does not load the plugin",
            f"Add it: VLLM_PLUGINS={','.join(filter(None, [allowed, name]))}",
        )
    ]


def _decision(decision: dict[str, Any]) -> Check:
    name, variable = "decision", envs.PLUGIN.name
    if error := decision.get("error"):
        return Check(name, Status.PROBLEM, error, decision.get("remedy") or "")
    if not decision:
        return Check(name, Status.WARNING, "The probe process gave no answer")
    if decision["platform"]:
        reason = decision["reason"]
        return Check(name, Status.OK, f"Active: {reason}", data=decision)
    if decision["requested"] == envs.OFF:
        value = os.environ.get(variable)
        return Check(
            name,
            Status.NOTE,
            f"Inactive: {variable} is {value if value else 'not set'}",
            f"Set {variable}=1, or {variable}=emulate where there is no Intel GPU.",
            decision,
        )
    return Check(
        name,
        Status.PROBLEM,
        f"Inactive although {variable} asks for it: {decision['reason']}",
        decision["remedy"] or "",
        decision,
    )


def _platform(decision: dict[str, Any], platform: dict[str, Any]) -> Check:
    """Return whether vLLM's own choice is what was decided."""
    name = "platform"
    chosen = platform.get("platform")
    if error := platform.get("error") or platform.get("platform_error"):
        missing = "No module named 'vllm'" in error
        return Check(
            name,
            Status.NOTE if missing else Status.PROBLEM,
            "vLLM is not installed here, so there is no platform to ask for"
            if missing
            else f"vLLM cannot resolve a platform: {error}",
            ""
            if missing
            else "Remove what the last line above names, or reinstall it.",
            {"error": error, "traceback": platform.get("platform_traceback")},
        )
    wanted = decision.get("platform")
    if wanted and chosen != wanted:
        plugins: list[dict[str, Any]] = platform.get("plugins", [])
        ours = next((p for p in plugins if _PACKAGE in p["value"]), {})
        because = f": the plugin failed: {ours['error']}" if ours.get("error") else ""
        return Check(
            name,
            Status.PROBLEM,
            f"vLLM resolves {chosen}, and not {wanted}{because}",
            "See the findings above for what keeps the plugin from being used.",
            {"platform": chosen, "traceback": ours.get("traceback")},
        )
    nothing = str(chosen).endswith("UnspecifiedPlatform")
    return Check(
        name,
        Status.NOTE if nothing else Status.OK,
        "vLLM finds no device that it can run on here"
        if nothing
        else f"vLLM resolves {str(chosen).rpartition('.')[2]}",
        data={"platform": chosen, "is_xpu": platform.get("is_xpu")},
    )
