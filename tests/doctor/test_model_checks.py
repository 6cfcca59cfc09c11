# SPDX-License-Identifier: Apache-2.0
"""What is said of a model's weights and KV cache, and the line that serves it."""

from typing import Any

import pytest

from tests.doctor.packages import installed_vllm
from vllm_xpu_fp8_plugin.doctor import vllm_sources
from vllm_xpu_fp8_plugin.doctor.attention_layers import attention_layers
from vllm_xpu_fp8_plugin.doctor.checks import model, weights
from vllm_xpu_fp8_plugin.doctor.model_files import ModelFiles, TensorInfo
from vllm_xpu_fp8_plugin.doctor.model_setup import Backend, ModelSetup
from vllm_xpu_fp8_plugin.doctor.report import Check, Status
from vllm_xpu_fp8_plugin.kernel_package import compiled_attention
from vllm_xpu_fp8_plugin.kernel_package.compiled_attention import AttentionKernel
from vllm_xpu_fp8_plugin.kernel_package.python_layer import (
    FORWARDED,
    REFUSED,
    WRITES_OUT,
    PythonLayer,
)

SHAPE = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
ENCODER = SHAPE | {"architectures": ["BertModel"]}
DECODER = SHAPE | {"architectures": ["LlamaForCausalLM"]}
WEIGHT = "model.layers.0.mlp.up_proj.weight"
ALL_64 = frozenset(
    AttentionKernel(64, paged, causal, sink=False, local=False, lse=False)
    for paged in (False, True)
    for causal in (False, True)
)


def setup(config: dict[str, Any], **changes: Any) -> ModelSetup:
    values: dict[str, Any] = {
        "model": ModelFiles("m", config, {WEIGHT: TensorInfo("BF16", (8, 4))}, ()),
        "layers": attention_layers(config),
        "backends": [],
        "quantization": "fp8",
        "kv_cache_dtype": None,
        "kernels": compiled_attention.CompiledSet(ALL_64, frozenset()),
        "python_layer": PythonLayer(REFUSED, WRITES_OUT),
        "plugin": False,
        "vllm": installed_vllm(),
        "refuses_fp8_kv_cache": True,
    }
    return ModelSetup(**values | changes)


def command(config: dict[str, Any], **changes: Any) -> str:
    return model.check(setup(config, **changes))[-1].finding


def test_recommended_lines() -> None:
    """Catches a line that vLLM would refuse, or that asks for what is not needed."""
    assert command(ENCODER, kv_cache_dtype="fp8") == (
        "VLLM_XPU_FP8_PLUGIN=1 vllm serve m --quantization fp8 --runner pooling"
    )
    assert command(DECODER, kv_cache_dtype="fp8") == (
        "vllm serve m --quantization fp8 --kv-cache-dtype fp8"
    )
    stored = DECODER | {"quantization_config": {"quant_method": "fp8"}}
    assert command(stored, quantization=None) == "vllm serve m"
    # vLLM has it, and its XPU platform has not.
    assert "--quantization fp8" in command(DECODER, quantization="torchao")
    softcap = {"attn_logit_softcapping": 50.0}
    assert command(DECODER | softcap).endswith("--attention-backend TRITON_ATTN")
    # It does not compute it in an encoder layer.
    assert "TRITON_ATTN" not in command(ENCODER | softcap)


PANGU = DECODER | {
    "architectures": ["PanguProMoEV2ForCausalLM"],
    **{"qk_nope_dim": 128, "qk_rope_dim": 64, "v_channels": 128},
}
MIMO = DECODER | {
    "architectures": ["MiMoV2FlashForCausalLM"],
    **{"head_dim": 192, "v_head_dim": 128},
}


@pytest.mark.parametrize(
    ("query_descale", "without"), [(REFUSED, "refused"), (FORWARDED, "wrong result")]
)
def test_values_of_another_size_than_keys(query_descale: str, without: str) -> None:
    """Catches a model called sound that the plugin refuses, or that answers wrongly."""
    layer = PythonLayer(query_descale, WRITES_OUT)
    checks = model.check(setup(PANGU, python_layer=layer))
    attention = next(c for c in checks if c.name == "attention")
    assert "head size 192, 2 heads, values of 128" in attention.finding
    assert attention.status is Status.PROBLEM
    assert attention.data
    assert attention.data["without_plugin"] == without
    assert attention.data["with_plugin"] == "refused"
    line = checks[-1].finding
    # In place of wrong answers the plugin has a reason.
    assert line.startswith("VLLM_XPU_FP8_PLUGIN=1") == (without != "refused")
    assert "--attention-backend" not in line


