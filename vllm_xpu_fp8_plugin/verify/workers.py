# SPDX-License-Identifier: Apache-2.0
"""What an arm asks of the workers of its engine."""

import resource
from typing import Any


def fp8_counts(llm: Any) -> dict[str, int]:
    """Return how many layers, weights and KV caches there are, and are FP8.

    Keys: ``layers`` (linear ones, and a block's experts as one), ``weights``,
    ``caches``, each also with ``_fp8``; ``layers_other``, those with weights in
    another format, such as int4.
    """
    ranks = llm.collective_rpc(_fp8_of_worker)
    # Each tensor-parallel rank has a part of each layer; pipeline ranks have others.
    parts = llm.llm_engine.vllm_config.parallel_config.tensor_parallel_size
    whole = {x: sum(rank[x] for rank in ranks) for x in ranks[0]}
    return {x: n if "weights" in x else n // parts for x, n in whole.items()}


def _fp8_of_worker(worker: Any) -> dict[str, int]:
    from vllm.model_executor.layers.fused_moe import FusedMoEMethodBase
    from vllm.model_executor.layers.linear import LinearBase

    counts = dict.fromkeys(("layers", "weights", "caches"), 0)
    counts |= {f"{x}_fp8": 0 for x in counts} | {"layers_other": 0}
    config = worker.vllm_config
    for module in worker.model_runner.model.modules():
        own = list(module.parameters(recurse=False))
        # Packed weights are integers, and the method's name tells what they are.
        method = getattr(module, "quant_method", None)
        called = type(method).__name__.lower()
        named = "fp8" in called and "unquantized" not in called
        fp8 = [p for p in own if p.dtype in _fp8_types()]
        matrices = [p for p in own if p.dim() > 1]
        counts["weights"] += sum(p.numel() for p in matrices)
        found = fp8 or (matrices if named else [])
        counts["weights_fp8"] += sum(p.numel() for p in found if p.dim() > 1)
        experts = isinstance(method, FusedMoEMethodBase) and matrices
        if isinstance(module, LinearBase) or experts:
            counts["layers"] += 1
            counts["layers_fp8"] += bool(found)
            counts["layers_other"] += not found and any(map(_is_quantised, matrices))
        if hasattr(module, "kv_cache_dtype") and hasattr(module, "get_kv_cache_spec"):
            # An encoder's attention has none, whatever its dtype would be.
            if module.get_kv_cache_spec(config) is None:
                continue
            counts["caches"] += 1
            counts["caches_fp8"] += str(module.kv_cache_dtype).startswith("fp8")
    return counts


def _is_quantised(weights: Any) -> bool:
    """Whether weights are integers, which may be packed, or floats of a byte."""
    return weights.dtype.itemsize == 1 or not weights.dtype.is_floating_point


def _fp8_types() -> set[Any]:
    import torch

    return {getattr(torch, name) for name in dir(torch) if name.startswith("float8_")}


def peak_memory(llm: Any) -> int:
    """Return the greatest memory of a worker, in bytes: device's, else process's."""
    return int(max(llm.collective_rpc(_peak_of_worker)))


def _peak_of_worker(worker: Any) -> int:
    import torch

    if torch.accelerator.is_available():
        return int(torch.accelerator.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
