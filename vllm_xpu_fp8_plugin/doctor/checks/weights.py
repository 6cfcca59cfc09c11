# SPDX-License-Identifier: Apache-2.0
"""What --quantization and --kv-cache-dtype do to a model on an XPU."""

from pathlib import Path

from vllm_xpu_fp8_plugin.doctor import vllm_sources
from vllm_xpu_fp8_plugin.doctor.attention_layers import CROSS, DECODER, ENCODER
from vllm_xpu_fp8_plugin.doctor.linear_layers import (
    checkpoint_method,
    implies_fp8_kv_cache,
    is_fp8,
    linear_layers,
)
from vllm_xpu_fp8_plugin.doctor.model_setup import ModelSetup
from vllm_xpu_fp8_plugin.doctor.report import Check, Status

_QUANTIZATION = "model_executor/layers/quantization/__init__.py"


def option_error(
    vllm: Path | None, quantization: str | None, kv_cache_dtype: str | None
) -> str | None:
    """Return what is wrong with an option that no vLLM would take, else None.

    Nothing is wrong where vLLM is not installed, or does not say what it takes.
    """
    if vllm is None:
        return None
    for option, value, file, name in (
        ("--quantization", quantization, _QUANTIZATION, "QuantizationMethods"),
        ("--kv-cache-dtype", kv_cache_dtype, "config/cache.py", "CacheDType"),
    ):
        allowed = vllm_sources.strings(vllm / file, name)
        if value is not None and allowed and value not in allowed:
            return f"{option} {value} is none that vLLM has: {', '.join(allowed)}."
    return None


def unsupported(vllm: Path | None, quantization: str | None) -> tuple[str, ...]:
    """Return what vLLM has on XPU in place of a quantization that it has not."""
    if vllm is None or quantization is None:
        return ()
    platform = vllm / "platforms/xpu.py"
    allowed = vllm_sources.strings(platform, "supported_quantization")
    return () if quantization in allowed else allowed


def linear(setup: ModelSetup) -> list[Check]:
    """Return what is quantised."""
    name = "linear"
    stored, asked = checkpoint_method(setup.model.config), setup.quantization
    method = asked or stored
    if allowed := unsupported(setup.vllm, method):
        return [
            Check(
                name,
                Status.PROBLEM,
                f"vLLM on XPU has no quantization {method}",
                f"Use one of {', '.join(allowed)}.",
            )
        ]
    if stored and asked and stored != asked:
        return [
            Check(
                name,
                Status.PROBLEM,
                f"The checkpoint is quantised with {stored}: vLLM refuses {asked}",
                "Leave out --quantization.",
            )
        ]
    if method is None:
        finding = "Neither the checkpoint nor --quantization asks for FP8"
        return [Check(name, Status.NOTE, finding, "Add --quantization fp8.")]
    if not setup.model.tensors:
        finding = "No safetensors header: which weights are quantised is not known"
        return [Check(name, Status.NOTE, finding)]
    in_fp8 = any(map(is_fp8, setup.model.tensors.values()))
    if not (in_fp8 if stored else "fp8" in method):
        finding = f"Quantization {method} stores no weight in FP8: not examined here"
        return [Check(name, Status.NOTE, finding, data={"method": method})]
    score = setup.vllm and vllm_sources.quantises_score_head(setup.vllm)
    found = linear_layers(setup.model, score or False)
    data = {
        "method": method,
        "quantised": list(found.quantised),
        "values": found.values,
        "other_values": found.others,
    }
    checks = [
        Check(
            name,
            Status.OK if found.quantised else Status.WARNING,
            f"{len(found.quantised)} weights ({_millions(found.values)}) in FP8, the "
            f"other {_millions(found.others)} not",
            "" if found.quantised else "Check that --quantization is the right one.",
            data,
        )
    ]
    for finding, remedy in found.doubts:
        checks.append(Check("quantised", Status.WARNING, finding, remedy))
    return checks


def kv_cache(setup: ModelSetup) -> list[Check]:
    """Return what the KV cache's type means."""
    name = "kv_cache"
    implied = implies_fp8_kv_cache(setup.model.config)
    asked = setup.kv_cache_dtype or "auto"
    data = {"kv_cache_dtype": asked, "implied_by_checkpoint": implied}
    roles = {kind.role for kind in setup.layers}
    cached = bool(roles & {DECODER, CROSS})
    if not asked.startswith("fp8") and not (implied and asked == "auto"):
        if not cached:
            return []
        finding = f"--kv-cache-dtype {asked}: keys and values are not stored in FP8"
        return [Check(name, Status.OK, finding, data=data)]
    source = f"--kv-cache-dtype {asked}" if asked != "auto" else "The checkpoint"
    checks = []
    if ENCODER in roles and not setup.plugin and setup.refuses_fp8_kv_cache:
        checks.append(
            Check(
                name,
                Status.PROBLEM,
                f"{source} asks for an fp8 KV cache: encoder attention raises at the "
                "first request (vLLM #55048)",
                "Set VLLM_XPU_FP8_PLUGIN=1, or give --kv-cache-dtype bfloat16.",
                data,
            )
        )
    elif ENCODER in roles:
        finding = f"{source} means nothing to encoder layers: they have no KV cache"
        checks.append(Check(name, Status.OK, finding, data=data))
    if cached:
        checks.append(
            Check(
                name,
                Status.WARNING,
                f"{source} stores keys and values in FP8; wrong tokens, without an "
                "error, have been reported on Intel GPUs",
                "First compare answers with --kv-cache-dtype auto: vllm-xpu-fp8 "
                "verify.",
                data,
            )
        )
    return checks


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M values"
