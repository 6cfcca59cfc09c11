# SPDX-License-Identifier: Apache-2.0
"""`verify` sees the faults that FP8 on Intel GPUs has had, each by its alarm.

One engine runs with all the faults that it can have; its sound run passes, so none of
them is seen only because everything fails.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from tests.models import make_model
from tests.real_models import real_model, unpacked
from tests.verify.command import verify
from tests.verify.faulty_engine import run_arm, run_transformers_arm
from tests.verify.texts import rankings
from vllm_xpu_fp8_plugin.verify.inputs import builtin
from vllm_xpu_fp8_plugin.verify.verdict import judge

pytestmark = pytest.mark.slow

# The fault -> the alarm that fits.
DECODER_FAULTS = {
    "k_descale_ignored": "perplexity_ratio",
    "v_descale_twice": "perplexity_ratio",
    "stale_decode": "decode_gap",
}
ENCODER_FAULTS = {
    "channel_scale_as_tensor_scale": "order_kept",
    "one_value_head": "order_kept",
    "zero_head": "all_equal",
    "nan_at_remainder": "non_finite",
}

# Both arms' layers get vLLM's own attention backend in place of the plugin's.
UPSTREAM = """
def register():
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from vllm_xpu_fp8_plugin import platform

    platform.BACKEND_PATH = AttentionBackendEnum.FLASH_ATTN.value
