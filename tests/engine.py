# SPDX-License-Identifier: Apache-2.0
"""Runs vLLM engines in processes of their own, so that nothing leaks between them.

`run_engine` starts this file as a script; the script prints one JSON object.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_MARK = "RESULT "


def run_engine(**request: Any) -> dict[str, Any]:
    """Run an engine and return what it gave.

    Args:
        request: ``llm``: arguments of `vllm.LLM`. ``upstream``: whether layers get
            vLLM's own backend in place of the plugin's. ``defect``: whether vLLM is
            as it was before #39676. ``pairs``, ``texts`` or ``prompts``: the work,
            for `LLM.score`, `LLM.embed` / `LLM.classify`, `LLM.generate`.

    Returns:
        ``error`` (None, or the message), ``out`` (scores, vectors or token ids) and
        ``calls``: one record for each distinct set of arguments of the kernel layer.

    """
    env = {**os.environ, **request.pop("env", {})}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=540,
        env=env,
        cwd=Path(__file__).parent.parent,
    )
    results = [x for x in done.stdout.splitlines() if x.startswith(_MARK)]
    assert results, (
        f"the engine's process ended without a result:\n{done.stderr[-4000:]}"
    )
    return {**json.loads(results[0][len(_MARK) :]), "log": done.stderr + done.stdout}


def _main(request: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends import flash_attn

    if request.get("upstream"):
        from vllm.platforms.xpu import XPUPlatform

        type(current_platform).get_attn_backend_cls = classmethod(
            lambda cls, *a, **k: XPUPlatform.get_attn_backend_cls(*a, **k)
        )
    if request.get("defect"):
        flash_attn.flash_attn_supports_quant_query_input = lambda: True
    if name := request.get("missing"):
        delattr(flash_attn.FlashAttentionImpl, name)

    calls: list[dict[str, Any]] = []
    kernel = flash_attn.flash_attn_varlen_func

    def recording(**kwargs: Any) -> Any:
        call = {
            "causal": kwargs["causal"],
            "paged": kwargs.get("block_table") is not None,
            "key_dtype": str(kwargs["k"].dtype),
            "window_size": list(kwargs.get("window_size") or []),
            "descales": [
                x for x in ("q", "k", "v") if kwargs.get(f"{x}_descale") is not None
            ],
        }
        if call not in calls:
            calls.append(call)
        return kernel(**kwargs)

    flash_attn.flash_attn_varlen_func = recording
    out: Any = None
    error = None
    try:
        llm = LLM(**request["llm"])
        if "pairs" in request:
            out = [
                [o.outputs.score for o in llm.score(query, documents, use_tqdm=False)]
                for query, documents in request["pairs"]
            ]
        elif "prompts" in request:
            params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
            prompts = [{"prompt_token_ids": p} for p in request["prompts"]]
            done = llm.generate(prompts, params, use_tqdm=False)
            out = [list(o.outputs[0].token_ids) for o in done]
        elif "classify" in request:
            inputs = [{"prompt_token_ids": p} for p in request["classify"]]
            out = [o.outputs.probs for o in llm.classify(inputs, use_tqdm=False)]
        elif "embed" in request:
            inputs = [{"prompt_token_ids": p} for p in request["embed"]]
            out = [o.outputs.embedding for o in llm.embed(inputs, use_tqdm=False)]
    except Exception as e:
        error = f"{type(e).__name__}: {e}"
    return {"error": error, "out": out, "calls": calls}


if __name__ == "__main__":
    print(_MARK + json.dumps(_main(json.loads(sys.argv[1]))), flush=True)
