# SPDX-License-Identifier: Apache-2.0
"""Says whether a reranking server is ready and gives the scores that it should.

A health check passes while a kernel computes garbage. This asks one known query and
compares the scores with those of a server that was verified. It needs Python alone.

    python ready.py --url http://localhost:8000 --record scores.json
    python ready.py --url http://localhost:8000 --expected scores.json

Exit status: 0 ready; 1 it answers with other scores; 2 no answer that can be judged.
"""

import argparse
import http.client
import json
import math
import sys
import urllib.error
import urllib.request
from pathlib import Path

QUERY = "What is the capital of France?"
DOCUMENTS = [
    "The capital of France is Paris.",
    "The capital of Brazil is Brasilia.",
    "Horses and cows are both animals.",
]


def scores(url: str, model: str | None, timeout: float) -> list[float]:
    """Return the server's score for each document, in the order of `DOCUMENTS`.

    Raises:
        OSError: There is no answer, or it is an error.
        ValueError: The answer is no ranking of these documents.

    """
    body = {"query": QUERY, "documents": DOCUMENTS} | (
        {"model": model} if model else {}
    )
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v2/rerank",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout) as response:
        answer = json.load(response)
    try:
        by_index = {r["index"]: float(r["relevance_score"]) for r in answer["results"]}
        return [by_index[index] for index in range(len(DOCUMENTS))]
    except (KeyError, TypeError) as e:
        raise ValueError(f"not a ranking of {len(DOCUMENTS)} documents: {e!r}") from e


def main() -> int:
    """Ask, compare or record, print one line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--url", required=True, help="the server's address: http://localhost:8000")
    add("--model", help="the name that it serves, where it asks for one")
    add("--tolerance", type=float, default=0.02, help="of a score (default: 0.02)")
    add("--timeout", type=float, default=10.0, help="seconds (default: 10)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--expected", type=Path, metavar="FILE", help="scores to compare")
    what.add_argument("--record", type=Path, metavar="FILE", help="where to write them")
    options = parser.parse_args()
    try:
        found = scores(options.url, options.model, options.timeout)
        if options.record:
            options.record.write_text(json.dumps(found) + "\n")
            print(f"ready: scores written to {options.record}")
            return 0
        expected = [float(x) for x in json.loads(options.expected.read_text())]
    except (OSError, ValueError, TypeError, http.client.HTTPException) as e:
        print(f"not ready: {e}", file=sys.stderr)
        return 2
    if len(expected) != len(found):
        print(f"not ready: {options.expected} is of another query", file=sys.stderr)
        return 2
    off = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    # NaN compares as false, which must not pass.
    if math.isnan(off) or off > options.tolerance:
        print(
            f"not ready: a score is off by {off:.3g}, allowed is {options.tolerance:g} "
            f"(got {found}, expected {expected})",
            file=sys.stderr,
        )
        return 1
    print(f"ready: scores within {off:.3g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
