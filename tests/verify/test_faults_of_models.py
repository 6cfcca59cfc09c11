# SPDX-License-Identifier: Apache-2.0
"""`verify` sees faults of what only one kind of model has, each in its own kind.

Of what transformers says of the same models, see test_more_models.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.model_kinds import KINDS, Checkpoint, flags, plain
from tests.verify.faulty_engine import run_arm
from tests.verify.texts import made_up
from vllm_xpu_fp8_plugin.verify.verdict import judge

pytestmark = [pytest.mark.slow, pytest.mark.models]


class Case(NamedTuple):
    """What is put into a kind of model.

    Attributes:
        faults: By their names in `model_faults`.
        options: More arguments of the candidate's engine.
        make: Another checkpoint than the kind's.
        drifts: Whether the sound model drifts: where two experts are nearly as likely,
            rounding changes which of them a token gets. Then a fault is an alarm.

    """

    faults: tuple[str, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    make: Callable[[Path], Checkpoint] | None = None
    drifts: bool = False


_EXPERTS = "experts, gates of another"
_IGNORED = "router, weights ignored"
_INT4 = ("int4, zero point off by one", "int4, scale of another group")
_FP8_CACHE = {"kv_cache_dtype": "fp8"}

CASES = {
    # A token gets all experts, so that none changes places with another.
    "qwen3-moe-fp8": Case(
        (_EXPERTS, _IGNORED), make=plain("Qwen3MoeForCausalLM", num_experts=2)
    ),
    "mixtral-fp8": Case(
        (_EXPERTS, _IGNORED), make=plain("MixtralForCausalLM", num_local_experts=2)
    ),
    "qwen3-moe-block-fp8": Case((_EXPERTS, "experts, scales of another block")),
    "deepseek-v2-fp8-cache": Case(("latent, written a page on",)),
    "qwen3-next": Case(("state, not reset",), _FP8_CACHE),
    "gptq": Case(_INT4),
    "auto-round": Case(_INT4),
    "auto-round-package": Case(_INT4),
    "gpt-oss-mxfp4": Case(("experts, halves of each byte swapped",)),
    "minicpm-fp8": Case(("MiniCPM, width ignored",)),
    "lora": Case(("LoRA, adapter of another",)),
    "qwen3-embedder": Case(("pooling, the token before",), {"quantization": "fp8"}),
    # A decoder that classifies does not start with FP8 weights.
    "qwen3-classifier": Case(("pooling, the first token",), _FP8_CACHE),
}
# What is renormalised are the weights of some of the experts.
SOME_EXPERTS = Case(("router, not renormalised",), drifts=True)


@pytest.mark.parametrize(
    ("name", "case"),
    [*CASES.items(), ("qwen3-moe-fp8", SOME_EXPERTS)],
    ids=[*CASES, "qwen3-moe-fp8-some"],
)
def test_faults_of_a_kind_are_seen(name: str, case: Case, tmp_path: Path) -> None:
    """Catches a fault that passes, and a sound model that does not."""
    kind = KINDS[name]
    made = (case.make or kind.make)(tmp_path)
    request = {
        "model": made.folder,
        "reference_model": None if made.plain == made.folder else made.plain,
        "flags": flags(kind, **case.options, max_model_len=256),
        "data": made_up(),
        "max_tokens": 8,
        "sweep": [1, 2, 5, 63, 64, 65, 69, 133],
        "adapter": next(iter(made.adapters), None),
    }
    reference = run_arm(request, "reference")[""]
    faults = ("", *case.faults)
    candidates = run_arm(request, "candidate", faults, plan=reference["plan"])
    verdicts = {}
    for fault, candidate in candidates.items():
        report = judge(reference, candidate)
        verdicts[fault] = report["verdict"]
        print(f"{name}, {fault or 'sound'}: {report['verdict']}")
        for check in report["checks"]:
            print("   ", check["name"], check["value"], check["verdict"])
    sound = verdicts.pop("")
    assert sound == "pass" or (case.drifts and sound == "drift")
    seen = {"alarm"} if case.drifts else {"alarm", "drift"}
    assert set(verdicts.values()) <= seen, verdicts
