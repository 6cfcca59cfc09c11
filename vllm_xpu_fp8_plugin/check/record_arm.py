# SPDX-License-Identifier: Apache-2.0
"""Runs a model's engine and has its workers note their calls; for `arm.run`."""

import os
from pathlib import Path
from typing import Any

from vllm_xpu_fp8_plugin.verify import child, inputs, plan
from vllm_xpu_fp8_plugin.verify.child import Progress, Result
from vllm_xpu_fp8_plugin.verify.vllm_arm import detect_task, parse_flags

# Prompts of these many tokens, each alone and all together; a page is 16 to 64.
LENGTHS = (1, 2, 7, 16, 17, 64, 65, 100, 200)
_TOKENS = 8


def measure(request: Result, progress: Progress) -> Result:
    """Start the engine, run prompts of several lengths and write each call once."""
    args = parse_flags(request["model"], request["flags"])
    # A graph replays its ops without a word to torch's dispatcher.
    args.enforce_eager = True
    from vllm import LLM

    progress.stage("starting the engine")
    llm = LLM(**vars(args))
    llm.collective_rpc(start, args=(request["folder"],))
    progress.stage("recording")
    _work(llm, progress)
    found = llm.collective_rpc(stop)
    config = llm.llm_engine.vllm_config
    return {
        "versions": child.versions(),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "quantization": config.model_config.quantization,
        "kv_cache_dtype": str(config.cache_config.cache_dtype),
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "distinct_calls": sum(found),
    }


def start(worker: Any, folder: str) -> None:
    """Begin to note the calls of a worker."""
    from vllm_xpu_fp8_plugin.check.recorder import Recorder

    recorder = Recorder(Path(folder), worker.rank)
    recorder.watch(worker.model_runner.model)
    worker.xpu_fp8_recorder = recorder
    recorder.__enter__()  # type: ignore[no-untyped-call]


def stop(worker: Any) -> int:
    """End it; return how many distinct calls there were."""
    recorder = worker.xpu_fp8_recorder
    recorder.__exit__(None, None, None)
    recorder.unwatch()
    return len(recorder.calls)


def _work(llm: Any, progress: Progress) -> None:
    """Run prompts, each alone and then together."""
    config = llm.llm_engine.vllm_config
    hears = config.model_config.is_encoder_decoder
    task = plan.GENERATE if hears else detect_task(llm)
    longest = plan.longest_input(
        task, config.model_config.max_model_len, llm.get_tokenizer()
    )
    longest -= _TOKENS if task == plan.GENERATE else 0
    sizes = [n for n in LENGTHS if n <= longest] or [1]
    texts = inputs.builtin().texts or inputs.builtin().prompts

    def encode(text: str, special: bool) -> list[int]:
        found: list[int] = llm.get_tokenizer().encode(text, add_special_tokens=special)
        return found

    prompts: list[Any] = [
        {"prompt_token_ids": ids} for ids in plan.cut(list(texts), encode, sizes, 0)
    ]
    if hears:
        prompts = [_with_audio(prompt) for prompt in prompts[:4]]
    progress.total = len(prompts) * 2
    for batch in (*([p] for p in prompts), prompts):
        if task == plan.GENERATE:
            from vllm import SamplingParams

            greedy = SamplingParams(temperature=0, max_tokens=_TOKENS, ignore_eos=True)
            drawn = SamplingParams(temperature=0.8, top_p=0.9, top_k=20,
                                   max_tokens=2, seed=0)  # fmt: skip
            llm.generate(batch, greedy, use_tqdm=progress.bar())
            if len(batch) > 1:
                llm.generate(batch[:2], drawn, use_tqdm=False)
        elif task == plan.EMBED:
            llm.embed(batch, use_tqdm=progress.bar())
        else:
            llm.classify(batch, use_tqdm=progress.bar())


def _with_audio(prompt: Any) -> Any:
    """Return a prompt of an encoder-decoder that hears two seconds of a tone."""
    import numpy as np

    tone = np.sin(np.arange(32000) * (2 * np.pi * 440 / 16000)).astype(np.float32)
    audio = {"audio": (tone, 16000)}
    return {
        "encoder_prompt": {"prompt": "", "multi_modal_data": audio},
        "decoder_prompt": prompt,
    }


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    child.main(measure)
