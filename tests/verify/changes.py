# SPDX-License-Identifier: Apache-2.0
"""Faults put into a sound arm's answers, where an engine would give no other.

A change gets the reference's result, a copy of the sound candidate's, which it spoils,
and a random generator. Its name is "kind, place, strength", as in `engine_faults`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from vllm_xpu_fp8_plugin.verify.spread import (
    LOG_ODDS,
    LOG_PROBABILITIES,
    space,
    spread,
    transform,
)

Result = dict[str, Any]

Change = Callable[[Result, Result, np.random.Generator], None]

Where = Callable[[int, int], bool]

PARTS = ("items", "lengths", "probes", "alone")

# Lengths at which a kernel goes wrong; the second argument is the longest.
LENGTHS: dict[str, Where] = {
    "lengths from 191 on": lambda n, longest: n >= 191,
    "lengths from 257 on": lambda n, longest: n >= 257,
    "length % 64 == 5": lambda n, longest: n % 64 == 5,
    "length 128": lambda n, longest: n == 128,
    "the longest": lambda n, longest: n == longest,
}


class Logits:
    """The answers of a pooling arm in the space in which errors are made."""

    def __init__(self, reference: Result, arm: Result) -> None:
        given = [np.asarray(reference[x], dtype=float) for x in PARTS]
        everything = np.concatenate([x.reshape(-1, self._width(arm)) for x in given])
        self._arm, self.space = arm, space(everything)
        self.unit = spread(transform(everything, self.space))
        self.parts = {
            x: transform(
                np.asarray(arm[x], dtype=float).reshape(-1, self._width(arm)),
                self.space,
            )
            for x in PARTS
        }

    @staticmethod
    def _width(arm: Result) -> int:
        return len(arm["items"][0])

    def write(self) -> None:
        for name, values in self.parts.items():
            self._arm[name] = self._answers(values).tolist()

    def _answers(self, values: Any) -> Any:
        if self.space.name == LOG_ODDS:
            return 1 / (1 + np.exp(-np.clip(values, -700, 700)))
        if self.space.name == LOG_PROBABILITIES:
            e = np.exp(values - values.max(axis=1, keepdims=True, initial=-1e300))
            return e / e.sum(axis=1, keepdims=True)
        return values


def _of_all(change: Callable[[Any, float, np.random.Generator], Any]) -> Change:
    """Return a change of every answer: of the values, their spread, and noise."""

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        logits = Logits(reference, arm)
        for name in ("items", "lengths", "probes"):
            logits.parts[name] = change(logits.parts[name], logits.unit, rng)
        logits.parts["alone"] = logits.parts["items"][arm["plan"]["alone"]]
        logits.write()

    return apply


def _noise(strength: float) -> Change:
    return _of_all(lambda x, unit, rng: x + strength * unit * rng.normal(size=x.shape))


def _scale(strength: float) -> Change:
    return _of_all(lambda x, unit, rng: x * strength)


def _channel(strength: float) -> Change:
    def change(x: Any, unit: float, rng: np.random.Generator) -> Any:
        return np.concatenate([x[:, :1] * strength, x[:, 1:]], axis=1)

    return _of_all(change)


def _constant(left: float) -> Change:
    def change(x: Any, unit: float, rng: np.random.Generator) -> Any:
        middle = np.full_like(x, x.mean() if len(x) else 0) + 1e-5 * rng.normal(
            size=x.shape
        )
        return middle + left * (x - middle)

    return _of_all(change)


def at_lengths(where: Where, strength: float | str) -> Change:
    """Return a change of the sweep: turned answers, or noise of so many spreads."""

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        sizes = [len(ids) for ids in arm["plan"]["lengths"]]
        rows = [i for i, n in enumerate(sizes) if where(n, max(sizes))]
        if strength in ("NaN", "infinity"):
            for i in rows:
                arm["lengths"][i] = [float(strength[:3])] * len(arm["lengths"][i])
            return
        logits = Logits(reference, arm)
        x = logits.parts["lengths"]
        if strength == "turned":
            x[rows] = _turned(x[rows])
        elif strength == "zeros":
            x[rows] = 0
        else:
            sign = np.where(rng.normal(size=x[rows].shape) > 0, 1, -1)
            x[rows] += float(strength) * logits.unit * sign
        logits.write()

    return apply


def _turned(x: Any) -> Any:
    """Give the last label the first one's logit and the other way round."""
    if x.shape[1] == 1:
        return -x
    order = np.argsort(x, axis=1)
    turned = np.empty_like(x)
    np.put_along_axis(turned, order, np.take_along_axis(x, order[:, ::-1], 1), 1)
    return turned


