# SPDX-License-Identifier: Apache-2.0
"""An arm that runs vLLM, with or without FP8; a script for `arm.run`."""

import itertools
import os
import time
from typing import Any

from vllm_xpu_fp8_plugin.verify import child, plan, workers
from vllm_xpu_fp8_plugin.verify.child import CannotRunError, Progress, Result

# Engine arguments that make a model FP8. The reference gets their defaults.
FP8_ARGUMENTS = (
    "quantization",
    "quantization_config",
    "kv_cache_dtype",
    "kv_cache_dtype_skip_layers",
    "calculate_kv_scales",
)

# Most likely tokens kept at each step: how near a tie a token that differs was.
TOP = 10


def measure(request: Result, progress: Progress) -> Result:
    """Start the engine, run the plan and return what it gave."""
    engine_args = arm_arguments(request)
    from vllm import LLM

    progress.stage("starting the engine")
    llm = LLM(**vars(engine_args))
    return run(llm, request, progress)


def arm_arguments(request: Result) -> Any:
    """Return vLLM's EngineArgs for this arm.

    Both arms look at both configurations, so that what cannot run fails at once.

    Raises:
        CannotRunError: The candidate has no FP8, or the reference has.

    """
    candidate = parse_flags(request["model"], request["flags"])
    config = candidate.create_model_config()
    cache = str(candidate.kv_cache_dtype)
    if request["against"] == "unquantized" and not (
        config.quantization or cache.startswith("fp8") or request["reference_model"]
    ):
        raise CannotRunError(
            f"neither weights nor KV cache of {request['model']} are FP8, so there is "
            "nothing to verify. Give --quantization fp8 or --kv-cache-dtype fp8."
        )
    if request["role"] == "candidate":
        return candidate
    from vllm.engine.arg_utils import EngineArgs

    model = request["reference_model"] or request["model"]
    reference = parse_flags(model, request["flags"])
    defaults = EngineArgs(model=model)
    for name in FP8_ARGUMENTS:
        if hasattr(defaults, name):
            setattr(reference, name, getattr(defaults, name))
    if quantization := reference.create_model_config().quantization:
        raise CannotRunError(
            f"{model} is quantised itself ({quantization}), so it cannot be its own "
            "reference. Name the model that it was made from: --reference-model."
        )
    return reference


def parse_flags(model: str, flags: list[str]) -> Any:
    """Return vLLM's EngineArgs, as its own parser reads the flags."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm-xpu-fp8 verify ... --", usage="FLAGS")
    EngineArgs.add_cli_args(parser)
    args = EngineArgs.from_cli_args(parser.parse_args(["--model", model, *flags]))
    # What a cache returns was computed for another item.
    if args.enable_prefix_caching is None:
        args.enable_prefix_caching = False
    args.disable_log_stats = False
    return args


def run(llm: Any, request: Result, progress: Progress) -> Result:
    """Run the plan on an engine; make it first if the request has none."""
    config = llm.llm_engine.vllm_config
    task = detect_task(llm)
    work = request.get("plan") or plan.make(
        task,
        request["data"],
        lambda text, special: llm.get_tokenizer().encode(
            text, add_special_tokens=special
        ),
        longest=plan.longest_input(
            task, config.model_config.max_model_len, llm.get_tokenizer()
        ),
        page=config.cache_config.block_size or plan.PAGE,
        max_tokens=request["max_tokens"],
        seed=request["seed"],
    )
    if work["task"] != task:
        raise CannotRunError(
            f"the reference's task is {work['task']!r} and this model's is {task!r}"
        )
    measured = (_generate if task == plan.GENERATE else _pool)(llm, work, progress)
    return {**describe(llm), "plan": work, **measured}


def detect_task(llm: Any) -> str:
    """Return the plan's name for what vLLM runs the model for."""
    tasks = set(llm.supported_tasks)
    if "generate" in tasks:
        return plan.GENERATE
    config = llm.llm_engine.model_config
    task = config.get_pooling_task(llm.supported_tasks)
    if task == "embed":
        return plan.EMBED
    if task == "classify":
        one = getattr(config.hf_config, "num_labels", 0) == 1
        return plan.SCORE if one else plan.CLASSIFY
    raise CannotRunError(
        f"vLLM runs {config.model} for {', '.join(sorted(tasks))}; verify compares "
        "scores, embeddings, classes and generated text. If the model can do one of "
        "these, ask for it: -- --runner pooling --convert embed (or classify)."
    )


def describe(llm: Any) -> Result:
    """Return what ran: platform, device, quantisation, versions."""
    from vllm.platforms import current_platform

    config = llm.llm_engine.vllm_config
    device = current_platform.get_device_name()
    return {
        "platform": type(current_platform).__name__,
        "device": device,
        "emulated": device.startswith("Virtual"),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "quantization": config.model_config.quantization,
        "kv_cache_dtype": str(config.cache_config.cache_dtype),
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "max_model_len": config.model_config.max_model_len,
        "versions": child.versions(),
        "fp8": workers.fp8_counts(llm),
    }


