# SPDX-License-Identifier: Apache-2.0
"""Many requests at a time: whether each answer is right, and the server grows."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.serving.server import Server
from tests.serving.traffic import (
    TOLERANCE,
    Request,
    alone,
    difference,
    send,
    separation,
)

# Answers of two requests differ by more than this many tolerances.
_APART = 3
_MIB = 1 << 20
# Of the run, to see whether memory grows all the time.
PARTS = 20


def run(
    server: Server,
    requests: Sequence[Request],
    count: int,
    at_a_time: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Send `count` requests in all, some at a time, and return the figures.

    Args:
        server: Answers them.
        requests: Distinct ones, sent alone first and then over and over.
        count: How many of them are sent.
        at_a_time: How many are in flight.
        say: Gets a line now and then.

    """
    expected = alone(server.url, requests)
    apart = separation(requests, expected)
    if apart < _APART * TOLERANCE:
        raise RuntimeError(f"two requests' answers differ by {apart:.2g} alone")
    # What is made once, such as the threads of a pool, is made now.
    asyncio.run(send(server.url, requests, at_a_time, lambda index, answer: None))
    before = server.settled(0, seconds=2)
    differences: list[float] = []
    failures: Counter[str] = Counter()
    samples: list[tuple[int, int]] = []
    start = time.monotonic()

    def done(index: int, answer: list[float] | str) -> None:
        if isinstance(answer, str):
            failures[answer] += 1
            differences.append(float("inf"))
        else:
            differences.append(difference(answer, expected[index % len(expected)]))
        if len(differences) % max(1, count // 10) == 0:
            rate = len(differences) / (time.monotonic() - start)
            memory = server.usage().bytes / _MIB
            say(f"{len(differences)} answers, {rate:.0f}/s, {memory:.0f} MiB")

    async def all_of_it() -> None:
        async def sample() -> None:
            while True:
                samples.append((len(differences), server.usage().bytes))
                await asyncio.sleep(1)

        sampling = asyncio.create_task(sample())
        many = (requests[i % len(requests)] for i in range(count))
        await send(server.url, many, at_a_time, done)
        sampling.cancel()

    asyncio.run(all_of_it())
    seconds = time.monotonic() - start
    after = server.settled(before.files)
    right = [d for d in differences if d <= TOLERANCE]
    return {
        "requests": len(differences),
        "at_a_time": at_a_time,
        "requests_per_s": len(differences) / seconds,
        "failed": sum(failures.values()),
        "failures": dict(failures.most_common(5)),
        "wrong": len(differences) - len(right) - sum(failures.values()),
        "bit_identical": sum(d == 0 for d in differences),
        "largest_difference": max(right, default=0.0),
        "smallest_separation": apart,
        "files": [before.files, after.files],
        "processes": [before.processes, after.processes],
        "threads": [before.threads, after.threads],
        **growth(samples),
    }


def growth(samples: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return how memory grew, once the first fifth of the requests was answered.

    A leak grows all the time. What a pool or the heap keeps of the largest batch so far
    grows in few steps, whenever chance makes a larger one: a straight line through the
    run takes a late step for a slope.

    Args:
        samples: Answers given so far, and bytes held then.

    Returns:
        ``mib``: first and last figure. ``slope_bytes``: bytes a request by which one of
        `PARTS` equal parts of the run, by their medians, holds more than the one
        before, for most of them: the median. ``grown_in``: in how many it does.

    """
    most = max(n for n, _ in samples)
    late = np.array([s for s in samples if s[0] >= most / 5], dtype=float)
    edges = np.linspace(most / 5, most, PARTS + 1)
    parts = np.split(late[:, 1], np.searchsorted(late[:, 0], edges[1:-1]))
    grown = np.diff([np.median(part) for part in parts if len(part)])
    return {
        "mib": [samples[0][1] / _MIB, samples[-1][1] / _MIB],
        "slope_bytes": float(np.median(grown) / (edges[1] - edges[0])),
        "grown_in": int((grown > 0).sum()),
    }
