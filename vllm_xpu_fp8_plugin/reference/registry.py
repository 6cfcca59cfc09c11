# SPDX-License-Identifier: Apache-2.0
"""Which function implements which op of the kernel package."""

import functools
import importlib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

_SUBJECTS = (
    "act_quant",
    "activations",
    "attention",
    "cache",
    "cache_copy",
    "causal_conv1d",
    "fp4_gemm",
    "fp8_gemm",
    "fp8_quant",
    "gated_delta_rule",
    "gdn_attention",
    "grouped_gemm",
    "hc_head",
    "int4_gemm",
    "merge",
    "mhc",
    "mla_cache",
    "mqa_logits",
    "mrope",
    "norm_quant",
    "norms",
    "qk_norm",
    "rotary",
    "sampling",
)
_implementations: dict[str, Callable[..., Any]] = {}


def op(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the implementation of the op ``namespace::name``.

    Its parameters are arguments of the op's schema, by name; it need not take all
    of them. It gets CPU tensors, writes in place what the op writes in place, and
    returns what the op returns.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _implementations[name] = function
        return function

    return register


@functools.cache
def implementations() -> MappingProxyType[str, Callable[..., Any]]:
    """Return ``namespace::name`` of each op that is implemented -> its function."""
    for subject in _SUBJECTS:
        importlib.import_module(f"vllm_xpu_fp8_plugin.reference.{subject}")
    return MappingProxyType(_implementations)
