# SPDX-License-Identifier: Apache-2.0
"""Architectures and formats beyond encoders and plain decoders, an engine each.

Each of `model_kinds` in vLLM on the virtual XPU: in one process, on two workers, and
behind ``vllm serve``, against transformers in float32. `make models` runs them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine import run_engine
from tests.model_answers import farthest
from tests.model_kinds import (
    ADAPTERS,
    KINDS,
    PROMPTS,
    Checkpoint,
    Kind,
    flags,
)
from tests.serving.programs import BIN
from tests.serving.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.models]

_TOKENS = 6
_LONGEST = 256


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Checkpoint]:
    """Return what makes each kind's checkpoint once."""
    made: dict[str, Checkpoint] = {}

    def find(name: str) -> Checkpoint:
        if name not in made:
            made[name] = KINDS[name].make(tmp_path_factory.mktemp(name))
        return made[name]

    return find


@pytest.mark.parametrize(
    ("name", "workers"),
    [(name, n) for name, kind in KINDS.items() for n in (1, 2)[: 1 + kind.splits]],
)
def test_kind_agrees_with_transformers(
    name: str, workers: int, checkpoint: Callable[[str], Checkpoint]
) -> None:
    """Catches what `KINDS` says of each, and a worker with the other's part of it."""
    kind, made = KINDS[name], checkpoint(name)
    off = farthest(kind, made, _offline(kind, made, workers))
    print(f"{name}, {workers} workers: {off:.3g}")
    assert off <= kind.allowed


@pytest.mark.parametrize("name", KINDS)
def test_kind_is_served(
    name: str, checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    """Catches a flag that does less than an argument, and an answer of another."""
    kind, made = KINDS[name], checkpoint(name)
    off = farthest(kind, made, _served(kind, made, tmp_path / "log"))
    print(f"{name}, served: {off:.3g}")
    assert off <= kind.allowed


def _offline(kind: Kind, checkpoint: Checkpoint, workers: int) -> list[Any]:
    """Return an engine's answers to `PROMPTS`."""
    options = {
        "model": checkpoint.folder,
        "max_model_len": _LONGEST,
        "enforce_eager": True,
        **kind.options,
    }
    request: dict[str, Any] = {kind.work: PROMPTS}
    if kind.work == "prompts":
        options["skip_tokenizer_init"] = True
        request["sampling"] = {"max_tokens": _TOKENS}
    else:
        options["runner"] = "pooling"
    if workers > 1:
        options["tensor_parallel_size"] = workers
        options["distributed_executor_backend"] = "mp"
    if checkpoint.adapters:
        request["adapters"] = [checkpoint.adapters[i] for i in ADAPTERS]
    result = run_engine(llm=options, fork=True, **request)
    assert result["error"] is None, result["log"][-4000:]
    answers: list[Any] = result["out"]
    return answers


def _served(kind: Kind, checkpoint: Checkpoint, log: Path) -> list[Any]:
    """Return a server's answers to `PROMPTS`, in the form of `_offline`'s."""
    command = [str(BIN / "vllm"), "serve", checkpoint.folder]
    command += ["--served-model-name", "base", *flags(kind, max_model_len=_LONGEST)]
    names = [f"adapter{i}" for i in range(len(checkpoint.adapters))]
    if names:
        pairs = zip(names, checkpoint.adapters, strict=True)
        command += ["--lora-modules", *(f"{name}={path}" for name, path in pairs)]
    models = [names[i] for i in ADAPTERS] if names else ["base"] * len(PROMPTS)
    with (
        Server(*command, log=log, VLLM_XPU_FP8_PLUGIN="emulate") as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        server.ready()
        ask = {"prompts": _completion, "embed": _vector, "classify": _classes}
        return [
            ask[kind.work](client, model, prompt)
            for model, prompt in zip(models, PROMPTS, strict=True)
        ]


def _completion(client: httpx.Client, model: str, prompt: list[int]) -> Any:
    choice = _post(
        client,
        "/v1/completions",
        model=model,
        prompt=prompt,
        max_tokens=_TOKENS,
        temperature=0,
        ignore_eos=True,
        logprobs=1,
        return_token_ids=True,
    )["choices"][0]
    logprobs = choice["logprobs"]["token_logprobs"]
    return {"tokens": choice["token_ids"], "logprobs": logprobs}


def _vector(client: httpx.Client, model: str, prompt: list[int]) -> Any:
    return _post(client, "/v1/embeddings", model=model, input=prompt)["data"][0][
        "embedding"
    ]


def _classes(client: httpx.Client, model: str, prompt: list[int]) -> Any:
    return _post(client, "/classify", model=model, input=prompt)["data"][0]["probs"]


def _post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found
