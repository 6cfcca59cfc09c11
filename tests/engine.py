# SPDX-License-Identifier: Apache-2.0
"""Runs vLLM engines in processes of their own, so that nothing leaks between them.

A server, this file as a script, imports vLLM once and forks a process for each
request: an engine is up in half a second instead of fifteen.
"""

import atexit
import functools
import gc
import importlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TIMEOUT = 500

# Of pages as many as the memory has room for, an engine would write zeros to each.
_DEFAULTS = {"disable_log_stats": False, "num_gpu_blocks_override": 512}


def run_engine(**request: Any) -> dict[str, Any]:
    """Run an engine and return what it gave.

    Args:
        request: ``llm``: arguments of `vllm.LLM`. ``upstream``: whether layers get
            vLLM's own backend in place of the plugin's. ``defect``: whether vLLM is
            as it was before #39676. ``missing``: a method that vLLM shall not have.
            ``pairs``, ``embed``, ``classify``, ``prompts`` or ``transcribe``: the
            work, for `LLM.score`, `LLM.embed`, `LLM.classify`, `LLM.generate`.
            ``sampling``: arguments of `vllm.SamplingParams` in place of greedy's.
            ``adapters``: for each prompt the folder of its LoRA adapter.
            ``fork``: see `fork_workers`. ``env``: environment variables.
            ``call``: "MODULE:FUNCTION", which gets the request and returns the result
            in place of all this.

    Returns:
        ``error`` (None, or the message), ``out`` (scores, vectors, probabilities, or
        for each prompt its ``tokens``, their ``logprobs`` and ``ranks`` and ``cached``
        tokens), ``custom_ops`` (enabled ones, and how many layers have them),
        ``preemptions`` where tokens were generated, ``peak_bytes`` (the most that
        engine and work took, not counting what loading took), ``calls`` (one record
        for each distinct set of arguments of the kernel layer) and ``log``.

    """
    server = _server()
    assert server.stdin and server.stdout
    with tempfile.TemporaryDirectory() as tmp:
        server.stdin.write(json.dumps({**request, "folder": tmp}) + "\n")
        server.stdin.flush()
        assert server.stdout.readline(), "the engines' server has ended"
        log = (Path(tmp) / "log").read_text(errors="replace")
        path = Path(tmp) / "result.json"
        assert path.exists(), f"the engine's process gave no result:\n{log[-4000:]}"
        return {**json.loads(path.read_text()), "log": log}


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.engine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A process forked from one that has worker threads would wait for them.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent.parent,
        text=True,
    )
    atexit.register(server.terminate)
    return server


def _serve() -> None:
    """Answer each request on stdin by a forked process and a line on stdout."""
    # What an engine imports once it starts.
    import compressed_tensors.quantization  # noqa: F401
    import vllm.entrypoints.llm
    import vllm.lora.resolver
    import vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors
    import vllm.model_executor.layers.quantization.fp8
    import vllm.model_executor.layers.quantization.online.fp8
    import vllm.v1.core.sched.async_scheduler
    import vllm.v1.worker.gpu.model_states.default
    import vllm.v1.worker.xpu_worker  # noqa: F401
    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging_if_needed

    import vllm_xpu_fp8_plugin.attention
    import vllm_xpu_fp8_plugin.virtual_xpu.platform  # noqa: F401

    configure_logging_if_needed(LoggingConfig())
    # vLLM collects garbage at each start and end; what was imported is none.
    gc.freeze()
    gc.unfreeze = lambda: None
    for line in sys.stdin:
        request = json.loads(line)
        if not (pid := os.fork()):
            _answer(request)
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(pid, signal.SIGKILL))
        signal.alarm(_TIMEOUT)
        os.waitpid(pid, 0)
        signal.alarm(0)
        print("done", flush=True)


