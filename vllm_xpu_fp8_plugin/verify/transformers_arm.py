# SPDX-License-Identifier: Apache-2.0
"""A reference arm that runs transformers in float32 on the CPU, one item at a time.

It shares no kernel with vLLM, so it tells a fault that both of vLLM's arms have.
"""

import math
import resource
import time
from typing import Any

import torch
import transformers

from vllm_xpu_fp8_plugin.verify import child, plan, vllm_arm
from vllm_xpu_fp8_plugin.verify.child import Progress, Result


def measure(request: Result, progress: Progress) -> Result:
    """Load the model, make and run the plan and return what it gave."""
    config = vllm_arm.arm_arguments(request).create_model_config()
    task = detect_task(config)
    progress.stage("loading the model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        config.tokenizer, trust_remote_code=config.trust_remote_code
    )
    kind = {
        plan.GENERATE: transformers.AutoModelForCausalLM,
        plan.EMBED: transformers.AutoModel,
    }.get(task, transformers.AutoModelForSequenceClassification)
    model = kind.from_pretrained(
        config.model,
        revision=config.revision,
        dtype=torch.float32,
        trust_remote_code=config.trust_remote_code,
    ).eval()
    work = plan.make(
        task,
        request["data"],
        lambda text, special: tokenizer.encode(text, add_special_tokens=special),
        longest=plan.longest_input(task, config.max_model_len, tokenizer),
        page=plan.PAGE,
        max_tokens=request["max_tokens"],
        seed=request["seed"],
    )
    with torch.inference_mode():
        if task == plan.GENERATE:
            measured = _generate(model, work, progress)
        else:
            measured = _pool(model, tokenizer, config, work, progress)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured["speed"]["peak_memory_bytes"] = memory
    return {
        "platform": "transformers",
        "device": "CPU",
        "emulated": False,
        "dtype": "float32",
        "quantization": None,
        "kv_cache_dtype": "float32",
        "tensor_parallel_size": 1,
        "max_model_len": config.max_model_len,
        "versions": child.versions(),
        "plan": work,
        **measured,
    }


def detect_task(config: Any) -> str:
    """Return the plan's name for what vLLM would run the model for.

    vLLM itself asks the loaded model; its runner, its conversion and the
    architecture's name say the same before that.
    """
    if config.runner_type == "generate":
        return plan.GENERATE
    classifies = config.convert_type == "classify" or any(
        "ForSequenceClassification" in name for name in config.architectures
    )
    if not classifies:
        return plan.EMBED
    one = getattr(config.hf_config, "num_labels", 0) == 1
    return plan.SCORE if one else plan.CLASSIFY


def _pool(
    model: Any, tokenizer: Any, config: Any, work: Result, progress: Progress
) -> Result:
    from vllm.model_executor.layers.pooler.activations import get_act_fn

    items, lengths = work["items"], work["lengths"]
    progress.total = len(items) + len(lengths) + len(work["probes"])
    longest = config.max_model_len

    def vector(inputs: Any) -> list[float]:
        if work["task"] == plan.EMBED:
            hidden = model(**inputs).last_hidden_state
            pooled = _pooled(hidden[0], config.pooler_config.seq_pooling_type)
            if config.pooler_config.use_activation is not False:
                pooled = torch.nn.functional.normalize(pooled, dim=-1)
        else:
            pooled = get_act_fn(config.hf_config)(model(**inputs).logits)[0]
        progress.advance()
        numbers: list[float] = pooled.tolist()
        return numbers

    def encode(item: Any) -> Any:
        texts = item if isinstance(item, list) else [item]
        return tokenizer(
            *texts, truncation=True, max_length=longest, return_tensors="pt"
        )

    progress.stage("each length")
    sweep = [vector({"input_ids": torch.tensor([ids])}) for ids in lengths]
    progress.stage("each item")
    start = time.perf_counter()
    results = [vector(encode(item)) for item in items]
    seconds = time.perf_counter() - start
    return {
        "items": results,
        "lengths": sweep,
        "probes": [vector(encode(item)) for item in work["probes"]],
        "alone": [results[i] for i in work["alone"]],
        "speed": {
            "unit": "items/s",
            "throughput": len(items) / seconds,
            "latency_s": seconds / len(items),
        },
    }


def _pooled(hidden: torch.Tensor, method: str) -> torch.Tensor:
    """Pool ``hidden [num_tokens, width]`` as vLLM's sequence pooler does."""
    if method == "MEAN":
        return hidden.mean(dim=0)
    return hidden[0] if method == "CLS" else hidden[-1]


def _generate(model: Any, work: Result, progress: Progress) -> Result:
    items, lengths, most = work["items"], work["lengths"], work["max_tokens"]
    progress.total = 2 * len(items) + len(lengths)
    progress.stage("each length")
    sweep = [_greedy(model, ids, 1, progress) for ids in lengths]
    progress.stage("each prompt")
    start = time.perf_counter()
    results = [_greedy(model, ids, most, progress) for ids in items]
    seconds = time.perf_counter() - start
    progress.stage("scoring")
    forced = [ids + r["tokens"] for ids, r in zip(items, results, strict=True)]
    scores = []
    for ids in forced:
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        following = torch.tensor(ids[1:], dtype=torch.long)
        picked = logprobs[:-1].gather(1, following[:, None])
        scores.append(picked[:, 0].tolist())
        progress.advance()
    starts = [len(ids) for ids in items]
    work.update(forced=forced, starts=starts)
    return {
        "items": results,
        "lengths": sweep,
        "alone": [results[i] for i in work["alone"]],
        "own": [s[n - 1 :] for s, n in zip(scores, starts, strict=True)],
        "forced": scores,
        "speed": {
            "unit": "tokens/s",
            "throughput": sum(len(r["tokens"]) for r in results) / seconds,
            "latency_s": min(r["first_s"] for r in results),
        },
    }


def _greedy(model: Any, ids: list[int], most: int, progress: Progress) -> Result:
    """Generate as vLLM does with temperature 0: the end token is kept."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    row: Result = {"tokens": [], "logprobs": [], "top": [], "first_s": math.inf}
    given, cache = ids, None
    start = time.perf_counter()
    while len(row["tokens"]) < most and not ends & set(row["tokens"][-1:]):
        out = model(
            input_ids=torch.tensor([given]), past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        logprobs, tokens = out.logits[0, -1].log_softmax(-1).topk(vllm_arm.TOP)
        pairs = zip(tokens.tolist(), logprobs.tolist(), strict=True)
        row["top"].append([list(pair) for pair in pairs])
        row["tokens"].append(row["top"][-1][0][0])
        row["logprobs"].append(row["top"][-1][0][1])
        given = row["tokens"][-1:]
        row["first_s"] = min(row["first_s"], time.perf_counter() - start)
    progress.advance()
    return row


if __name__ == "__main__":
    child.main(measure)