def test_a_model_that_takes_another_backend_for_its_values() -> None:
    """Catches a verdict on FLASH_ATTN for a model that runs by Triton."""
    flash = "vllm.v1.attention.backends.flash_attn.FlashAttentionBackend"
    checks = model.check(setup(MIMO, backends=[Backend(flash, flash, None)]))
    for name in ("attention", "backend"):
        (found,) = [c for c in checks if c.name == name]
        assert "TRITON_ATTN_DIFFKV" in found.finding
    old = model.check(setup(MIMO, vllm=None))
    assert next(c for c in old if c.name == "attention").status is Status.PROBLEM


def test_the_plugin_is_advised_where_vllm_loses_biases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a decoder with biases of uninitialised memory (vLLM 0.20.2)."""
    stored = DECODER | {"quantization_config": {"quant_method": "fp8"}}
    for version, advised in (("0.20.2", True), ("0.21.0", False), (None, False)):
        monkeypatch.setattr(vllm_sources, "version", lambda found=version: found)
        assert ("PLUGIN=1" in command(DECODER)) == advised
        assert "PLUGIN=1" not in command(stored, quantization=None)


def test_a_media_encoder_has_an_option_of_its_own() -> None:
    """Catches advice that leaves the layer that it is about as it was."""
    vision = {"embed_dim": 160, "num_heads": 2, "depth": 3}
    config = DECODER | {"vision_config": vision}
    layer = PythonLayer(REFUSED, "none")
    line = command(config, python_layer=layer)
    assert line.endswith("--mm-encoder-attn-backend TRITON_ATTN")


def statuses(checks: list[Check]) -> list[Status]:
    return [check.status for check in checks]


@pytest.mark.parametrize("source", ["option", "checkpoint"])
def test_an_fp8_kv_cache_and_an_encoder(source: str) -> None:
    """Catches vLLM #55048 that is not foreseen, from either of its causes."""
    scheme = {"kv_cache_scheme": {"type": "float", "num_bits": 8}}
    config, asked = ENCODER, "fp8_e4m3"
    if source == "checkpoint":
        config, asked = ENCODER | {"quantization_config": scheme}, None
    for plugin, refuses, expected in (
        (False, True, Status.PROBLEM),
        (True, True, Status.OK),
        (False, False, Status.OK),
    ):
        found = weights.kv_cache(
            setup(
                config,
                kv_cache_dtype=asked,
                plugin=plugin,
                refuses_fp8_kv_cache=refuses,
            )
        )
        assert statuses(found) == [expected]


def test_an_fp8_kv_cache_and_a_decoder() -> None:
    """Catches a decoder's fp8 KV cache that is passed over or taken for an error."""
    assert statuses(weights.kv_cache(setup(DECODER, kv_cache_dtype="fp8"))) == [
        Status.WARNING
    ]
    assert statuses(weights.kv_cache(setup(DECODER))) == [Status.OK]


@pytest.mark.parametrize(
    ("method", "asked", "dtype", "status"),
    [
        (None, "fp8", "BF16", Status.OK),
        (None, None, "BF16", Status.NOTE),
        (None, "torchao", "BF16", Status.PROBLEM),
        (None, "gptq", "BF16", Status.NOTE),
        ("fp8", None, "F8_E4M3", Status.OK),
        ("fp8", "fp8", "F8_E4M3", Status.OK),
        ("compressed-tensors", "fp8", "F8_E4M3", Status.PROBLEM),
        ("compressed-tensors", None, "F8_E4M3", Status.OK),
        ("compressed-tensors", None, "I8", Status.NOTE),
    ],
)
def test_quantization(
    method: str | None, asked: str | None, dtype: str, status: Status
) -> None:
    """Catches a method that the XPU has not, or one that is not FP8, called sound."""
    config = DECODER | (
        {"quantization_config": {"quant_method": method}} if method else {}
    )
    files = ModelFiles("m", config, {WEIGHT: TensorInfo(dtype, (8, 4))}, ())
    found = weights.linear(setup(config, model=files, quantization=asked))
    assert statuses(found) == [status]


def test_another_backend_gets_no_verdict() -> None:
    """Catches a verdict on FLASH_ATTN's kernels where Triton computes."""
    triton = "vllm.v1.attention.backends.triton_attn.TritonAttentionBackend"
    backends = [Backend(triton, triton, None)]
    checks = model.check(setup(ENCODER, backends=backends, kernels=None))
    attention = next(c for c in checks if c.name == "attention")
    assert attention.status is Status.NOTE
    assert "TritonAttentionBackend" in attention.finding
    refused = [Backend(None, None, "ValueError: no backend")]
    checks = model.check(setup(ENCODER, backends=refused))
    attention = next(c for c in checks if c.name == "attention")
    assert attention.status is Status.PROBLEM
    assert "no backend" in attention.finding
