# SPDX-License-Identifier: Apache-2.0
"""How far a kind of model's answers are from transformers'."""

from collections.abc import Callable
from typing import Any

import torch

from tests.model_kinds import ADAPTERS, PROMPTS, Checkpoint, Kind, loaded


def farthest(kind: Kind, checkpoint: Checkpoint, answers: list[Any]) -> float:
    """Return how far answers to `PROMPTS` are from transformers', as `allowed` is.

    Infinite where one is nearer to what another adapter gives.
    """
    model = kind.reference(checkpoint)
    if kind.work == "embed":
        return max(map(_from_vector(model), PROMPTS, answers))
    if kind.work == "classify":
        return max(map(_from_classes(model), PROMPTS, answers))
    if not checkpoint.adapters:
        return max(drift(model, *pair) for pair in zip(PROMPTS, answers, strict=True))
    import peft

    models = [
        peft.PeftModel.from_pretrained(loaded(checkpoint), folder)
        for folder in checkpoint.adapters
    ]
    found = []
    for which, *pair in zip(ADAPTERS, PROMPTS, answers, strict=True):
        own, other = (drift(models[i], *pair) for i in (which, 1 - which))
        found.append(own if other > 2 * own else torch.inf)
    return max(found)


def drift(model: Any, prompt: list[int], done: Any) -> float:
    """Return how far the logprobs of what was chosen are from the model's, in nats."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + done["tokens"]])).logits[0]
    reference = logits[len(prompt) - 1 : -1].log_softmax(-1)
    chosen = reference.gather(1, torch.tensor(done["tokens"])[:, None])[:, 0]
    off = (torch.tensor(done["logprobs"]) - chosen).abs().max()
    return float(off.nan_to_num(nan=torch.inf))


def _from_vector(encode: Any) -> Callable[[list[int], list[float]], float]:
    def off(prompt: list[int], vector: list[float]) -> float:
        with torch.no_grad():
            expected = torch.nn.functional.normalize(encode(prompt), dim=0)
        found = 1 - torch.dot(torch.tensor(vector), expected)
        return float(found.nan_to_num(nan=torch.inf))

    return off


def _from_classes(model: Any) -> Callable[[list[int], list[float]], float]:
    def off(prompt: list[int], probabilities: list[float]) -> float:
        with torch.no_grad():
            expected = model(torch.tensor([prompt])).logits[0].softmax(-1)
        found = (torch.tensor(probabilities) - expected).abs().max()
        return float(found.nan_to_num(nan=torch.inf))

    return off
