# SPDX-License-Identifier: Apache-2.0
"""Results of real engines, kept in ``.models/arms`` while the code is the same."""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

from tests.real_models import CACHE, ROOT
from tests.verify.faulty_engine import Result, run_arm, run_seeds

_FOLDER = CACHE / "arms"
_PACKAGE = ROOT / "vllm_xpu_fp8_plugin"
# What of verify runs the engines; the rest only judges.
_FAULTS = ("", "engine_", "model_")
_RUNS = ("plan.py", "inputs.py", "vllm_arm.py", "workers.py")


def both(request: Result, seeds: Iterable[int] = (0,)) -> list[tuple[Result, Result]]:
    """Return reference and sound candidate for each seed.

    A request that generates (it has ``max_tokens``) gets an engine a seed, since the
    time that one may take is limited.
    """
    seeds = list(seeds)
    if "max_tokens" in request and len(seeds) > 1:
        return [pair for seed in seeds for pair in both(request, [seed])]
    request = {"max_tokens": 1, **request}

    def run() -> list[tuple[Result, Result]]:
        references = run_seeds(request, "reference", dict.fromkeys(seeds))
        plans: dict[int, Any] = {s: r["plan"] for s, r in references.items()}
        candidates = run_seeds(request, "candidate", plans)
        return [(references[s], candidates[s]) for s in seeds]

    return _kept([request, seeds], run)


def faulty(
    request: Result, faults: tuple[str, ...], plan: Result, **more: Any
) -> dict[str, Result]:
    """Return the candidate's results with faults in the engine, "" is none."""
    request = {"max_tokens": 1, **request, **more}

    def run() -> dict[str, Result]:
        return run_arm(request, "candidate", faults, plan=plan)

    return _kept([request, faults, plan], run)


def _kept(what: Any, run: Any) -> Any:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    given = json.dumps([what, _sources()], sort_keys=True).encode()
    path = _FOLDER / f"{hashlib.sha256(given).hexdigest()[:32]}.json.gz"
    if path.exists():
        return json.loads(gzip.decompress(path.read_bytes()))
    made = run()
    # Another test process may do the same.
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(gzip.compress(json.dumps(made).encode(), 1))
    partial.replace(path)
    return json.loads(json.dumps(made))


def _sources() -> str:
    files = [f for f in _PACKAGE.rglob("*.py") if "verify" not in f.parts]
    files += [_PACKAGE / "verify" / name for name in _RUNS]
    files += [ROOT / "tests" / "verify" / f"{x}faults.py" for x in _FAULTS]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()