def _answer(request: dict[str, Any]) -> None:
    """Run a request in this forked process and end it."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    folder = Path(request["folder"])
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request.get("env", {}))
    status = 1
    try:
        result = json.dumps(_function(request)(request))
        (folder / "result.json").write_text(result)
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _function(request: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    if "call" not in request:
        return _main
    module, name = request["call"].split(":")
    function: Callable[[dict[str, Any]], dict[str, Any]]
    function = getattr(importlib.import_module(module), name)
    return function


def _main(request: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM

    before = _memory("VmRSS")
    from vllm.v1.attention.backends import flash_attn

    if request.get("upstream"):
        from vllm.v1.attention.backends.registry import AttentionBackendEnum

        from vllm_xpu_fp8_plugin import platform

        platform.BACKEND_PATH = AttentionBackendEnum.FLASH_ATTN.value
    if request.get("defect"):
        flash_attn.flash_attn_supports_quant_query_input = lambda: True
    if name := request.get("missing"):
        delattr(flash_attn.FlashAttentionImpl, name)
        # It looks for the method when it is imported.
        del sys.modules["vllm_xpu_fp8_plugin.attention"]

    if request.get("fork"):
        fork_workers()
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
    result: dict[str, Any] = {"error": None, "out": None, "calls": calls}
    try:
        llm = LLM(**{**_DEFAULTS, **request["llm"]})
        compilation = llm.llm_engine.vllm_config.compilation_config
        result["custom_ops"] = dict(compilation.enabled_custom_ops)
        # The peak counts from here: loading and profiling are done.
        Path("/proc/self/clear_refs").write_text("5")
        _work(llm, request, result)
    except Exception as e:
        result["error"] = f"{type(e).__name__}: {e}"
        traceback.print_exc()
    result["peak_bytes"] = _memory("VmHWM") - before
    return result


def fork_workers() -> None:
    """Have an engine fork its workers: spawned, each would import vLLM again."""
    from vllm.v1.executor import multiproc_executor

    multiproc_executor.get_mp_context = lambda: multiprocessing.get_context("fork")


def _memory(name: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])


def _work(llm: Any, request: dict[str, Any], result: dict[str, Any]) -> None:
    if "pairs" in request:
        result["out"] = [
            [o.outputs.score for o in llm.score(query, documents, use_tqdm=False)]
            for query, documents in request["pairs"]
        ]
    elif "classify" in request:
        done = llm.classify(_prompts(request["classify"]), use_tqdm=False)
        result["out"] = [o.outputs.probs for o in done]
    elif "embed" in request:
        done = llm.embed(_prompts(request["embed"]), use_tqdm=False)
        result["out"] = [o.outputs.embedding for o in done]
    elif "prompts" in request or "transcribe" in request:
        _generate(llm, request, result)


def _generate(llm: Any, request: dict[str, Any], result: dict[str, Any]) -> None:
    import numpy as np
    from vllm import SamplingParams

    greedy = {"temperature": 0, "max_tokens": 32}
    sampling = {**greedy, **request.get("sampling", {})}
    params = SamplingParams(ignore_eos=True, logprobs=1, **sampling)
    if path := request.get("transcribe"):
        audio = {"audio": (np.load(path), 16000)}
        prompts: list[Any] = [
            {
                "encoder_prompt": {"prompt": "", "multi_modal_data": audio},
                "decoder_prompt": request["decoder_prompt"],
            }
        ]
    else:
        prompts = _prompts(request["prompts"])
    # Twice, so that the second time finds what the first has put into the cache.
    for _ in range(request.get("times", 1)):
        done = llm.generate(
            prompts, params, use_tqdm=False, lora_request=_adapters(request)
        )
    result["out"] = []
    for o in done:
        completion = o.outputs[0]
        tokens = list(completion.token_ids)
        chosen = [e[t] for e, t in zip(completion.logprobs, tokens, strict=True)]
        result["out"].append(
            {
                "tokens": tokens,
                "logprobs": [c.logprob for c in chosen],
                "ranks": [c.rank for c in chosen],
                "cached": o.num_cached_tokens,
            }
        )
    metrics = {m.name: getattr(m, "value", None) for m in llm.get_metrics()}
    result["preemptions"] = metrics["vllm:num_preemptions"]


def _adapters(request: dict[str, Any]) -> list[Any] | None:
    from vllm.lora.request import LoRARequest

    paths = request.get("adapters")
    if paths is None:
        return None
    numbers = {path: i for i, path in enumerate(dict.fromkeys(paths), 1)}
    return [LoRARequest(f"adapter{numbers[p]}", numbers[p], p) for p in paths]


def _prompts(token_ids: list[list[int]]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": ids} for ids in token_ids]


if __name__ == "__main__":
    _serve()
