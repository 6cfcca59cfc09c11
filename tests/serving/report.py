# SPDX-License-Identifier: Apache-2.0
"""What `make soak` found: one JSON, its bars, and the table of docs/serving.md."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from tests.serving import expected, traffic
from tests.serving.endurance import PARTS

FILE = Path(__file__).parent / "soak.json"
# How much slower than before the load an idle server may answer after it.
SLOWER = 1.5
# Bytes a request by which memory may grow: ten million requests would take 10 GB.
SLOPE = 1024
# Parts of a run in which it may: a coin gives more than these in one run of a hundred.
GROWS = 14
REQUESTS = 10_000

_PHRASES = {status.phrase for status in HTTPStatus}


class Row(NamedTuple):
    """A line of the table: what was asked, what came out, what is needed for it."""

    what: str
    found: str
    bar: str
    met: bool


def load() -> dict[str, Any]:
    """Return the figures of the last run."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def rows(found: dict[str, Any]) -> list[Row]:
    """Return the table's lines."""
    return [
        *_load(found["load"]),
        *_endurance(found["endurance"]),
        *_clients(found["clients"]),
        *_bad_input(found["bad_input"]),
    ]


def table(found: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, with a line on where they were made."""
    made = found["environment"]
    lines = [
        f"{made['device']}, {made['cores']} cores; vLLM {made['vllm']}, "
        f"vllm-xpu-kernels {made['kernels']}, torch {made['torch']}; "
        f"{found['minutes']:.0f} minutes.",
        "",
        "| what | found | bar | met |",
        "|---|---|---|---|",
    ]
    for row in rows(found):
        met = "yes" if row.met else "**no**"
        lines.append(f"| {row.what} | {row.found} | {row.bar} | {met} |")
    return "\n".join(lines)


def _load(load: dict[str, Any]) -> Iterator[Row]:
    most = load["all_at_once"]
    yield Row(
        "`vllm bench serve`, reranking 4 documents, all requests at once",
        f"{load['capacity']:.1f} requests/s of {most['requests']}, "
        f"{most['failed']} failed",
        "none fails",
        most["failed"] == 0,
    )
    *up, back = load["steps"]
    for step in up:
        orderly = set(step["errors"]) <= _PHRASES
        over = step["part"] > 1
        yield Row(
            f"{step['part']:.0%} of that rate",
            _step(step),
            "failures are HTTP errors" if over else "none fails",
            orderly if over else step["failed"] == 0,
        )
    before = up[0]["median_ms"]
    yield Row(
        f"{back['part']:.0%} again, after the overload",
        _step(back),
        f"none fails; median within {SLOWER} times {before:.0f} ms",
        back["failed"] == 0 and back["median_ms"] <= SLOWER * before,
    )


def _step(step: dict[str, Any]) -> str:
    return (
        f"{step['requests']} requests, {step['failed']} failed; median "
        f"{step['median_ms']:.0f} ms, 99th percentile {step['p99_ms']:.0f} ms"
    )


def _endurance(run: dict[str, Any]) -> Iterator[Row]:
    yield Row(
        f"requests of four routes, {run['at_a_time']} at a time",
        f"{run['requests']} at {run['requests_per_s']:.0f}/s, {run['failed']} failed",
        f"{REQUESTS}, none fails",
        run["requests"] >= REQUESTS and run["failed"] == 0,
    )
    yield Row(
        "each answer against the same request sent alone",
        f"{run['wrong']} wrong; {run['bit_identical']} bit-identical, the others "
        f"within {run['largest_difference']:.1g}",
        f"within {traffic.TOLERANCE}; two requests' answers differ by "
        f"{run['smallest_separation']:.1g} or more",
        run["wrong"] == 0,
    )
    yield Row(
        "memory of all processes, after the first fifth of them",
        f"{run['mib'][0]:.0f} to {run['mib'][1]:.0f} MiB, {run['slope_bytes']:.0f} "
        f"bytes a request; larger in {run['grown_in']} of {PARTS} parts of the run",
        f"{SLOPE} bytes a request; in {GROWS} parts, as noise would be",
        run["slope_bytes"] <= SLOPE and run["grown_in"] <= GROWS,
    )
    held = {name: run[name] for name in ("files", "processes", "threads")}
    yield Row(
        "files, processes and threads, before and after",
        "; ".join(f"{a} and {b} {name}" for name, (a, b) in held.items()),
        "no more",
        all(b <= a for a, b in held.values()),
    )


def _clients(clients: list[dict[str, Any]]) -> Iterator[Row]:
    for client in clients:
        yield Row(
            f"{client['client']}, `{client['route']}`",
            f"{client['numbers']} numbers within {client['largest_difference']:.1g} of "
            "transformers in float32",
            f"within {expected.TOLERANCE}",
            client["largest_difference"] <= expected.TOLERANCE,
        )


def _bad_input(bad: dict[str, Any]) -> Iterator[Row]:
    for name, run in bad["compared"].items():
        answers = ", ".join(f"{n} of {status}" for status, n in run["statuses"].items())
        yield Row(
            f"bad input: {name}",
            f"{run['requests']} requests: {answers}; {len(run['unlike'])} answered "
            f"otherwise than without the plugin, numbers within "
            f"{run['largest_difference']:.1g}",
            f"none; within {traffic.TOLERANCE}",
            not run["unlike"] and run["largest_difference"] <= traffic.TOLERANCE,
        )
    yield Row(
        "good requests after all bad ones",
        f"{bad['good_after']} answers within {bad['changed']:.1g} of those before",
        f"within {traffic.TOLERANCE}",
        bad["changed"] <= traffic.TOLERANCE,
    )