"""


def verdict(
    reference: dict[str, Any], candidate: dict[str, Any]
) -> tuple[str, set[str]]:
    """Return the verdict and the alarms, and print every check."""
    report = judge(reference, candidate)
    for check in report["checks"]:
        print(check["name"], check["value"], check["verdict"])
    return report["verdict"], set(report["alarms"])


def assert_seen(
    reference: dict[str, Any],
    candidates: dict[str, dict[str, Any]],
    faults: dict[str, str],
) -> None:
    assert verdict(reference, candidates[""]) == ("pass", set())
    for fault, alarm in faults.items():
        print(fault)
        said, alarms = verdict(reference, candidates[fault])
        assert said == "alarm", fault
        assert alarm in alarms, fault


def test_faults_of_a_decoder_are_seen() -> None:
    """Catches a wrong scale or a wrong cache that passes, or whose alarm misleads."""
    request = {
        "model": real_model("smollm2"),
        "flags": ["--max-model-len", "140", "--quantization", "fp8"],
        "data": {"rankings": [], "texts": [], "prompts": builtin().prompts[:3]},
        "max_tokens": 6,
        "sweep": [1, 65],
    }
    reference = run_arm(request, "reference")[""]
    request["flags"] += ["--kv-cache-dtype", "fp8"]
    candidates = run_arm(
        request,
        "candidate",
        ("", *DECODER_FAULTS),
        plan=reference["plan"],
        kv_scales=True,
    )
    assert candidates[""]["kv_cache_dtype"] == "fp8"
    counts = candidates[""]["fp8"]
    assert counts["caches"] == counts["caches_fp8"] == 30
    assert counts["layers"] == counts["layers_fp8"] == 120
    assert reference["fp8"]["layers_fp8"] == reference["fp8"]["weights_fp8"] == 0
    assert_seen(reference, candidates, DECODER_FAULTS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a request for a cross-encoder with two heads of size 128."""
    model = make_model(
        "XLMRobertaForSequenceClassification",
        tmp_path_factory.mktemp("models") / "encoder",
        hidden_size=256,
        num_attention_heads=2,
        num_hidden_layers=1,
    )
    file = Path(model) / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    for name, weight in weights.items():
        # One half of the neurons is larger, so that ranks differ in their scales.
        if name.endswith("intermediate.dense.weight"):
            weight[weight.shape[0] // 2 :] *= 8
        # The score is read from the first token, which the others reach by attention.
        if name.endswith("self.value.weight"):
            weight *= 4
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    return {
        "model": model,
        "flags": ["--quantization", "fp8_per_channel"],
        "data": {"rankings": rankings(), "texts": [], "prompts": []},
        "max_tokens": 1,
        "sweep": [1, 2, 5, 63, 64, 65, 69, 133],
    }


@pytest.fixture(scope="module")
def reference(encoder: dict[str, Any]) -> dict[str, Any]:
    return run_arm(encoder, "reference")[""]


def test_faults_of_an_encoder_are_seen(
    encoder: dict[str, Any], reference: dict[str, Any]
) -> None:
    """Catches wrong scales or NaN that pass, or whose alarm misleads."""
    assert reference["plan"]["task"] == "score"
    faults = ("", *ENCODER_FAULTS)
    candidates = run_arm(encoder, "candidate", faults, plan=reference["plan"])
    assert_seen(reference, candidates, ENCODER_FAULTS)


def test_fp8_that_reaches_nothing_is_named(
    encoder: dict[str, Any], reference: dict[str, Any]
) -> None:
    """Catches a pass for an encoder with an FP8 KV cache, of which it has none."""
    flags = ["--kv-cache-dtype", "fp8"]
    request = {**encoder, "flags": flags, "plan": reference["plan"]}
    report = judge(reference, run_arm(request, "candidate")[""])
    assert report["alarms"] == ["identical", "fp8_layers"]
    remark = next(c for c in report["checks"] if c["name"] == "identical")["remark"]
    assert "FP8: 0 of 4 linear layers, 0 of " in remark
    assert "KV cache" not in remark


def test_rank_with_the_scales_of_another_is_seen(
    encoder: dict[str, Any], reference: dict[str, Any]
) -> None:
    """Catches tensor-parallel ranks of which one computes with wrong scales."""
    flags = [*encoder["flags"], "--tensor-parallel-size", "2"]
    request = {**encoder, "flags": flags, "plan": reference["plan"]}
    ranks = run_arm(request, "candidate", ("", "scales_of_rank_0"))
    assert ranks[""]["tensor_parallel_size"] == 2
    assert verdict(reference, ranks[""]) == ("pass", set())
    # Half of each layer goes by scales that are off by some per cent: whether that is
    # drift or an alarm depends on the model's random weights.
    assert verdict(reference, ranks["scales_of_rank_0"])[0] != "pass"


def test_transformers_agrees_with_a_sound_encoder(encoder: dict[str, Any]) -> None:
    """Catches a reference of transformers that itself differs from vLLM."""
    request = {**encoder, "against": "transformers"}
    reference = run_transformers_arm(request)
    assert reference["dtype"] == "float32"
    sound = run_arm(request, "candidate", plan=reference["plan"])[""]
    assert verdict(reference, sound) == ("pass", set())


def test_attention_that_is_never_written_is_seen(
    encoder: dict[str, Any], tmp_path: Path
) -> None:
    """Catches uninitialised attention output, as kernels 0.1.10 - 0.1.13.2 give it.

    The reference is transformers: without FP8 the same kernels are at fault.
    """
    plugin = tmp_path / "plugin"
    metadata = plugin / "upstream-0.dist-info"
    metadata.mkdir(parents=True)
    (plugin / "upstream.py").write_text(UPSTREAM)
    (metadata / "METADATA").write_text("Name: upstream\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nupstream = upstream:register\n"
    )
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rankings())))
    done = verify(
        *("--model", encoder["model"], "--quantization", "fp8_per_channel"),
        *("--data", str(data), "--against", "transformers"),
        *("--output", str(tmp_path / "report")),
        PYTHONPATH=f"{unpacked('vllm-xpu-kernels==0.1.13.2')}:{plugin}",
        VLLM_XPU_FP8_EMULATE_COVERAGE="1",
    )
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    versions = report["arms"]["candidate"]["versions"]
    assert versions["vllm-xpu-kernels"] == "0.1.13.2"
    assert report["arms"]["reference"]["platform"] == "transformers"
    assert {"non_finite", "order_kept"} & set(report["alarms"])
    assert "speed of wrong answers is meaningless" in done.stdout
    assert report["speed"] is None
