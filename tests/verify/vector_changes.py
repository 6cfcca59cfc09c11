# SPDX-License-Identifier: Apache-2.0
"""Faults put into a sound embedder's answers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.verify.changes import (
    ITEMS,
    LENGTHS,
    PARTS,
    Change,
    Result,
    Where,
    at_lengths,
    identical,
)


def _vectors(
    change: Callable[[Any, np.random.Generator], Any], parts: tuple[str, ...] = PARTS
) -> Change:
    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        for name in parts:
            arm[name] = change(np.asarray(arm[name], dtype=float), rng).tolist()

    return apply


def _relative_noise(strength: float) -> Change:
    def change(x: Any, rng: np.random.Generator) -> Any:
        size = np.linalg.norm(x, axis=-1, keepdims=True) / math.sqrt(x.shape[-1])
        return x + strength * size * rng.normal(size=x.shape)

    return _vectors(change, ("items", "lengths"))


def _times(strength: float, columns: slice) -> Change:
    def change(x: Any, rng: np.random.Generator) -> Any:
        x[..., columns] *= strength
        return x

    return _vectors(change)


def _turned_lengths(where: Where, strength: float) -> Change:
    def apply(reference: Result, arm: Result, rng: np.random.Generator) -> None:
        x = np.asarray(arm["lengths"], dtype=float)
        sizes = [len(ids) for ids in arm["plan"]["lengths"]]
        rows = [i for i, n in enumerate(sizes) if where(n, max(sizes))]
        size = np.linalg.norm(x[rows], axis=1, keepdims=True) / math.sqrt(x.shape[1])
        x[rows] += strength * size * rng.normal(size=x[rows].shape)
        arm["lengths"] = x.tolist()

    return apply


def _mean_vector(left: float) -> Change:
    def change(x: Any, rng: np.random.Generator) -> Any:
        return (1 - left) * x.mean(axis=0) + left * x if len(x) else x

    return _vectors(change, ("items", "lengths"))


EMBED: dict[str, Change] = {
    **{
        f"noise, everywhere, {x:g} of the norm": _relative_noise(x)
        for x in (0.05, 0.1, 0.2, 0.5, 1, 2)
    },
    **{
        f"scale, all of a vector, x{x:g}": _times(x, slice(None))
        for x in (1.02, 1.1, 2, 37, 448, -1)
    },
    **{
        f"scale, one channel, x{x:g}": _times(x, slice(0, 1))
        for x in (0, 1.02, 1.1, 2, 448)
    },
    **{
        f"scale, one head, x{x:g}": _times(x, slice(0, 32))
        for x in (0, 1.02, 1.1, 2, 448)
    },
    **{
        f"ignored input, everywhere, {1 - x:g} of it": _mean_vector(x)
        for x in (0.0, 0.1, 0.5)
    },
    **{
        f"off, {where}, {x:g} of the norm": _turned_lengths(LENGTHS[where], x)
        for where in LENGTHS
        for x in (0.1, 0.5, 1)
    },
    **ITEMS,
    **{
        f"{what}, {where}, all of them": at_lengths(LENGTHS[where], what)
        for where in LENGTHS
        for what in ("NaN", "zeros")
    },
    "identical arms, everywhere, bit by bit": identical,
}
