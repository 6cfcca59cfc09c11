# SPDX-License-Identifier: Apache-2.0
"""Runs all of doctor's checks."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.doctor import descale_paths, model_files, probe, vllm_sources
from vllm_xpu_fp8_plugin.doctor.attention_layers import (
    CROSS,
    DECODER,
    AttentionLayers,
    attention_layers,
    uses_mla,
)
from vllm_xpu_fp8_plugin.doctor.checks import activation, hardware, model, vllm, weights
from vllm_xpu_fp8_plugin.doctor.checks import kernels as kernel_checks
from vllm_xpu_fp8_plugin.doctor.model_setup import Backend, ModelSetup
from vllm_xpu_fp8_plugin.doctor.report import Check, Report, Section, Status
from vllm_xpu_fp8_plugin.kernel_package import installed, python_layer
from vllm_xpu_fp8_plugin.kernel_package.files import KernelPackage, read_package


class Request(NamedTuple):
    """The command's options.

    Attributes:
        model: A folder or a name on a hub, None to look at the installation only.
        quantization: As for ``vllm serve``.
        kv_cache_dtype: Likewise.
        kernels: A wheel or folder to look at in place of the installed package.
        arch: Whose attention kernels the GPU takes: "xe2" (also Xe3, such as Panther
            Lake) or "xe3" (Xe3P).

    """

    model: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    kernels: Path | None = None
    arch: str = "xe2"


def run_checks(request: Request) -> Report:
    """Return the report.

    Raises:
        ValueError: An option has a value that vLLM does not take, or the model
            cannot be read (`model_files.ModelError`).
        installed.KernelPackageError: `request.kernels` cannot be read.

    """
    folder = vllm_sources.folder()
    if error := weights.option_error(
        folder, request.quantization, request.kv_cache_dtype
    ):
        raise ValueError(error)
    files = model_files.read_model(request.model) if request.model else None
    layers, unread = _layers(files) if files else ([], [])
    running = _start(folder, layers, request.kv_cache_dtype)
    try:
        package, missing = _package(request.kernels)
        answers: dict[str, Any] = {}
        for process in running:
            answers |= process.answer()
    finally:
        for process in running:
            process.stop()
    backend = answers.get("backend", {})
    layer = python_layer.examine(package.interface if package else "")
    plugin = _asked_for()
    sections = [
        Section("Activation", activation.check(answers)),
        Section(
            "vLLM",
            vllm.check(
                folder, answers, plugin=plugin, elsewhere=request.kernels is not None
            ),
        ),
        Section(
            "Kernels",
            kernel_checks.missing(missing)
            if package is None
            else kernel_checks.check(
                package,
                layer,
                request.arch,
                None if request.kernels else answers,
                None if request.kernels else backend.get("ops"),
            ),
        ),
    ]
    if files:
        setup = ModelSetup(
            files,
            layers,
            [Backend(**chosen) for chosen in backend.get("chosen", [])],
            request.quantization,
            request.kv_cache_dtype,
            package.compiled.get(request.arch) if package else None,
            layer,
            plugin,
            folder,
            _refuses_fp8_kv_cache(folder),
        )
        sections.append(Section("Model", [*unread, *model.check(setup)]))
    hardware_checks = hardware.check(answers.get("torch", {}))
    return Report([*sections, Section("Hardware", hardware_checks)])


def _layers(
    files: model_files.ModelFiles,
) -> tuple[list[AttentionLayers], list[Check]]:
    """Return the model's attention layers, or a check that says why not."""
    name = "layers"
    if uses_mla(files.config):
        finding = "Multi-head latent attention: other backends, not examined here"
        return [], [Check(name, Status.NOTE, finding)]
    try:
        return attention_layers(files.config), []
    except model_files.ModelError as e:
        finding = f"The attention layers could not be read: {e}"
        return [], [Check(name, Status.WARNING, finding)]


def _start(
    vllm_folder: Path | None, layers: list[AttentionLayers], kv_cache_dtype: str | None
) -> list[probe.Running]:
    """Start the probes that the installation can answer."""
    running = [probe.start("platform")]
    with contextlib.suppress(installed.KernelPackageError):
        installed.package_dir()
        running.append(probe.start("kernels"))
        if vllm_folder:
            asked = [_selector_fields(kind, kv_cache_dtype) for kind in layers]
            running.append(probe.start("backend", probe.EMULATE, asked))
    return running


def _selector_fields(
    layers: AttentionLayers, kv_cache_dtype: str | None
) -> dict[str, Any]:
    """Return what vLLM chooses a backend by."""
    attn_types = {DECODER: "decoder", CROSS: "encoder_decoder"}
    return {
        "head_size": layers.head_size,
        "kv_cache_dtype": kv_cache_dtype or "auto",
        "attn_type": attn_types.get(layers.role, "encoder_only"),
        "has_sink": layers.sinks,
        "has_sliding_window": layers.window is not None,
    }


def _package(given: Path | None) -> tuple[KernelPackage | None, str]:
    """Return the kernel package to look at, or why there is none."""
    if given:
        return read_package(given), ""
    try:
        return read_package(installed.package_dir()), ""
    except installed.KernelPackageError as e:
        return None, str(e)


def _asked_for() -> bool:
    """Return whether the plugin is asked for; whether it can run here is no matter.

    The machine that the model is for may be another one.
    """
    try:
        return envs.PLUGIN.get() != envs.OFF
    except ValueError:
        return False


def _refuses_fp8_kv_cache(vllm_folder: Path | None) -> bool:
    """Return what vLLM's encoder attention does, the worse where it is not known."""
    if vllm_folder is None:
        return True
    try:
        return descale_paths.inspect(vllm_folder).refuses_fp8_kv_cache is not False
    except ValueError:
        return True
