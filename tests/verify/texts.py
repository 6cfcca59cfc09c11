# SPDX-License-Identifier: Apache-2.0
"""Texts in the words of the random models, which tell them apart."""

import random
from typing import Any


def words(rng: random.Random, least: int, most: int) -> str:
    count = rng.randint(least, most)
    return " ".join(f"w{rng.randrange(5, 500)}" for _ in range(count))


def rankings() -> list[dict[str, Any]]:
    rng = random.Random(3)
    return [
        {
            "query": words(rng, 2, 2),
            "documents": [words(rng, 2, 6) for _ in range(8)],
        }
        for _ in range(12)
    ]


def made_up() -> dict[str, Any]:
    """Return data for every task."""
    rng = random.Random(4)
    return {
        "rankings": rankings(),
        "texts": [words(rng, 2, 40) for _ in range(24)],
        "prompts": [words(rng, 5, 60) for _ in range(6)],
        "builtin": False,
    }
