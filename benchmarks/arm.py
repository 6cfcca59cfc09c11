# SPDX-License-Identifier: Apache-2.0
"""An arm of ``throughput.py``, a process: ``arm.py ENGINE MODEL INPUTS TOKENS``.

ENGINE is ``transformers`` or the arguments of ``vllm.LLM`` as JSON; INPUTS is a JSON
file: texts to embed, or prompts of token ids to continue by TOKENS. When the engine is
there, it prints the seconds that took. For each line on stdin, which names such a file,
it then does the work once and prints the seconds it took.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[list[Any]], Any]


def vllm_arm(model: str, embeds: bool, tokens: int, given: dict[str, Any]) -> Work:
    """Return the work of a vLLM engine."""
    from vllm import LLM, SamplingParams

    if embeds:
        llm = LLM(model, runner="pooling", **given)
        return lambda texts: llm.embed(texts, use_tqdm=False)
    llm = LLM(model, max_model_len=1024, skip_tokenizer_init=True, **given)
    params = SamplingParams(
        temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False
    )
    return lambda prompts: llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
    )


def transformers_arm(model: str, embeds: bool, tokens: int) -> Work:
    """Return the work of transformers in float32, in padded batches of 32."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if not embeds:
        decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

        def generate(prompts: list[list[int]]) -> None:
            for i in range(0, len(prompts), 32):
                ids = torch.tensor(prompts[i : i + 32])
                decoder.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens
                )

        decoder.generation_config.update(
            do_sample=False, min_new_tokens=tokens, pad_token_id=0
        )
        return torch.inference_mode()(generate)
    encoder = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)

    def embed(texts: list[str]) -> None:
        for i in range(0, len(texts), 32):
            chunk = tokenizer(texts[i : i + 32], padding=True, return_tensors="pt")
            hidden = encoder(**chunk).last_hidden_state
            mask = chunk["attention_mask"].unsqueeze(-1)
            (hidden * mask).sum(1) / mask.sum(1)

    return torch.inference_mode()(embed)


def main() -> None:
    """Make the engine, and do the work once for each line."""
    engine, model, path, tokens = sys.argv[1:]
    # vLLM logs to stdout; only seconds belong there.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    inputs = json.loads(Path(path).read_text())
    embeds = isinstance(inputs[0], str)
    # The libraries are not the engine's.
    importlib.import_module("transformers" if engine == "transformers" else "vllm")
    start = time.perf_counter()
    if engine == "transformers":
        work = transformers_arm(model, embeds, int(tokens))
    else:
        work = vllm_arm(model, embeds, int(tokens), json.loads(engine))
    print(time.perf_counter() - start, file=answers)
    for line in sys.stdin:
        inputs = json.loads(Path(line.strip()).read_text())
        start = time.perf_counter()
        work(inputs)
        print(time.perf_counter() - start, file=answers)
    # Python would take apart for seconds what vLLM's imports have made.
    os._exit(0)


if __name__ == "__main__":
    main()
