# SPDX-License-Identifier: Apache-2.0
"""What requests ask of the sampler, all in one batch on the virtual XPU."""

from pathlib import Path
from typing import Any

import pytest

from tests.engine import run_engine
from tests.models import make_model, token_ids

pytestmark = pytest.mark.slow

PROMPT = token_ids([12])[0]
LENGTH = 10
GREEDY: dict[str, Any] = {"temperature": 0}
RANDOM: dict[str, Any] = {"temperature": 1.5}
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "seed": {**RANDOM, "seed": 7},
    "seed again": {**RANDOM, "seed": 7},
    "other seed": {**RANDOM, "seed": 8},
    "top_k 1": {**RANDOM, "top_k": 1},
    "top_k 3": {**RANDOM, "top_k": 3, "logprobs": 5},
    "top_p": {**RANDOM, "top_p": 1e-6},
    "min_p": {**RANDOM, "min_p": 1.0},
    "repetition": {**GREEDY, "repetition_penalty": 1000.0},
    "presence": {**GREEDY, "presence_penalty": 2.0, "frequency_penalty": 2.0},
    "bias": {**GREEDY, "logit_bias": {11: 100.0}},
    "logprobs": {**GREEDY, "logprobs": 5},
    "prompt_logprobs": {**GREEDY, "prompt_logprobs": 1},
    "choice": {**GREEDY, "choice": ["w7", "w20"], "ignore_eos": False},
    "two": {**RANDOM, "n": 2, "seed": 3},
}
ALONE = ("seed", "choice")
# Where all are drawn at random and none has a seed, the kernel package's sampler draws.
FUSED = {**RANDOM, "top_k": 3, "logprobs": 5}


def generate(request: dict[str, Any]) -> dict[str, Any]:
    """Run all requests at once, some alone, and some that depend on greedy's tokens."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    llm = LLM(model=request["model"], max_model_len=64)

    def run(requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        params = []
        for values in requests.values():
            values = {"max_tokens": LENGTH, "ignore_eos": True, **values}
            if "choice" in values:
                choice = values.pop("choice")
                values["structured_outputs"] = StructuredOutputsParams(choice=choice)
            params.append(SamplingParams(**values))
        prompts = [{"prompt_token_ids": PROMPT}] * len(params)
        done = llm.generate(prompts, params, use_tqdm=False)
        return {n: _told(o) for n, o in zip(requests, done, strict=True)}

    told = run(REQUESTS)
    for name in ALONE:
        told[f"{name} alone"] = run({name: REQUESTS[name]})[name]
    first, *_, last = told["greedy"]["tokens"][0]
    told |= run(
        {
            "stop": {**GREEDY, "stop": [f"w{last}"]},
            "bad words": {**GREEDY, "bad_words": [f"w{first}"]},
            "min_tokens": {**GREEDY, "stop_token_ids": [first], "min_tokens": 4},
        }
    )
    return told | run({"fused": FUSED, "fused too": FUSED})


def _told(output: Any) -> dict[str, Any]:
    """Return tokens of each completion, and logprobs and ranks of the first."""
    done = output.outputs[0]
    entries = [
        {token: [e.logprob, e.rank] for token, e in step.items()}
        for step in done.logprobs or []
    ]
    prompt = [
        step and {token: e.logprob for token, e in step.items()}
        for step in output.prompt_logprobs or []
    ]
    return {
        "tokens": [list(o.token_ids) for o in output.outputs],
        "reason": done.finish_reason,
        "text": done.text,
        "logprobs": entries,
        "prompt": prompt,
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("llama")
    return run_engine(
        model=make_model("LlamaForCausalLM", folder),
        call="tests.test_sampling_params:generate",
    )


def tokens(told: dict[str, Any], name: str) -> list[int]:
    first: list[int] = told[name]["tokens"][0]
    return first


@pytest.mark.parametrize("name", ["top_k 1", "top_p", "min_p", "prompt_logprobs"])
def test_one_token_left_is_the_greedy_one(told: dict[str, Any], name: str) -> None:
    """Catches a filter that lets through more, or takes another request's value."""
    assert tokens(told, name) == tokens(told, "greedy")


def test_a_seed_gives_the_same_tokens(told: dict[str, Any]) -> None:
    """Catches noise that depends on a request's place in the batch."""
    assert tokens(told, "seed") == tokens(told, "seed again")
    assert tokens(told, "seed") == tokens(told, "seed alone")
    assert tokens(told, "seed") != tokens(told, "other seed")
    one, other = told["two"]["tokens"]
    assert one != other


@pytest.mark.parametrize("name", ["top_k 3", "fused", "fused too"])
def test_top_k_draws_from_the_likeliest(told: dict[str, Any], name: str) -> None:
    """Catches a top-k of another request, and tokens that are not drawn at random."""
    below = 0
    for step, token in zip(told[name]["logprobs"], tokens(told, name), strict=True):
        best = sorted((value for value, _ in step.values()), reverse=True)
        value, _ = step[str(token)]
        # By value: with bf16's few digits several tokens may be third.
        assert value >= best[2]
        below += value < best[0]
    assert below


def test_penalties_and_biases_change_tokens(told: dict[str, Any]) -> None:
    """Catches tokens of the prompt or of the output that are not counted."""
    repetition = tokens(told, "repetition")
    assert len({*repetition, *PROMPT}) == len({*PROMPT}) + LENGTH
    presence = tokens(told, "presence")
    assert (
        len({*presence}) > len({*tokens(told, "greedy")}) or len({*presence}) == LENGTH
    )
    assert tokens(told, "bias") == [11] * LENGTH
    greedy = tokens(told, "greedy")
    assert greedy[0] not in tokens(told, "bad words")
    assert greedy[0] not in tokens(told, "min_tokens")[:4]


def test_logprobs_belong_to_the_tokens(told: dict[str, Any]) -> None:
    """Catches logprobs of another request or step."""
    assert tokens(told, "logprobs") == tokens(told, "greedy")
    for step, token in zip(
        told["logprobs"]["logprobs"], tokens(told, "logprobs"), strict=True
    ):
        assert len(step) == 5
        assert step[str(token)] == [max(value for value, _ in step.values()), 1]
        assert sorted(rank for _, rank in step.values()) == [1, 2, 3, 4, 5]
    nothing, *rest = told["prompt_logprobs"]["prompt"]
    assert nothing is None
    for step, token in zip(rest, PROMPT[1:], strict=True):
        assert str(token) in step
        assert max(step.values()) <= 0


def test_a_choice_and_stop_words_are_kept(told: dict[str, Any]) -> None:
    """Catches a grammar's mask on another request's logits."""
    for name in ("choice", "choice alone"):
        assert tokens(told, name)[0] in (7, 20)
        assert told[name]["reason"] == "stop"
    *before, last = tokens(told, "greedy")
    if last not in before:
        assert told["stop"]["reason"] == "stop"
        assert f"w{last}" not in told["stop"]["text"].split()
