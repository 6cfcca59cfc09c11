# SPDX-License-Identifier: Apache-2.0
"""The data that both arms get: JSONL, or the set that comes with the package."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

SHAPES = (
    '{"query": "...", "documents": ["...", ...]} with an optional '
    '"relevance": [number, ...], {"text": "..."} or {"prompt": "..."}'
)


@dataclass(frozen=True)
class Ranking:
    """A query and the documents to rank for it.

    Attributes:
        query: What is looked for.
        documents: At least two.
        relevance: A grade for each document, 0 for irrelevant, or None.

    """

    query: str
    documents: list[str]
    relevance: list[float] | None = None


@dataclass
class Data:
    """What a file holds, in its order."""

    rankings: list[Ranking] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)


class BadDataError(ValueError):
    """A file that cannot be used; the message has a line for each reason."""


def read(path: Path, *, skip_bad: bool = False) -> tuple[Data, list[str]]:
    """Read a JSONL file; empty lines are left out.

    Args:
        path: The file, in UTF-8.
        skip_bad: Whether to go on without the lines that are bad.

    Returns:
        The data, and a message ``PATH:NUMBER: reason`` for each bad line.

    Raises:
        BadDataError: The file cannot be read, has no usable line, or has bad lines
            and `skip_bad` is not set.

    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as e:
        raise BadDataError(f"cannot read {path}: {e.strerror}") from None
    data = Data()
    bad = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            _add(line, data)
        except ValueError as e:
            bad.append(f"{path}:{number}: {e}")
    if bad and not skip_bad:
        raise BadDataError(
            "\n".join([*bad, "Nothing was run. Mend these lines, or give --skip-bad."])
        )
    if not (data.rankings or data.texts or data.prompts):
        raise BadDataError("\n".join([*bad, f"{path} has no line with {SHAPES}."]))
    return data, bad


def builtin() -> Data:
    """Return the package's own set: 32 rankings of 8 passages, and 24 prompts."""
    data = Data()
    folder = resources.files(__package__) / "data"
    for name in ("rankings.jsonl", "prompts.jsonl"):
        for line in (folder / name).read_bytes().splitlines():
            _add(line, data)
    return data


def _add(line: bytes, data: Data) -> None:
    """Add the object of a line to `data`.

    Raises:
        ValueError: The line is bad; the message says why.

    """
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8 (byte {e.start})") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"not JSON ({e.msg}, column {e.colno})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"got a {type(value).__name__}, an object is needed: {SHAPES}")
    found = [key for key in ("query", "text", "prompt") if key in value]
    if len(found) != 1:
        got = ", ".join(sorted(value)) or "no key"
        raise ValueError(f"got {got}, exactly one of these is needed: {SHAPES}")
    kind = found[0]
    optional = {"documents", "relevance"} if kind == "query" else set()
    if unknown := sorted(set(value) - {kind} - optional):
        raise ValueError(f"unknown key {', '.join(unknown)} beside {kind!r}")
    if kind == "text":
        data.texts.append(_text(value, "text"))
    elif kind == "prompt":
        data.prompts.append(_text(value, "prompt"))
    else:
        data.rankings.append(_ranking(value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _text(value: dict[str, Any], key: str) -> str:
    text = value[key]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{key!r} must be a text that is not empty, got {text!r:.40}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{key!r} holds half of a surrogate pair") from None
    return text


def _list(value: dict[str, Any], key: str, check: Callable[[Any], bool]) -> list[Any]:
    items = value.get(key)
    if not isinstance(items, list) or not all(check(item) for item in items):
        raise ValueError(f"{key!r} is missing or not a list as in {SHAPES}")
    return items


def _ranking(value: dict[str, Any]) -> Ranking:
    query = _text(value, "query")
    documents = _list(value, "documents", lambda x: isinstance(x, str))
    if len(documents) < 2:
        raise ValueError(f"'documents' has {len(documents)}, a ranking needs two")
    for document in documents:
        _text({"documents": document}, "documents")
    relevance = None
    if value.get("relevance") is not None:
        relevance = _list(value, "relevance", _is_grade)
        if len(relevance) != len(documents):
            raise ValueError(
                f"{len(relevance)} relevance grades for {len(documents)} documents"
            )
    return Ranking(query, documents, relevance)


def _is_grade(value: Any) -> bool:
    # An integer may be greater than any float.
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= 100
    )
