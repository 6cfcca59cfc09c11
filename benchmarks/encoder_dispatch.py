# SPDX-License-Identifier: Apache-2.0
"""Host time of one encoder-attention layer call: upstream ÷ plugin.

Both implementations are real and run on the virtual XPU; the kernel call is
replaced by a no-op, so what is left is the Python that runs before each launch.
"""

import argparse
import json
import os
import time
from types import SimpleNamespace
from typing import Any

CALLS = 2000
ROUNDS = 15


def main() -> None:
    """Time the two in turns and print the least of each and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    os.environ.update(VLLM_XPU_FP8_PLUGIN="emulate", VLLM_LOGGING_LEVEL="ERROR")
    import torch
    from vllm.v1.attention.backend import AttentionType

    from vllm_xpu_fp8_plugin.attention import XPUFp8AttentionImpl, upstream

    tokens, heads, head_size, sequences = 64, 12, 32, 4
    shape = (tokens, heads, head_size)
    query = torch.randn(shape, dtype=torch.bfloat16, device="xpu")
    output = torch.empty_like(query)
    metadata = SimpleNamespace(
        query_start_loc=torch.arange(
            0, tokens + 1, tokens // sequences, dtype=torch.int32, device="xpu"
        ),
        max_query_len=tokens // sequences,
    )
    one = torch.ones((), dtype=torch.float32, device="xpu")
    layer = SimpleNamespace(_q_scale=one, _k_scale=one, _v_scale=one)

    def no_kernel(*, out: Any, **kwargs: Any) -> Any:
        return out

    def make(impl: Any) -> Any:
        return impl(
            heads,
            head_size,
            head_size**-0.5,
            heads,
            None,
            None,
            "auto",
            attn_type=AttentionType.ENCODER_ONLY,
        )

    arms = {
        "upstream_us": make(upstream.FlashAttentionImpl),
        "plugin_us": make(XPUFp8AttentionImpl),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    kernel, upstream.flash_attn_varlen_func = upstream.flash_attn_varlen_func, no_kernel
    try:
        with torch.inference_mode():
            for _ in range(ROUNDS):
                for name, impl in arms.items():
                    call = impl._forward_encoder_attention
                    start = time.perf_counter()
                    for _ in range(CALLS):
                        call(query, query, query, output, metadata, layer)
                    times[name].append((time.perf_counter() - start) / CALLS * 1e6)
    finally:
        upstream.flash_attn_varlen_func = kernel
    # The least disturbed round: noise only adds.
    result = {name: round(min(t), 2) for name, t in times.items()}
    result["ratio"] = round(result["upstream_us"] / result["plugin_us"], 1)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"upstream {result['upstream_us']:6.2f} us a layer call")
        print(f"plugin   {result['plugin_us']:6.2f} us a layer call")
        print(f"ratio    {result['ratio']:6.1f}")


if __name__ == "__main__":
    main()
