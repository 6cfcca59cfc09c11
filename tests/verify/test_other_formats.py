# SPDX-License-Identifier: Apache-2.0
"""`verify` counts the layers of real checkpoints that are quantised, not to FP8."""

from pathlib import Path

import pytest

from tests.models import make_model
from tests.packed_models import pack
from tests.verify.faulty_engine import run_arm
from tests.verify.texts import made_up
from vllm_xpu_fp8_plugin.verify.verdict import judge

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("architecture", "kind", "dtype", "quantised"),
    [
        # Four linear layers a block.
        ("LlamaForCausalLM", "gptq", "float16", (12, 12)),
        # Of a block of two linear layers and a router, the experts.
        ("GptOssForCausalLM", "mxfp4", "bfloat16", (2, 8)),
    ],
)
def test_layers_of_four_bits_count_as_quantised(
    architecture: str,
    kind: str,
    dtype: str,
    quantised: tuple[int, int],
    tmp_path: Path,
) -> None:
    """Catches sound int4 and MXFP4 of which `verify` says that nothing was tested."""
    source = make_model(architecture, tmp_path / "model")
    packed, plain = pack(source, tmp_path, kind)
    request = {
        "model": packed,
        "reference_model": plain,
        "flags": ["--dtype", dtype, "--max-model-len", "128"],
        "data": {**made_up(), "prompts": ["w7 w8"]},
        "max_tokens": 1,
        "sweep": [1],
    }
    candidate = run_arm(request, "candidate")[""]
    counts = candidate["fp8"]
    assert (counts["layers_other"], counts["layers"]) == quantised
    assert counts["layers_fp8"] == counts["weights_fp8"] == counts["caches_fp8"] == 0
    # As against the values that the codes stand for.
    assert judge(candidate, candidate)["alarms"] == []
