# SPDX-License-Identifier: Apache-2.0
"""Which ops can be checked: what each should compute, and calls to try."""

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from vllm_xpu_fp8_plugin.check.expected import Expected

# Gets an op's arguments by name, and returns what each output should hold: by name,
# of what is returned by "return" or "return.0".
Oracle = Callable[..., dict[str, Expected]]
Arguments = dict[str, Any]
Cases = Callable[[], Iterator[Arguments]]

_SUBJECTS = (
    "activations",
    "norms",
    "quant",
    "silu_quant",
    "norm_quant",
    "mxfp4",
    "rotary",
    "cache",
    "gather",
    "merge",
    "gemm",
    "four_bits",
    "grouped_gemm",
    "attention",
    "mqa_logits",
    "mhc",
    "gdn",
    "indexer",
    "gdn_rule",
    "sampling",
    "moe",
    "moe_align",
    "moe_remap",
    "deepseek",
    "deepseek_cache",
    "exponential",
    "lora",
)


class Spec(NamedTuple):
    """How an op is checked.

    Attributes:
        oracle: What it should compute, in float64.
        cases: Calls of the catalogue.
        vary: Arguments whose values are replaced by random, large, tiny ones.
        rows: Arguments, and outputs, whose first dimension is that of tokens, where
            no token depends on another.
        inplace: Outputs that are read as well.
        host: Arguments whose tensors are on the CPU.
        largest: The largest value that `vary` is given.
        repeats: Whether two runs give equal results.

    """

    oracle: Oracle
    cases: Cases
    vary: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    inplace: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    largest: float = 1e4
    repeats: bool = True


_specs: dict[str, Spec] = {}

# Ops that compute nothing: what they say of the machine, or do with memory that is
# given as an address, has no value to compare.
NOT_COMPUTATIONS = frozenset(
    {
        "_C::get_xpu_view_from_cpu_tensor",
        "_C::weak_ref_tensor",
        "_C::xpu_host_register",
        "_C::xpu_host_unregister",
        "_C::xpu_memcpy_sync",
        "_C_cache_ops::getMemoryInfo",
        "_C_cache_ops::swap_blocks_batch",
        "_moe_C::init_expert_map",
        "_xpu_C::get_onednn_version",
        "_xpu_C::is_bmg",
        "_xpu_C::is_bmg_g21",
        "_xpu_C::is_bmg_g31",
        "_xpu_C::is_pvc",
        "_xpu_C::is_xe2_arch",
        "_xpu_C::is_xe3_arch",
    }
)


def checked(op: str, cases: Cases, **how: Any) -> Callable[[Oracle], Oracle]:
    """Make a function the oracle of an op; `how` is as in `Spec`."""

    def register(oracle: Oracle) -> Oracle:
        _specs[op] = Spec(oracle, cases, **how)
        return oracle

    return register


@functools.cache
def specs() -> Mapping[str, Spec]:
    """Return ``namespace::name`` of each op that can be checked -> how."""
    for subject in _SUBJECTS:
        importlib.import_module(f"vllm_xpu_fp8_plugin.check.ops.{subject}")
    return MappingProxyType(_specs)
