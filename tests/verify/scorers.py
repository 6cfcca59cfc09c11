# SPDX-License-Identifier: Apache-2.0
"""Score models made of real weights: one class of rxnfp's 50 is a scorer of reactions.

No package ships a cross-encoder. Here the documents are reactions, and a ranking's best
are those of the class that the scorer knows.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch

from tests.real_models import CACHE, real_model

# Class of the head -> the first of six reactions of it in reactions.jsonl.
_CLASSES = {19: 0, 41: 6, 28: 12, 33: 18}
_EACH = 6


def scorer(activation: str, label: int = 28) -> str:
    """Return the folder of a scorer.

    Args:
        activation: "sigmoid", vLLM's default for one label, or "raw", the logits as
            ms-marco's cross-encoders give them.
        label: The class whose logit is the score.

    """
    folder = CACHE / f"scorer-{activation}-{label}"
    if folder.exists():
        return str(folder)
    source = Path(real_model("rxnfp"))
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    file = partial / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][label : label + 1].clone()
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    path = partial / "config.json"
    config = json.loads(path.read_text())
    for name in ("id2label", "label2id"):
        config.pop(name, None)
    config["num_labels"] = 1
    if activation == "raw":
        # As transformers' own field for it is read by vLLM too.
        identity = "torch.nn.modules.linear.Identity"
        config["sentence_transformers"] = {"activation_fn": identity}
    path.write_text(json.dumps(config))
    partial.rename(folder)
    return str(folder)


def embedder() -> str:
    """Return the folder of rxnfp without its head, which vLLM takes for embeddings."""
    folder = CACHE / "rxnfp-embedder"
    if folder.exists():
        return str(folder)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(real_model("rxnfp"), partial)
    file = partial / "model.safetensors"
    weights = {
        name.removeprefix("bert."): weight
        for name, weight in safetensors.torch.load_file(file).items()
        if name.startswith("bert.")
    }
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    path = partial / "config.json"
    config = json.loads(path.read_text())
    for name in ("id2label", "label2id"):
        config.pop(name, None)
    path.write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    partial.rename(folder)
    return str(folder)


def rankings(tail: bool = False, label: int = 28) -> dict[str, Any]:
    """Return data of 16 rankings of eight reactions.

    Args:
        tail: Whether six of the eight are of one kind that the scorer does not look
            for, so that all of them are equally irrelevant.
        label: The class that the scorer knows.

    """
    file = Path(__file__).parent / "reactions.jsonl"
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    kinds = {k: texts[i : i + _EACH] for k, i in _CLASSES.items()}
    rng = random.Random(7)
    made = []
    others = [k for k in kinds if k != label]
    for number in range(16):
        if tail:
            irrelevant = kinds[others[number % len(others)]]
            documents = [*rng.sample(kinds[label], 2), *irrelevant]
        else:
            documents = rng.sample(texts, 8)
        rng.shuffle(documents)
        made.append({"query": "C", "documents": documents, "relevance": None})
    return {"rankings": made, "texts": [], "prompts": [], "builtin": False}