def _pool(llm: Any, work: Result, progress: Progress) -> Result:
    items, order, alone = work["items"], work["order"], work["alone"]
    probes = work["probes"]
    progress.total = sum(map(len, (work["lengths"], items, probes, alone)))

    def vectors(inputs: list[Any]) -> list[list[float]]:
        bar = progress.bar()
        if not inputs:
            return []
        if work["task"] == plan.EMBED:
            done = llm.embed(inputs, use_tqdm=bar)
            return [list(o.outputs.embedding) for o in done]
        if work["task"] == plan.SCORE and isinstance(inputs[0], list):
            queries, documents = zip(*inputs, strict=True)
            done = llm.score(list(queries), list(documents), use_tqdm=bar)
            return [[o.outputs.score] for o in done]
        done = llm.classify(inputs, use_tqdm=bar)
        return [list(o.outputs.probs) for o in done]

    # First, since it warms the engine up for the run that is timed.
    progress.stage("each length")
    sweep = vectors([{"prompt_token_ids": ids} for ids in work["lengths"]])
    progress.stage("together")
    start = time.perf_counter()
    shuffled = vectors([items[i] for i in order])
    seconds = time.perf_counter() - start
    probed = vectors(probes)
    results: list[list[float]] = [[] for _ in items]
    for i, vector in zip(order, shuffled, strict=True):
        results[i] = vector
    progress.stage("alone")
    singles, latencies = [], []
    for i in alone:
        start = time.perf_counter()
        singles += vectors([items[i]])
        latencies.append(time.perf_counter() - start)
    return {
        "items": results,
        "lengths": sweep,
        "probes": probed,
        "alone": singles,
        "speed": {
            "unit": "items/s",
            "throughput": len(items) / seconds,
            "latency_s": min(latencies),
            "peak_memory_bytes": workers.peak_memory(llm),
        },
    }


def _generate(llm: Any, work: Result, progress: Progress) -> Result:
    from vllm import SamplingParams

    items, order, alone = work["items"], work["order"], work["alone"]
    forced = work.get("forced")
    progress.total = len(work["lengths"]) + len(alone) + (2 + bool(forced)) * len(items)

    def greedy(prompts: list[list[int]], max_tokens: int) -> list[Any]:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=TOP)
        inputs = [{"prompt_token_ids": ids} for ids in prompts]
        return list(llm.generate(inputs, params, use_tqdm=progress.bar()))

    def score(sequences: list[list[int]]) -> list[list[float]]:
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        inputs = [{"prompt_token_ids": ids} for ids in sequences]
        done = llm.generate(inputs, params, use_tqdm=progress.bar())
        return [_prompt_logprobs(*x) for x in zip(done, sequences, strict=True)]

    progress.stage("each length")
    sweep = greedy(work["lengths"], 1)
    progress.stage("together")
    start = time.perf_counter()
    shuffled = greedy([items[i] for i in order], work["max_tokens"])
    seconds = time.perf_counter() - start
    outputs = [o for _, o in sorted(zip(order, shuffled, strict=True), key=_first)]
    results = [_completion(o) for o in outputs]
    progress.stage("alone")
    singles = [greedy([items[i]], work["max_tokens"])[0] for i in alone]

    progress.stage("scoring")
    own = [ids + r["tokens"] for ids, r in zip(items, results, strict=True)]
    starts = [len(ids) for ids in items]
    own_scores = score(own)
    if forced is None:
        # This is the reference: its text is what the other arm scores.
        work.update(forced=own, starts=starts)
        forced_scores = own_scores
    else:
        forced_scores = score(forced)
    return {
        "items": results,
        "lengths": [_completion(o) for o in sweep],
        "alone": [_completion(o) for o in singles],
        "own": [s[n - 1 :] for s, n in zip(own_scores, starts, strict=True)],
        "forced": forced_scores,
        "speed": {
            "unit": "tokens/s",
            "throughput": sum(len(r["tokens"]) for r in results) / seconds,
            "latency_s": min(o.metrics.first_token_latency for o in singles),
            "peak_memory_bytes": workers.peak_memory(llm),
        },
    }


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def _completion(output: Any) -> Result:
    """Return tokens, their logprobs, and each step's most likely tokens."""
    completion = output.outputs[0]
    steps = completion.logprobs or []
    tokens = list(completion.token_ids)
    return {
        "tokens": tokens,
        "logprobs": [s[t].logprob for s, t in zip(steps, tokens, strict=True)],
        "top": [[[t, x.logprob] for t, x in s.items()] for s in steps],
        "text": completion.text,
    }


def _prompt_logprobs(output: Any, ids: list[int]) -> list[float]:
    """Return the logprob of each token but the first, given those before it."""
    steps = itertools.islice(zip(output.prompt_logprobs, ids, strict=True), 1, None)
    return [step[token].logprob for step, token in steps]


if __name__ == "__main__":
    # Tokenizers warn of forks otherwise.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    child.main(measure)
