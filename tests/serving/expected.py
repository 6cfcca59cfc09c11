# SPDX-License-Identifier: Apache-2.0
"""What the models give in float32 by transformers, which shares no code with vLLM."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

# FP8 weights against float32: of a cosine or a probability.
TOLERANCE = 0.02


def vectors(model: str, texts: Sequence[str]) -> Tensor:
    """Return the normalised mean of the last layer, [texts, hidden_size]."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = [
            network(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0]
            for text in texts
        ]
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def scores(model: str, query: str, documents: Sequence[str]) -> list[float]:
    """Return the cosine of the query with each document."""
    query_vector, *others = vectors(model, [query, *documents])
    return [float(query_vector @ other) for other in others]


def probabilities(model: str, texts: Sequence[str]) -> list[list[float]]:
    """Return a classifier's probabilities for each text."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(model).float().eval()
    with torch.inference_mode():
        return [
            network(tokenizer(text, return_tensors="pt").input_ids)
            .logits.softmax(1)[0]
            .tolist()
            for text in texts
        ]
