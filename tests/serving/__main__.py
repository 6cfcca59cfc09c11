# SPDX-License-Identifier: Apache-2.0
"""``make soak``: an FP8 server under load, with clients, and with bad input."""

import json
import os
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.docs.generated import write
from tests.real_models import real_model
from tests.serving import bad_input, bench, clients, endurance, report, traffic
from tests.serving.programs import ROOT
from tests.serving.server import MINILM, serve_with, serve_without

_AT_A_TIME = 32
_DISTINCT = 240
# Seconds that each rate is held.
_HELD = 15
# Seconds after which it ends whatever it waits for.
_MOST = 60 * 60
_REACTIONS = ROOT / "tests" / "verify" / "reactions.jsonl"


def soak(folder: Path) -> dict[str, Any]:
    """Run all of it and return the figures. Logs go into `folder`."""
    found: dict[str, Any] = {"environment": environment()}
    requests = traffic.distinct_requests(_DISTINCT)
    say("starting servers: of all-MiniLM-L6-v2 in FP8, with the plugin and without it,")
    say("and of rxnfp, a classifier")
    rxnfp = real_model("rxnfp")
    with serve_with(folder / "server.log") as server:
        with (
            serve_without(folder / "without.log", MINILM) as peer,
            serve_with(folder / "classifier.log", rxnfp) as classifier,
        ):
            for each in (server, peer, classifier):
                each.ready()
            say("clients")
            found["clients"] = clients.run(server.url, MINILM, langchain=True)
            texts = [
                json.loads(line)["text"] for line in _REACTIONS.read_text().splitlines()
            ]
            found["clients"].append(clients.classify(classifier.url, rxnfp, texts))
            # Before the load, which then shows what it has left behind.
            say("bad input, and the same without the plugin")
            found["bad_input"] = compare_bad_input(server.url, peer.url, requests[:40])
        say("load at rising rates")
        found["load"] = bench.run(server.url, server.tokenizer, _HELD)
        say_load(found["load"])
        say(f"{report.REQUESTS} requests, {_AT_A_TIME} at a time")
        found["endurance"] = endurance.run(
            server, requests, report.REQUESTS, _AT_A_TIME, say
        )
    return found


def say_load(load: dict[str, Any]) -> None:
    """Print a line for each rate."""
    say(f"all at once: {load['capacity']:.1f} requests/s")
    for step in load["steps"]:
        say(
            f"{step['rate']:.1f} requests/s asked, {step['requests_per_s']:.1f} "
            f"answered, median {step['median_ms']:.0f} ms, {step['failed']} failed"
        )


def compare_bad_input(
    url: str, peer: str, good: list[traffic.Request]
) -> dict[str, Any]:
    """Send bad requests to a server and its peer, and good ones before and after."""
    before = traffic.alone(url, good)
    compared = {}
    for name, requests in (
        ("written down", list(bad_input.listed())),
        ("made-up texts", bad_input.texts(200)),
        ("by `/openapi.json`", bad_input.by_schema(url, 20)),
    ):
        compared[name] = run = bad_input.compare(url, peer, requests)
        say(f"{name}: {run['statuses']}, unlike: {run['unlike'][:5]}")
    changed = [
        traffic.difference(a, b)
        for a, b in zip(before, traffic.alone(url, good), strict=True)
    ]
    return {
        "compared": compared,
        "good_after": len(good),
        "changed": max(changed),
        "statuses_without_the_plugin": bad_input.statuses(peer),
    }


def environment() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "device": "virtual XPU",
        "cores": len(os.sched_getaffinity(0)),
        "vllm": version("vllm"),
        "kernels": version("vllm-xpu-kernels"),
        "torch": version("torch"),
    }


_STARTED = time.monotonic()


def say(line: str) -> None:
    """Print a line with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"{minutes:2}:{seconds:02}  {line}", flush=True)


def main() -> int:
    """Run it, write JSON and page, and return 1 where a bar is missed."""

    def too_long(*args: Any) -> None:
        raise TimeoutError(f"not done after {_MOST // 60} minutes")

    def stopped(*args: Any) -> None:
        raise SystemExit("ended by a signal")

    # Either way, the servers are ended.
    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(_MOST)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"the servers' logs are in {folder}")
    found = soak(folder)
    found["minutes"] = (time.monotonic() - _STARTED) / 60
    rounded = json.loads(
        json.dumps(found), parse_float=lambda x: float(f"{float(x):.4g}")
    )
    report.FILE.write_text(json.dumps(rounded, indent=1) + "\n")
    write()
    missed = 0
    for row in report.rows(rounded):
        missed += not row.met
        print(f"{'met   ' if row.met else 'MISSED'}  {row.what}: {row.found}")
    say(f"{missed} bars missed" if missed else "every bar is met")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
