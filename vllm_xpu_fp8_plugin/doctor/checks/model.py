# SPDX-License-Identifier: Apache-2.0
"""What will run a model on an XPU, and whether the result will be right."""

import shlex

from vllm_xpu_fp8_plugin.doctor import verdicts, vllm_sources
from vllm_xpu_fp8_plugin.doctor.attention_layers import (
    CROSS,
    DECODER,
    ENCODER,
    MEDIA,
    AttentionLayers,
    architecture,
    is_encoder,
)
from vllm_xpu_fp8_plugin.doctor.checks import weights
from vllm_xpu_fp8_plugin.doctor.linear_layers import checkpoint_method
from vllm_xpu_fp8_plugin.doctor.model_setup import Backend, ModelSetup
from vllm_xpu_fp8_plugin.doctor.report import Check, Status
from vllm_xpu_fp8_plugin.kernel_package.left_out import (
    COMPUTES_THEM,
    DIFFKV_FLASH,
    DIFFKV_TRITON,
)

_STATUS = {
    verdicts.COMPILED: Status.OK,
    verdicts.FALLBACK: Status.WARNING,
    verdicts.WRONG: Status.PROBLEM,
    verdicts.REFUSED: Status.PROBLEM,
    verdicts.UNKNOWN: Status.NOTE,
}
_FLASH = "FlashAttentionBackend"
_EXAMINED = (_FLASH, "XPUFp8AttentionBackend", DIFFKV_FLASH)
_NOT_ASKED = Backend(_FLASH, _FLASH, None)
# vLLM's option for the backend of a kind of layers.
_OPTIONS = {MEDIA: "--mm-encoder-attn-backend"}


def check(setup: ModelSetup) -> list[Check]:
    """Return the checks, the last of which carries the command to run."""
    missing = setup.model.missing_shards
    lacks = f"; {len(missing)} files that its index names are missing"
    config = setup.model.config
    name = architecture(config) or str(config.get("model_type", "unknown"))
    kind = "an encoder" if is_encoder(config) else "with a KV cache"
    checks = [
        Check(
            "model",
            Status.WARNING if missing else Status.OK,
            f"{name}, {kind}{lacks if missing else ''}",
            "Download the model again." if missing else "",
            {"architecture": name, "missing": list(missing)},
        )
    ]
    asked = setup.backends or [_NOT_ASKED] * len(setup.layers)
    for layers, backend in zip(setup.layers, asked, strict=True):
        checks.append(_attention(layers, backend, setup))
    checks += [*weights.linear(setup), *weights.kv_cache(setup)]
    checks += _backend(setup)
    return [*checks, _command(setup, checks)]


def _attention(layers: AttentionLayers, backend: Backend, setup: ModelSetup) -> Check:
    """Return the verdict on a kind of layers."""
    without, with_plugin = (
        _judge(layers, path, backend.error, setup, with_plugin=plugin)
        for plugin, path in ((False, backend.upstream), (True, backend.plugin))
    )
    now = with_plugin if setup.plugin else without
    reason = f" ({now.reason})" if now.reason else ""
    return Check(
        "attention",
        _STATUS[now.verdict],
        f"{describe(layers)}: {now.verdict}{reason}",
        now.remedy,
        {
            **layers._asdict(),
            "verdict": now.verdict,
            "without_plugin": without.verdict,
            "with_plugin": with_plugin.verdict,
        },
    )


def _judge(
    layers: AttentionLayers,
    path: str | None,
    error: str | None,
    setup: ModelSetup,
    *,
    with_plugin: bool,
) -> verdicts.Verdict:
    if path is None:
        return verdicts.Verdict(verdicts.REFUSED, error or "no backend takes it")
    name = _name(layers, path, setup)
    if layers.role != MEDIA and name not in _EXAMINED:
        return verdicts.Verdict(verdicts.UNKNOWN, f"{name}, not examined here")
    return verdicts.judge(
        layers,
        setup.kernels,
        setup.python_layer,
        with_plugin=with_plugin,
        triton_takes=vllm_sources.triton_encoder_arguments(setup.vllm),
    )