def _rows_changed(which: Callable[[Result, int], list[int]], what: str) -> Change:
    """Return a change of some items: garbage, zeros, NaN, another item's answer."""

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        rows = which(arm["plan"], len(arm["items"]))
        before = [list(x) for x in arm["items"]]
        for i in rows:
            if what == "another's":
                arm["items"][i] = before[(i + 1) % len(before)]
            elif what in ("NaN", "infinity"):
                arm["items"][i] = [float(what[:3])] * len(before[i])
            elif what == "zeros":
                arm["items"][i] = [0.0] * len(before[i])
            else:
                size = np.abs(before[i]).max()
                arm["items"][i] = (size * rng.normal(size=len(before[i]))).tolist()

    return apply


def _first_items(work: Result, count: int) -> list[int]:
    return [work["order"][0]]


def _each_8th(work: Result, count: int) -> list[int]:
    return work["order"][::8]


def _every_item(work: Result, count: int) -> list[int]:
    return list(range(count))


def _swapped(pairs: Callable[[int, Any], list[tuple[int, int]]], which: str) -> Change:
    """Return a change that swaps documents of one ranking, or of each."""

    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        start = 0
        old = np.asarray(reference["items"], dtype=float)
        for number, ranking in enumerate(arm["plan"]["rankings"]):
            size = len(ranking["documents"])
            order = np.argsort(-old[start : start + size, 0])
            for a, b in pairs(size, order):
                i, j = start + a, start + b
                items = arm["items"]
                items[i], items[j] = items[j], items[i]
            start += size
            if which == "one ranking" and number == 0:
                return

    return apply


def _ends(size: int, order: Any) -> list[tuple[int, int]]:
    return [(int(order[0]), int(order[-1]))]


def _reversed(size: int, order: Any) -> list[tuple[int, int]]:
    return [(int(order[i]), int(order[-1 - i])) for i in range(size // 2)]


def _saturate(reference: Result, arm: Result, rng: np.random.Generator) -> None:
    for row in arm["items"][::3]:
        row[:] = [0.5 for _ in row]


def identical(reference: Result, arm: Result, rng: np.random.Generator) -> None:
    for name in ("items", "lengths", "probes", "alone", "own", "forced"):
        if name in reference:
            arm[name] = reference[name]


def _other_batch(strength: float) -> Change:
    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        logits = Logits(reference, arm)
        # Of one logit: a softmax does not see what all have in common.
        logits.parts["alone"][0, 0] += strength * logits.unit
        logits.write()

    return apply


ITEMS: dict[str, Change] = {
    f"{what}, {place}, all of it": _rows_changed(which, what)
    for place, which in (
        ("batch position, first", _first_items),
        ("batch position, each 8th", _each_8th),
        ("items, all", _every_item),
    )
    for what in ("NaN", "infinity", "zeros", "garbage", "another's")
}

_SCORES: dict[str, Change] = {
    **{f"noise, everywhere, {x:g} spreads": _noise(x) for x in (0.1, 0.2, 0.5, 1, 2)},
    **{f"scale, head, x{x:g}": _scale(x) for x in (1.02, 1.1, 2, 448, 1 / 448, -1)},
    "ignored input, everywhere, all of it": _constant(0.0),
    "ignored input, everywhere, nine tenths": _constant(0.1),
    "ignored input, everywhere, half": _constant(0.5),
    **{
        f"off, {where}, {x:g} spreads": at_lengths(LENGTHS[where], x)
        for where in LENGTHS
        for x in (0.5, 1, 3)
    },
    **{
        f"{what}, {where}, all of them": at_lengths(LENGTHS[where], what)
        for where in LENGTHS
        for what in ("NaN", "turned")
    },
    "infinity, length 128, all of them": at_lengths(LENGTHS["length 128"], "infinity"),
    **ITEMS,
    "saturated, each third item, at 0.5": _saturate,
    "identical arms, everywhere, bit by bit": identical,
    **{f"batch, one item, {x:g} spreads": _other_batch(x) for x in (0.1, 0.5, 2)},
}

SCORE: dict[str, Change] = {
    **_SCORES,
    "swapped documents, one ranking, ends": _swapped(_ends, "one ranking"),
    "swapped documents, each ranking, ends": _swapped(_ends, "each"),
    "swapped documents, one ranking, reversed": _swapped(_reversed, "one ranking"),
    "swapped documents, each ranking, reversed": _swapped(_reversed, "each"),
}

CLASSIFY: dict[str, Change] = {
    **_SCORES,
    **{f"scale, one channel, x{x:g}": _channel(x) for x in (1.02, 1.1, 2, 448)},
}
