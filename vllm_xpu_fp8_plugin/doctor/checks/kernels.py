# SPDX-License-Identifier: Apache-2.0
"""What the kernel package can do."""

import importlib.metadata
import importlib.util
from typing import Any

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.doctor.report import Check, Status
from vllm_xpu_fp8_plugin.kernel_package import compiled_attention, python_layer
from vllm_xpu_fp8_plugin.kernel_package.files import KernelPackage
from vllm_xpu_fp8_plugin.kernel_package.python_layer import (
    DROPPED,
    FORWARDED,
    REFUSED,
    RETURNS_ONLY,
    PythonLayer,
)

_INSTALL = "pip install --no-deps vllm-xpu-kernels, of the version that vLLM asks for"


def missing(error: str) -> list[Check]:
    """Return the checks where there is no kernel package to look into."""
    if importlib.util.find_spec("intel_extension_for_pytorch"):
        version = importlib.metadata.version("intel_extension_for_pytorch")
        return [
            Check(
                "provider",
                Status.NOTE,
                f"Intel Extension for PyTorch {version}, which drops all descales, for "
                "vLLM up to 0.16; vllm-xpu-kernels is not installed",
                "Update vLLM and install vllm-xpu-kernels.",
                {"provider": "intel-extension-for-pytorch", "version": version},
            )
        ]
    return [
        Check(
            "provider",
            Status.WARNING,
            error,
            f"{_INSTALL}, or name a wheel: --kernels WHEEL",
            {"provider": None},
        )
    ]


def check(
    package: KernelPackage,
    layer: PythonLayer,
    arch: str,
    answers: dict[str, Any] | None,
    virtual: dict[str, dict[str, str]] | None,
) -> list[Check]:
    """Return the checks.

    Args:
        package: What was read from it.
        layer: What its Python layer does.
        arch: The architecture to report on.
        answers: The probes', None if the package is not the installed one.
        virtual: Op -> how it runs on a virtual XPU. None if it was not asked.

    """
    version = package.version or "of unknown version"
    checks = [
        Check(
            "provider",
            Status.OK,
            f"vllm-xpu-kernels {version}"
            + ("" if answers else f", in {package.source.name}"),
            data={
                "provider": "vllm-xpu-kernels",
                "version": package.version,
                "source": str(package.source),
                "linked_to": package.needs,
            },
        )
    ]
    if answers is not None:
        checks.append(_loads(package, answers))
    checks += [_compiled(package, arch), _query_descale(package, layer, arch)]
    if layer.fallback == RETURNS_ONLY:
        checks.append(
            Check(
                "fallback",
                Status.WARNING,
                "Where no kernel is compiled, the fallback's result is lost and vLLM "
                "goes on with uninitialised memory",
                "Take 0.1.14.1 or newer; in encoder attention the plugin keeps it.",
                {"fallback": layer.fallback},
            )
        )
    elif layer.fallback == python_layer.UNKNOWN:
        finding = "What happens where no kernel is compiled could not be read"
        checks.append(Check("fallback", Status.NOTE, finding))
    if virtual:
        checks.append(_virtual(virtual))
    return checks


def _loads(package: KernelPackage, answers: dict[str, Any]) -> Check:
    """Return whether the libraries load, and if not why that is."""
    name = "loads"
    answer = answers.get("kernels", {})
    torch = answers.get("torch", {})
    errors = dict(answer.get("errors", {}))
    if "error" in answer:
        errors["probe"] = answer["error"]
    if not errors:
        libraries = len(answer.get("libraries", []))
        return Check(name, Status.OK, f"Its {libraries} libraries load", data=answer)
    first = next(iter(errors.values()))
    requested = answers.get("decision", {}).get("requested")
    version = torch.get("version")
    lacks = f"torch {version} is no build for Intel GPUs" if version else "no torch"
    data = {**answer, "torch": torch}
    if not torch.get("xpu"):
        status = Status.PROBLEM if requested == envs.ON else Status.NOTE
        return Check(
            name,
            status,
            f"Its libraries do not load: {lacks}",
            "" if requested == envs.EMULATE else "On the GPU's host: vLLM's XPU build.",
            data,
        )
    return Check(
        name,
        Status.PROBLEM,
        f"Its libraries do not load: {first}",
        f"It is linked to {package.needs}: install the version that vLLM's "
        "requirements/xpu.txt names, with its torch."
        if "undefined symbol" in first or "libsycl" in first
        else "Install Intel's GPU driver and runtime (libze_loader, libsycl).",
        data,
    )