def _name(layers: AttentionLayers, path: str, setup: ModelSetup) -> str:
    """Return the backend that computes a kind of layers, of which vLLM chose `path`."""
    if layers.head_size_v is None:
        return path.rpartition(".")[2]
    # The model chooses.
    triton = vllm_sources.takes_triton_diffkv(
        setup.vllm, architecture(setup.model.config)
    )
    return DIFFKV_TRITON if triton else DIFFKV_FLASH


def describe(layers: AttentionLayers) -> str:
    """Return a kind of layers in words."""
    heads = f"{layers.num_heads} heads"
    if layers.num_kv_heads != layers.num_heads:
        heads += f" ({layers.num_kv_heads} KV)"
    details = [f"head size {layers.head_size}", heads]
    if layers.head_size_v is not None:
        details.append(f"values of {layers.head_size_v}")
    if layers.window is not None:
        details.append(f"window {layers.window}")
    if layers.softcap:
        details.append(f"softcap {layers.softcap:g}")
    details += ["ALiBi"] * layers.alibi + ["sinks"] * layers.sinks
    plural = "s" if layers.layers > 1 else ""
    return f"{layers.layers} {layers.role} layer{plural}, {', '.join(details)}"


def _backend(setup: ModelSetup) -> list[Check]:
    """Return the backends that vLLM takes, without and with the plugin."""
    chosen = dict.fromkeys(
        _name(kind, (b.plugin if setup.plugin else b.upstream) or "none", setup)
        for kind, b in zip(setup.layers, setup.backends, strict=False)
        if kind.role != MEDIA
    )
    if not chosen:
        return []
    names = " and ".join(chosen)
    state = "on" if setup.plugin else "off"
    return [
        Check(
            "backend",
            Status.OK,
            f"With the plugin {state}, vLLM's backend is {names}",
            data={
                "without_plugin": [b.upstream for b in setup.backends],
                "with_plugin": [b.plugin for b in setup.backends],
            },
        )
    ]


def _command(setup: ModelSetup, checks: list[Check]) -> Check:
    """Return the line that serves the model as well as it can be."""
    config = setup.model.config
    words = ["vllm", "serve", setup.model.name]
    if not checkpoint_method(config):
        refused = weights.unsupported(setup.vllm, setup.quantization)
        words += ["--quantization", "fp8" if refused else setup.quantization or "fp8"]
    if is_encoder(config) or architecture(config).endswith("Classification"):
        words += ["--runner", "pooling"]
    # An encoder's layers have no KV cache, so that there is nothing to choose.
    if setup.kv_cache_dtype and any(k.role in (DECODER, CROSS) for k in setup.layers):
        words += ["--kv-cache-dtype", setup.kv_cache_dtype]
    bad = {verdicts.WRONG, verdicts.REFUSED}
    options = {
        _OPTIONS.get((c.data or {})["role"], "--attention-backend"): COMPUTES_THEM
        for c in checks
        if c.name == "attention"
        and (c.data or {})["with_plugin"] in bad
        and f"-backend {COMPUTES_THEM}" in c.remedy
    }
    for option, backend in options.items():
        words += [option, backend]
    command = shlex.join(words)
    # In a wrong answer's place the plugin has a right one, or refuses.
    changes = any(
        c.name == "attention"
        and (c.data or {})["with_plugin"] != (c.data or {})["without_plugin"]
        for c in checks
    )
    if not checkpoint_method(config):
        changes = changes or vllm_sources.loses_biases()
    if changes or any(kind.role == ENCODER for kind in setup.layers):
        command = f"VLLM_XPU_FP8_PLUGIN=1 {command}"
    return Check("command", Status.OK, command, data={"command": command})
