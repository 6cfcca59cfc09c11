# SPDX-License-Identifier: Apache-2.0
"""What vLLM leaves to a GPU, and a CPU does slowly unless it is told otherwise."""

import functools
import gc
import os

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin import processes
from vllm_xpu_fp8_plugin.reference.weights import linear

# New objects before Python looks for garbage, before and after vLLM is imported.
_BEFORE = gc.get_threshold()[0]
# Tells vLLM's own setting of OMP_NUM_THREADS from a user's.
_SET_BY_VLLM = "VLLM_OMP_NUM_THREADS_SET_BY_VLLM"


def leave_out_cuda_builds() -> None:
    """Have vLLM's library of CUDA kernels, humming, not compile them as it is imported.

    It starts two processes for that in each of vLLM's (humming/ops/utils.py and
    humming/utils/nvrtc.py), which import torch, find no CUDA and end: 12 s of CPU time.
    """
    os.environ.setdefault("HUMMING_DISABLE_PARALLEL_BUILD", "1")


@functools.cache
def keep_what_was_imported() -> None:
    """Leave imported modules out of garbage collection, which is then as it was before.

    vLLM leaves them out once it is up. It collects a dozen times before, which takes
    2.5 s of CPU time.
    """
    gc.freeze()
    # Not where somebody has set another since.
    if gc.get_threshold()[0] == processes.OBJECTS:
        gc.set_threshold(_BEFORE)


def use_every_core() -> None:
    """Take back that vLLM's processes have a core each, since a GPU does the work.

    It is so where vLLM starts processes (vllm/v1/engine/utils.py).
    """
    if os.environ.get(_SET_BY_VLLM) == "1":
        cores = len(os.sched_getaffinity(0))
        workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, cores // workers))


def use_float32_products() -> None:
    """Have vLLM take `unquantized_gemm` for layers that are not quantised."""
    from vllm.model_executor.layers import utils

    utils.default_unquantized_gemm = unquantized_gemm


def unquantized_gemm(
    layer: torch.nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return ``x [..., K] @ weight.T [K, N] + bias [N]``, rounded once to x's dtype.

    Few processors have a matrix product for bf16, and hardly one for fp16: torch's
    is up to ten times slower than its float32 one, which this takes there. An FP8
    checkpoint's head is such a layer.

    Args:
        layer: Not used; vLLM's hook passes it.
        x: [..., K], of an XPU.
        weight: [N, K]
        bias: [N]

    """
    if x.dtype == torch.float32 or _has_product(x.dtype):
        return torch.nn.functional.linear(x, weight, bias)
    host = torch.ops.virtual_xpu.host
    product = linear(host(x).float().flatten(0, -2), host(weight).t(), None)
    if bias is not None:
        product.add_(host(bias).float())
    result = product.view(*x.shape[:-1], -1).to(x.dtype)
    return result.to(x.device)


def _has_product(dtype: torch.dtype) -> bool:
    """Return whether the processor multiplies matrices of a type."""
    names = {
        torch.bfloat16: ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
        torch.float16: ("_is_amx_fp16_supported",),
    }
    asked = (getattr(torch.cpu, name, None) for name in names.get(dtype, ()))
    return any(ask() for ask in asked if ask is not None)
