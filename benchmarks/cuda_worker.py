# SPDX-License-Identifier: Apache-2.0
"""One engine of one arm of `cuda_parity`, in a process of its own.

``python cuda_worker.py MARK ARGUMENTS MODEL`` answers requests on stdin, a method's
name a line, with lines on stdout that begin with MARK. ARGUMENTS are the engine's, in
JSON. It imports nothing of the project, which two of the arms must not see.
"""

import gc
import hashlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any


class Worker:
    """One vLLM engine of one arm. Its methods are the requests."""

    def __init__(self, arguments: dict[str, Any], model: str) -> None:
        """Start the engine."""
        from vllm import LLM

        self.decoder = "runner" not in arguments
        self.llm = LLM(
            model,
            dtype="bfloat16",
            seed=0,
            # Three engines share the GPU.
            gpu_memory_utilization=0.3,
            kv_cache_memory_bytes=12 << 30,
            enable_prefix_caching=False,
            disable_log_stats=True,
            # Graphs for decoding, as by default; without the minutes of compilation.
            compilation_config={
                "mode": 0,
                "cudagraph_mode": "FULL_DECODE_ONLY" if self.decoder else "NONE",
                "cudagraph_capture_sizes": [128],
            },
            **arguments,
        )
        prompts = json.loads((Path(model) / "prompts.json").read_text())
        self.prompts = [{"prompt_token_ids": p} for p in prompts]

    def run(self, logprobs: int | None = None) -> list[Any]:
        """Answer the requests."""
        from vllm import SamplingParams

        if not self.decoder:
            return self.llm.embed(self.prompts, use_tqdm=False)
        params = SamplingParams(
            temperature=0,
            max_tokens=32,
            ignore_eos=True,
            logprobs=logprobs,
            detokenize=False,
        )
        return self.llm.generate(self.prompts, params, use_tqdm=False)

    def outputs(self) -> list[Any]:
        """Return vectors, or tokens with their logprobs, exactly."""
        done = self.run(logprobs=1)
        if not self.decoder:
            return [o.outputs.embedding for o in done]
        return [
            [(t, p[t].logprob) for t, p in zip(x.token_ids, x.logprobs, strict=True)]
            for x in (o.outputs[0] for o in done)
        ]

    def answer(self) -> dict[str, Any]:
        """Return what identifies this arm and its outputs."""
        import torch
        import vllm
        from vllm.platforms import current_platform

        outputs = json.dumps(self.outputs())
        layers = self.llm.llm_engine.vllm_config.compilation_config
        impls = {
            f"{type(layer.impl).__module__}.{type(layer.impl).__qualname__}"
            for layer in layers.static_forward_context.values()
        }
        platform = type(current_platform)
        return {
            "platform": f"{platform.__module__}.{platform.__qualname__}",
            "attention": sorted(impls),
            "plugin_imported": "vllm_xpu_fp8_plugin" in sys.modules,
            "outputs_sha256": hashlib.sha256(outputs.encode()).hexdigest(),
            "distinct_outputs": len(set(map(json.dumps, json.loads(outputs)))),
            "gpu": torch.cuda.get_device_name(),
            "vllm": vllm.__version__,
            "torch": torch.__version__,
        }

    def profile(self) -> dict[str, int]:
        """Return the kernels launched for the requests: name -> count."""
        from torch.profiler import ProfilerActivity, profile

        self.run()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            self.run()
        kernels = (e for e in profiler.events() if "CUDA" in str(e.device_type))
        return dict(Counter(e.name for e in kernels))

    def time(self) -> float:
        """Return the seconds that the requests take."""
        import torch

        gc.collect()
        torch.cuda.synchronize()
        start = time.perf_counter()
        self.run()
        torch.cuda.synchronize()
        return time.perf_counter() - start


def serve(mark: str, arguments: str, model: str) -> None:
    """Answer requests until stdin ends."""
    worker = Worker(json.loads(arguments), model)
    print(mark + '"ready"', flush=True)
    for line in sys.stdin:
        print(mark + json.dumps(getattr(worker, line.strip())()), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
