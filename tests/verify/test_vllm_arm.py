# SPDX-License-Identifier: Apache-2.0
"""The engine arguments of an arm; no engine is started."""

from typing import Any

import pytest

from vllm_xpu_fp8_plugin.verify import vllm_arm
from vllm_xpu_fp8_plugin.verify.child import CannotRunError


def arguments(role: str, minilm: str, *flags: str, **more: Any) -> Any:
    request = {
        "role": role,
        "model": minilm,
        "reference_model": None,
        "against": "unquantized",
        "flags": list(flags),
        **more,
    }
    return vllm_arm.arm_arguments(request)


@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_nothing_is_taken_from_a_prefix_cache(role: str, minilm: str) -> None:
    """Catches answers out of a cache that another item has filled."""
    made = arguments(role, minilm, "--quantization", "fp8")
    assert made.enable_prefix_caching is False
    assert made.disable_log_stats is False
    flags = ("--quantization", "fp8", "--enable-prefix-caching")
    assert arguments(role, minilm, *flags).enable_prefix_caching is True


def test_reference_is_the_candidate_without_fp8(minilm: str) -> None:
    """Catches a reference that is FP8 too, or differs in more than that."""
    flags = ("--quantization", "fp8", "--kv-cache-dtype", "fp8", "--max-model-len", "9")
    candidate = arguments("candidate", minilm, *flags)
    reference = arguments("reference", minilm, *flags)
    assert (candidate.quantization, candidate.kv_cache_dtype) == ("fp8", "fp8")
    assert (reference.quantization, reference.kv_cache_dtype) == (None, "auto")
    assert reference.max_model_len == candidate.max_model_len == 9


def test_nothing_to_verify_is_said(minilm: str) -> None:
    """Catches two arms without FP8, which agree."""
    with pytest.raises(CannotRunError, match="--quantization fp8"):
        arguments("candidate", minilm)
