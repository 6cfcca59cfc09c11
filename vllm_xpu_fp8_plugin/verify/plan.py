# SPDX-License-Identifier: Apache-2.0
"""What both arms are to compute, made by the first of them.

A plan is a dict that goes through JSON: ``task``, ``page``, ``items`` (texts, pairs of
texts or token ids), ``order`` (of the items in a batch), ``rankings``, ``lengths``
(token ids for the length sweep), ``probes`` (more items, from the built-in data),
``alone`` (indices of items to run alone as well), ``max_tokens``,
``texts_cut`` (how many texts were too long) and, when the reference has run, ``forced``
(token ids to score) and ``starts`` (how many tokens of each are the prompt).
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from vllm_xpu_fp8_plugin.verify import inputs
from vllm_xpu_fp8_plugin.verify.child import CannotRunError

SCORE, EMBED, CLASSIFY, GENERATE = "score", "embed", "classify", "generate"

# The block size of the XPU attention kernels; a multiple of the others'.
PAGE = 64

# Built-in rankings of which the best and the worst document complete a user's data.
_PROBED = 8
# Steps from the last page that is swept to the longest text.
_STEPS = 8

_NEEDED = {
    SCORE: '{"query", "documents"}',
    EMBED: '{"text"} or {"query", "documents"}',
    CLASSIFY: '{"text"}',
    GENERATE: '{"prompt"}',
}

# Text -> token ids; the second argument says whether to add special tokens.
Encode = Callable[[str, bool], list[int]]


def make(
    task: str,
    data: dict[str, Any],
    encode: Encode,
    *,
    longest: int,
    page: int,
    max_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """Return the plan for a task.

    Args:
        task: `SCORE`, `EMBED`, `CLASSIFY` or `GENERATE`.
        data: ``rankings``, ``texts`` and ``prompts``.
        encode: The model's tokenizer.
        longest: The most tokens that an input may have; see `longest_input`.
        page: Tokens a page of the KV cache.
        max_tokens: Tokens to generate for each prompt.
        seed: Fixes the order of the items and the text of the length sweep.

    Raises:
        CannotRunError: The data has nothing for this task.

    """
    texts_cut = 0
    if task != GENERATE:
        data, texts_cut = _fitting(data, encode, longest, pairs=task == SCORE)
    rankings: list[dict[str, Any]] = data["rankings"]
    texts = [t for r in rankings for t in (r["query"], *r["documents"])]
    items: list[Any]
    if task == SCORE:
        items = [[r["query"], d] for r in rankings for d in r["documents"]]
    elif task == GENERATE:
        # At the least a token to start from, at the most what leaves room.
        room = max(1, longest - max_tokens)
        prompts = [encode(p, True) for p in data["prompts"]]
        items = [ids[-room:] or [0] for ids in prompts]
        texts_cut = sum(len(ids) > room for ids in prompts)
    elif task == EMBED:
        items = list(dict.fromkeys([*texts, *data["texts"]]))
    else:
        items = data["texts"] or (texts if data.get("builtin") else [])
    if not items:
        raise CannotRunError(
            f"The model's task is {task!r}, and the data has no line for it. "
            f"Needed: {_NEEDED[task]}."
        )
    page = max(page, PAGE)
    source = items if task == CLASSIFY else [*texts, *data["texts"], *data["prompts"]]
    sweep = lengths(page, longest - (1 if task == GENERATE else 0), seed)
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    return {
        "task": task,
        "page": page,
        "rankings": rankings if task in (SCORE, EMBED) else [],
        "items": items,
        "order": order,
        "lengths": cut(source, encode, sweep, seed),
        "probes": probes(task, encode, longest),
        # The ends of a batch are where an index is wrong by one.
        "alone": sorted({order[i] for i in (0, len(order) // 3, len(order) // 2, -1)}),
        "max_tokens": max_tokens,
        "texts_cut": texts_cut,
    }


def _fitting(
    data: dict[str, Any], encode: Encode, longest: int, *, pairs: bool
) -> tuple[dict[str, Any], int]:
    """Return the data with each text cut at its end such that it fits, and how many.

    Neither arm cuts by itself then, and both get the same.
    """
    count = 0

    def fit(text: str, room: int) -> str:
        nonlocal count
        count += len(encode(text, True)) > room
        while text and (size := len(encode(text, True))) > room:
            text = text[: len(text) * room // size]
        return text

    rankings = []
    for ranking in data["rankings"]:
        query = fit(ranking["query"], longest // 2 if pairs else longest)
        room = longest - len(encode(query, True)) if pairs else longest
        documents = [fit(d, room) for d in ranking["documents"]]
        rankings.append({**ranking, "query": query, "documents": documents})
    texts = [fit(text, longest) for text in data["texts"]]
    return {**data, "rankings": rankings, "texts": texts}, count


def longest_input(task: str, max_model_len: int, tokenizer: Any) -> int:
    """Return the most tokens that an input may have.

    For an encoder the tokenizer's limit counts too: RoBERTa has two positions fewer
    than its config says, which vLLM knows of some such models only.
    """
    if task == GENERATE:
        return max_model_len
    return min(max_model_len, int(tokenizer.model_max_length))


def probes(task: str, encode: Encode, longest: int) -> list[Any]:
    """Return diverse items that show whether answers depend on the input.

    A user's own may all have one answer. Embeddings are compared by direction and
    texts by logprob, which need none.
    """
    if task not in (SCORE, CLASSIFY):
        return []
    own = dataclasses.asdict(inputs.builtin())
    own["rankings"] = own["rankings"][:_PROBED]
    fitting, _ = _fitting(own, encode, longest, pairs=task == SCORE)
    chosen = []
    for ranking in fitting["rankings"]:
        by_grade = sorted(
            zip(ranking["relevance"], ranking["documents"], strict=True),
            key=lambda pair: -pair[0],
        )
        for _, document in (by_grade[0], by_grade[-1]):
            chosen.append([ranking["query"], document] if task == SCORE else document)
    return chosen


def lengths(page: int, longest: int, seed: int) -> list[int]:
    """Return the lengths of the sweep.

    Every length up to a page and one more, since a fault may sit at any remainder;
    multiples of the page and one either side. From there in steps that grow to the
    longest that fits: at each a length of remainder 5, as after the first pages, and
    an odd one that the seed draws.
    """
    around = [m * page + d for m in (1, 2, 3, 4) for d in (-1, 0, 1, 5)]
    wanted = {*range(1, page + 2), *around, longest}
    end = 4 * page + 5
    draw = random.Random(seed)
    ratio = max(1.0, longest / end) ** (1 / _STEPS)
    for step in range(_STEPS):
        low, high = int(end * ratio**step), int(end * ratio ** (step + 1))
        if high - low > 2:
            wanted |= {low // page * page + page + 5, draw.randrange(low + 1, high) | 1}
    return sorted(n for n in wanted if 0 < n <= longest)


def cut(
    texts: list[str], encode: Encode, sizes: list[int], seed: int
) -> list[list[int]]:
    """Return a token sequence of each size, cut from the texts.

    Special tokens stay at the ends where they fit, as the model knows them.
    """
    order = list(texts)
    random.Random(seed).shuffle(order)
    ids = [token for text in order for token in encode(text, False)] or [0]
    body = ids * (1 + 2 * max(sizes, default=0) // len(ids))
    probe, full = encode(order[0], False), encode(order[0], True)
    head = next((i for i, t in enumerate(full) if probe and t == probe[0]), 0)
    prefix, suffix = full[:head], full[head + len(probe) :]
    around = len(prefix) + len(suffix)
    sequences = []
    for i, size in enumerate(sizes):
        # Each from another place: equal beginnings could come from a cache.
        start = i % max(1, len(body) - size)
        if size > around:
            middle = body[start : start + size - around]
            sequences.append([*prefix, *middle, *suffix])
        else:
            sequences.append(body[start : start + size])
    return sequences
