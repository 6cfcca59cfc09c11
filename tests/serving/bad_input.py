# SPDX-License-Identifier: Apache-2.0
"""Requests that no client should send, and how servers answer them."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import httpx
import hypothesis
import schemathesis
from hypothesis import strategies as st

from tests.serving.traffic import MODEL, difference, numbers

TEXTS = {
    "empty": "",
    "spaces": "  \t\n",
    "nul": "a\0b",
    "lone surrogate": "a\ud800b",
    "right to left": "שלום \u202eعالم\u202c",  # noqa: RUF001
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 20,
    "unknown tokens": "\ue000\ue001 \ue002" * 20,
    "combining marks": "e" + "\u0301" * 300,
    "controls": "".join(map(chr, range(1, 32))),
    "byte order mark": "\ufeffword",
    "over-long": "word " * 600,
    "one word of 5,000 letters": "x" * 5000,
}
_MEGABYTE = "word " * 200_000

# Name -> route, and what is sent: a body without its model, or bytes.
_SHAPES: dict[str, tuple[str, dict[str, Any] | bytes]] = {
    "no JSON": ("/score", b"{"),
    "nothing": ("/pooling", b""),
    "no UTF-8": ("/v1/embeddings", b'{"input": "\xff\xfe"}'),
    "JSON, no object": ("/v2/rerank", b"[1]"),
    "deep JSON": ("/pooling", b"[" * 5000 + b"]" * 5000),
    "a number that is none": ("/v1/embeddings", b'{"input": [NaN]}'),
    "no documents": ("/v2/rerank", {"query": "q", "documents": []}),
    "documents left out": ("/v2/rerank", {"query": "q"}),
    "a document that is null": ("/v2/rerank", {"query": "q", "documents": [None]}),
    "top_n below 0": ("/v2/rerank", {"query": "q", "documents": ["a"], "top_n": -1}),
    "top_n above all": (
        "/v2/rerank",
        {"query": "q", "documents": ["a"], "top_n": 1 << 40},
    ),
    "another model": ("/v2/rerank", {"query": "q", "documents": ["a"], "model": "x"}),
    "lists that do not match": ("/score", {"text_1": ["a", "b"], "text_2": ["c"] * 3}),
    "text that is a number": ("/score", {"text_1": 1, "text_2": "a"}),
    "no tokens": ("/v1/embeddings", {"input": []}),
    "token out of vocabulary": ("/v1/embeddings", {"input": [1 << 30]}),
    "token just out of it": ("/pooling", {"input": [30522], "task": "embed"}),
    "token below 0": ("/v1/embeddings", {"input": [-1]}),
    "token beyond 64 bits": ("/v1/embeddings", {"input": [1 << 70]}),
    "too many tokens": ("/v1/embeddings", {"input": [101] * 600}),
    "truncated below 0": (
        "/v1/embeddings",
        {"input": "a", "truncate_prompt_tokens": -7},
    ),
    "truncated to 0": ("/v1/embeddings", {"input": "a", "truncate_prompt_tokens": 0}),
    "dimensions": ("/v1/embeddings", {"input": "a", "dimensions": 7}),
    "dimensions below 0": ("/v1/embeddings", {"input": "a", "dimensions": -1}),
    "encoding": ("/v1/embeddings", {"input": "a", "encoding_format": "x"}),
    "task of another model": ("/pooling", {"input": "a", "task": "classify"}),
    "task that is none": ("/pooling", {"input": "a", "task": "x"}),
    "vectors of tokens": ("/pooling", {"input": "a b", "task": "token_embed"}),
    "route of another model": ("/classify", {"input": "a"}),
    "a megabyte to embed": ("/v1/embeddings", {"input": _MEGABYTE}),
    "a megabyte to rank": ("/v2/rerank", {"query": "q", "documents": [_MEGABYTE]}),
}
ROUTES = ("/v2/rerank", "/score", "/v1/embeddings", "/pooling")
_TIMEOUT = 60


class Bad(NamedTuple):
    """A request: a name for it, its route and what is sent."""

    name: str
    path: str
    content: bytes


class Answer(NamedTuple):
    """A status, 0 where there was no answer, and the numbers, if there are any."""

    status: int
    numbers: list[float] | None


def _body(path: str, text: str) -> dict[str, Any]:
    return {
        "/v2/rerank": {"query": text, "documents": ["a", text]},
        "/score": {"text_1": text, "text_2": ["a", text]},
        "/v1/embeddings": {"input": ["a", text]},
        "/pooling": {"input": text, "task": "embed"},
    }[path]


def _bad(name: str, path: str, body: dict[str, Any] | bytes) -> Bad:
    if isinstance(body, bytes):
        return Bad(name, path, body)
    return Bad(name, path, json.dumps({"model": MODEL, **body}).encode())


def listed() -> Iterator[Bad]:
    """Yield the requests that are written down here."""
    for name, text in TEXTS.items():
        for path in ROUTES:
            yield _bad(f"{name}, {path}", path, _body(path, text))
    for name, (path, body) in _SHAPES.items():
        yield _bad(name, path, body)


def texts(count: int) -> list[Bad]:
    """Return requests of made-up texts, surrogates among them, always the same."""
    found: list[Bad] = []

    @_always_the_same(count)
    @hypothesis.given(
        st.sampled_from(ROUTES),
        st.text(st.characters() | st.characters(categories=("Cs", "Cc", "Co", "Mn"))),
    )
    def collect(path: str, text: str) -> None:
        found.append(_bad("a made-up text", path, _body(path, text)))

    collect()
    return found


def by_schema(url: str, count: int) -> list[Bad]:
    """Return requests by a server's own OpenAPI document, and some that break it.

    Args:
        url: The server's.
        count: How many for each route, and as many that break it.

    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    return [
        Bad(f"{mode.value} by schema", path, content)
        for path in ROUTES
        for mode in schemathesis.GenerationMode
        for content in _generated(
            schema[path]["POST"].as_strategy(generation_mode=mode), count
        )
    ]


