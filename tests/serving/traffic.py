# SPDX-License-Identifier: Apache-2.0
"""Requests of every pooling route, and answers as numbers that can be compared."""

import asyncio
import json
import random
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

# Takes a tenth of httpx's time for a request, which the server would lack.
from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.serving.programs import ROOT

MODEL = "reranker"
# Largest difference of a number from that of the same request sent alone. Each row of a
# product is by itself, but how many rows a batch has decides in which order their
# float32 sums are made: up to 32 rows have a product of their own on the virtual XPU
# (reference/weights.py), and the last bits of a library's depend on their number as
# well. Some sums then round to the next fp16 number.
TOLERANCE = 0.001
# Seconds that a request may take, those of a queue included.
TIMEOUT = 120


class Request(NamedTuple):
    """A request that every client can send.

    Attributes:
        path: The route.
        body: What is sent as JSON.

    """

    path: str
    body: dict[str, Any]


def passages() -> list[tuple[str, list[str]]]:
    """Return the examples' queries and their documents."""
    lines = (ROOT / "examples" / "passages.jsonl").read_text().splitlines()
    return [(o["query"], o["documents"]) for o in map(json.loads, lines)]


def distinct_requests(count: int, seed: int = 0) -> list[Request]:
    """Return seeded requests of short texts, no two of them with the same texts."""
    chosen = random.Random(seed)
    pairs = passages()
    texts = [text for query, documents in pairs for text in (query, *documents)]
    found: dict[str, Request] = {}
    while len(found) < count:
        query, documents = chosen.choice(pairs)
        several = chosen.sample(texts, 3)
        path, body = chosen.choice(
            [
                ("/v2/rerank", {"query": query, "documents": several}),
                ("/score", {"text_1": query, "text_2": [*several, documents[0]]}),
                ("/v1/embeddings", {"input": several[:2]}),
                ("/pooling", {"input": " ".join(several[:2]), "task": "embed"}),
            ]
        )
        found[json.dumps([path, body])] = Request(path, {"model": MODEL, **body})
    return list(found.values())


def numbers(answer: dict[str, Any]) -> list[float]:
    """Return an answer's scores, vectors or probabilities, in the order asked."""
    if "results" in answer:
        results = sorted(answer["results"], key=itemgetter("index"))
        return [r["relevance_score"] for r in results]
    values: list[float] = []
    for item in sorted(answer["data"], key=itemgetter("index")):
        key = next(k for k in ("score", "embedding", "probs", "data") if k in item)
        value = item[key]
        values += [value] if isinstance(value, float) else value
    return values


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the largest difference of two answers, infinite if they are no match."""
    if len(a) != len(b):
        return float("inf")
    # NaN compares as false, which must not pass for a small difference.
    differences = (abs(x - y) for x, y in zip(a, b, strict=True))
    return max(
        (d if d < float("inf") else float("inf") for d in differences), default=0.0
    )


def separation(requests: Sequence[Request], answers: Sequence[list[float]]) -> float:
    """Return the smallest difference of the answers to two requests of one route.

    An answer to another's request that is no nearer than this cannot go unseen.
    """
    return min(
        difference(answers[i], answers[j])
        for i in range(len(requests))
        for j in range(i)
        if requests[i].path == requests[j].path
    )


async def send(
    url: str,
    requests: Iterable[Request],
    at_a_time: int,
    done: Callable[[int, list[float] | str], None],
) -> None:
    """Send requests, so many at a time, and hand each answer on with its number.

    An answer that is none, whatever the reason, is handed on as a message.
    """
    waiting = iter(enumerate(requests))

    async def ask(session: ClientSession, request: Request) -> list[float] | str:
        try:
            async with session.post(request.path, json=request.body) as response:
                if response.status != 200:
                    return f"{response.status} {(await response.text())[:200]}"
                return numbers(await response.json())
        except (ClientError, asyncio.TimeoutError, ValueError, LookupError) as e:
            return f"{type(e).__name__} {e}"

    async def work(session: ClientSession) -> None:
        for index, request in waiting:
            done(index, await ask(session, request))

    timeout = ClientTimeout(TIMEOUT)
    async with ClientSession(url, timeout=timeout) as session:
        await asyncio.gather(*(work(session) for _ in range(at_a_time)))


def alone(url: str, requests: Sequence[Request]) -> list[list[float]]:
    """Return the answers to requests that are sent one after another.

    Raises:
        RuntimeError: A request failed.

    """
    answers: list[list[float]] = [[] for _ in requests]

    def done(index: int, answer: list[float] | str) -> None:
        if isinstance(answer, str):
            raise RuntimeError(f"{requests[index]} failed: {answer}")
        answers[index] = answer

    asyncio.run(send(url, requests, 1, done))
    return answers
