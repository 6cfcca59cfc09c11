# SPDX-License-Identifier: Apache-2.0
"""As `changes`, for generated text."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.verify.changes import LENGTHS, Change, Result, Where, identical

Rows = list[dict[str, Any]]


def _sweep(where: Where, nats: float) -> Change:
    """Return a change by which the first token is less likely by so many nats."""

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        sizes = [len(ids) for ids in arm["plan"]["lengths"]]
        for n, old, row in zip(
            sizes, reference["lengths"], arm["lengths"], strict=True
        ):
            if where(n, max(sizes)) and old["top"]:
                token = max(old["top"][0], key=lambda pair: pair[1])[0]
                for pair in row["top"][0]:
                    pair[1] += -nats if pair[0] == token else 0.0

    return apply


def _sweep_rows(where: Where, change: Callable[[dict[str, Any]], None]) -> Change:
    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        sizes = [len(ids) for ids in arm["plan"]["lengths"]]
        for n, row in zip(sizes, arm["lengths"], strict=True):
            if where(n, max(sizes)):
                change(row)

    return apply


def _empty(row: dict[str, Any]) -> None:
    row.update(tokens=[], logprobs=[], top=[], text="")


def _nan(row: dict[str, Any]) -> None:
    row["logprobs"] = [math.nan] * len(row["logprobs"])
    row["top"] = [[[t, math.nan] for t, _ in step] for step in row["top"]]


def _texts(
    change: Callable[[list[int]], list[int]], which: Callable[[int], bool]
) -> Change:
    """Return a change of the tokens of some prompts, with the logprobs as they are."""

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        for i, (row, own) in enumerate(zip(arm["items"], arm["own"], strict=True)):
            if which(i):
                row["tokens"] = change(row["tokens"])
                for values in (row["logprobs"], row["top"], own):
                    del values[len(row["tokens"]) :]

    return apply


def _garbage(start: float, which: Callable[[int], bool]) -> Change:
    """Return a change by which sampling takes tokens that the model finds unlikely.

    From a share of the text on; of those logprobs one is as low as the other.
    """

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        for i, (row, own) in enumerate(zip(arm["items"], arm["own"], strict=True)):
            count = len(row["tokens"])
            for step in range(int(start * count), count if which(i) else 0):
                row["tokens"][step] = (7919 * (step + 1)) % 40_000
                row["logprobs"][step] = own[step] = -12.0

    return apply


def _forced(
    change: Callable[[np.ndarray, int, np.random.Generator], np.ndarray],
) -> Change:
    """Return a change of the logprobs of the reference's text."""

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        arm["forced"] = [
            np.minimum(0, change(np.asarray(row, dtype=float), n - 1, rng)).tolist()
            for row, n in zip(arm["forced"], arm["plan"]["starts"], strict=True)
        ]

    return apply


def _noise(nats: float) -> Change:
    return _forced(lambda x, start, rng: x + nats * rng.normal(size=x.shape))


def _lower(nats: float) -> Change:
    return _forced(lambda x, start, rng: x - nats)


def _position(offset: int, nats: float) -> Change:
    """Return a change of one generated position of every prompt."""

    def change(x: np.ndarray, start: int, rng: np.random.Generator) -> np.ndarray:
        x[start + offset : start + offset + 1] -= nats
        return x

    return _forced(change)


def _gap(nats: float, every: int) -> Change:
    """Return a change by which decoding is off at every so-manieth step."""

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        for row in arm["items"]:
            for i in range(every - 1, len(row["logprobs"]), every):
                row["logprobs"][i] -= nats
                for pair in row["top"][i]:
                    pair[1] -= nats

    return apply


def _alone(step: int, token: int) -> Change:
    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        arm["alone"][0]["tokens"][step] = token

    return apply


def _spoilt(name: str, value: float) -> Change:
    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        row = arm[name][0]
        (row if isinstance(row, list) else row["logprobs"])[-1] = value

    return apply


def _swapped(reference: Result, arm: Result, rng: np.random.Generator) -> None:
    """Give each prompt the text of the next."""
    for name in ("items", "own"):
        arm[name] = [*arm[name][1:], arm[name][0]]


def _each(i: int) -> bool:
    return True


def _one(i: int) -> bool:
    return i == 0


_ENDS: dict[str, Callable[[list[int]], list[int]]] = {
    "each token twice": lambda t: [x for x in t[: len(t) // 2] for _ in "12"],
    "one token": lambda t: [t[0]] * len(t),
    "no token": lambda t: [],
}

GENERATE: dict[str, Change] = {
    **{
        f"off, {where}, {x:g} nats": _sweep(LENGTHS[where], x)
        for where in LENGTHS
        for x in (0.5, 1, 3, 5)
    },
    **{
        f"{what}, {where}, all of them": _sweep_rows(LENGTHS[where], change)
        for where in LENGTHS
        for what, change in (("empty answers", _empty), ("NaN", _nan))
    },
    "empty answers, the whole sweep, all of them": _sweep_rows(
        lambda n, longest: True, _empty
    ),
    **{f"text, every prompt, {x}": _texts(_ENDS[x], _each) for x in _ENDS},
    **{f"text, one prompt, {x}": _texts(_ENDS[x], _one) for x in _ENDS},
    **{
        f"text, {place}, garbage from {start:g} of it on": _garbage(start, which)
        for place, which in (("every prompt", _each), ("one prompt", _one))
        for start in (0, 0.5)
    },
    **{f"noise, everywhere, {x:g} nats": _noise(x) for x in (0.1, 0.2, 0.5, 1, 2)},
    **{f"less likely, everywhere, {x:g} nats": _lower(x) for x in (0.05, 0.2, 0.5, 2)},
    **{
        f"less likely, one position, {x:g} nats": _position(3, x)
        for x in (0.5, 1, 2, 5)
    },
    **{
        f"decoding off, each {n}. step, {x:g} nats": _gap(x, n)
        for n in (1, 8)
        for x in (0.1, 0.2, 0.5, 2)
    },
    "batch, one prompt, another token": _alone(2, 39_999),
    "swapped texts, every prompt, all of it": _swapped,
    **{
        f"{what}, {place}, one value": _spoilt(name, value)
        for place, name in (("text", "items"), ("scored", "forced"), ("read", "own"))
        for what, value in (("NaN", math.nan), ("infinity", -math.inf))
    },
    "identical arms, everywhere, bit by bit": identical,
}