def _generated(cases: st.SearchStrategy[Any], count: int) -> list[bytes]:
    found: list[bytes] = []

    @_always_the_same(count)
    @hypothesis.given(cases)
    def collect(case: Any) -> None:
        body = case.body
        found.append(body if isinstance(body, bytes) else _dumped(body))

    collect()
    return found


def _dumped(body: Any) -> bytes:
    """Return JSON; what stands for no body at all is none."""
    try:
        return json.dumps(body).encode()
    except TypeError:
        return b""


def _always_the_same(count: int) -> Callable[[Any], Any]:
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def answer(client: httpx.Client, bad: Bad) -> Answer:
    """Send a request and return what came back."""
    json_type = {"Content-Type": "application/json"}
    try:
        response = client.post(bad.path, content=bad.content, headers=json_type)
    except httpx.HTTPError:
        return Answer(0, None)
    if response.status_code != 200:
        return Answer(response.status_code, None)
    try:
        return Answer(200, list(flat(numbers(response.json()))))
    except (ValueError, LookupError, TypeError):
        # A form that is not compared, such as base64.
        return Answer(200, None)


def flat(values: Any) -> Iterator[float]:
    """Yield the numbers of lists of lists."""
    for value in values:
        if isinstance(value, list):
            yield from flat(value)
        else:
            yield float(value)


def compare(url: str, peer: str, requests: Iterable[Bad]) -> dict[str, Any]:
    """Send requests to two servers and return how their answers differ.

    Args:
        url: A server with the plugin.
        peer: One without.
        requests: What both get.

    """
    statuses: Counter[str] = Counter()
    unlike: list[str] = []
    largest = 0.0
    ours, theirs = (httpx.Client(base_url=u, timeout=_TIMEOUT) for u in (url, peer))
    with ours, theirs:
        for bad in requests:
            a, b = answer(ours, bad), answer(theirs, bad)
            statuses[str(a.status)] += 1
            if a.status != b.status:
                unlike.append(f"{bad.name}: {a.status}, without the plugin {b.status}")
            elif a.numbers and b.numbers:
                largest = max(largest, difference(a.numbers, b.numbers))
    return {
        "requests": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "unlike": unlike,
        "largest_difference": largest,
    }


def statuses(url: str) -> dict[str, int]:
    """Return a server's status for each of the listed requests."""
    with httpx.Client(base_url=url, timeout=_TIMEOUT) as client:
        return {bad.name: answer(client, bad).status for bad in listed()}