def _compiled(package: KernelPackage, arch: str) -> Check:
    """Return which encoder attention is compiled."""
    name = "compiled"
    held = package.compiled.get(arch)
    if held is None or not held.prefill:
        others = [a for a, kernels in package.compiled.items() if kernels.prefill]
        return Check(
            name,
            Status.WARNING,
            f"No names of compiled attention kernels for {arch}"
            + (f"; there are some for {', '.join(others)}" if others else ""),
            "Give --arch the architecture of your GPU." if others else "",
        )
    encoder = sorted(
        (k.head_size, k.local)
        for k in held.prefill
        if not (k.paged or k.causal or k.sink or k.lse)
    )
    sizes = ", ".join(
        f"{size}{' windowed' if local else ''}" for size, local in encoder
    )
    return Check(
        name,
        Status.OK,
        f"{len(held.prefill)} prefill and {len(held.decode)} decode kernels for "
        f"{arch}; encoder attention: head size {sizes or 'none'}",
        data={
            "arch": arch,
            "prefill": [k._asdict() for k in sorted(held.prefill)],
            "decode": [k._asdict() for k in sorted(held.decode)],
            "architectures": [
                a for a in compiled_attention.ARCHITECTURES if a in package.compiled
            ],
        },
    )


def _query_descale(package: KernelPackage, layer: PythonLayer, arch: str) -> Check:
    name = "query_descale"
    takes = package.takes_query_scale.get(arch)
    data = {
        "python_layer": layer.query_descale,
        "op_takes_q_scale": "q_scale" in (package.attention_schema or ""),
        "library_takes_q_scale": takes,
    }
    if layer.query_descale == REFUSED:
        return Check(name, Status.OK, "It refuses a query descale", data=data)
    if layer.query_descale == FORWARDED and takes:
        finding = f"It takes a query descale and hands it to the {arch} kernel"
        return Check(name, Status.OK, finding, data=data)
    if layer.query_descale == DROPPED or (
        layer.query_descale == FORWARDED and not takes
    ):
        return Check(
            name,
            Status.NOTE,
            f"It takes a query descale, and the {arch} kernel computes without it",
            "Do not quantise queries; vLLM on XPU does not.",
            data,
        )
    finding = "What it does with a query descale could not be read from its source"
    return Check(name, Status.NOTE, finding, data=data)


def _virtual(ops: dict[str, dict[str, str]]) -> Check:
    runs: dict[str, list[str]] = {"compiled": [], "reference": [], "missing": []}
    for name, op in sorted(ops.items()):
        runs[op["runs"]].append(name)
    reasons: dict[str, list[str]] = {}
    for name in [*runs["reference"], *runs["missing"]]:
        short_name = name.rpartition("::")[2]
        if name in runs["missing"]:
            short_name += " (missing)"
        reasons.setdefault(ops[name]["reason"], []).append(short_name)
    why = "; ".join(
        f"{', '.join(names)}: {reason}" for reason, names in reasons.items()
    )
    compiled, reference, missing = map(len, runs.values())
    text = (
        f"On a virtual XPU {compiled} of its {len(ops)} ops run as compiled code, "
        f"{reference} in PyTorch, {missing} not at all"
    )
    return Check(
        "virtual_xpu", Status.OK, f"{text}. {why}" if why else text, data=dict(ops)
    )
