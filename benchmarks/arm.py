# SPDX-License-Identifier: Apache-2.0
"""One arm of ``throughput.py`` in a process of its own: ``arm.py ENGINE MODEL INPUTS``.

ENGINE is ``transformers`` or the arguments of ``vllm.LLM`` as JSON; INPUTS is a JSON
file: texts to embed, or prompts of token ids to continue by NEW_TOKENS. When ready it
prints the seconds until the engine was there. For each line on stdin it then does the
work once and prints the seconds it took.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

NEW_TOKENS = 32


def vllm_arm(model: str, inputs: list[Any], given: dict[str, Any]) -> Callable[[], Any]:
    """Return the work of a vLLM engine."""
    from vllm import LLM, SamplingParams

    if isinstance(inputs[0], str):
        llm = LLM(model, runner="pooling", **given)
        return lambda: llm.embed(inputs, use_tqdm=False)
    llm = LLM(model, max_model_len=1024, skip_tokenizer_init=True, **given)
    params = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in inputs]
    return lambda: llm.generate(prompts, params, use_tqdm=False)


def transformers_arm(model: str, inputs: list[Any]) -> Callable[[], None]:
    """Return the work of transformers in float32, in padded batches of 32."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if isinstance(inputs[0], list):
        decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

        def generate() -> None:
            for i in range(0, len(inputs), 32):
                ids = torch.tensor(inputs[i : i + 32])
                decoder.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS
                )

        decoder.generation_config.update(
            do_sample=False, min_new_tokens=NEW_TOKENS, pad_token_id=0
        )
        return torch.inference_mode()(generate)
    encoder = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)

    def embed() -> None:
        for i in range(0, len(inputs), 32):
            chunk = tokenizer(inputs[i : i + 32], padding=True, return_tensors="pt")
            hidden = encoder(**chunk).last_hidden_state
            mask = chunk["attention_mask"].unsqueeze(-1)
            (hidden * mask).sum(1) / mask.sum(1)

    return torch.inference_mode()(embed)


def main() -> None:
    """Make the engine, do the work once to warm up, then once for each line."""
    engine, model, path = sys.argv[1:]
    # vLLM logs to stdout; only seconds belong there.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with open(path) as file:
        inputs = json.load(file)
    # The libraries are not the engine's.
    importlib.import_module("transformers" if engine == "transformers" else "vllm")
    start = time.perf_counter()
    if engine == "transformers":
        work: Callable[[], Any] = transformers_arm(model, inputs)
    else:
        work = vllm_arm(model, inputs, json.loads(engine))
    startup = time.perf_counter() - start
    work()
    print(startup, file=answers)
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, file=answers)


if __name__ == "__main__":
    main()
