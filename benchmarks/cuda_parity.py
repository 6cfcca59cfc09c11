# SPDX-License-Identifier: Apache-2.0
"""On an NVIDIA GPU: is vLLM the same with the plugin as without it.

Three arms, each in processes of its own on one GPU in one run: plugin not
installed, installed and off, installed and asked for (``VLLM_XPU_FP8_PLUGIN=1``).
Three workloads with seeded random weights: a decoder with a bf16 KV cache, one with
an fp8 KV cache, and an encoder, all through FlashAttention. For each workload the
arms start together, answer the same requests (outputs must agree bit by bit), are
profiled (kernels must agree by name and count), and then take turns at being timed.
Run it in an environment that has vLLM for CUDA and not this package.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("cuda_worker.py")
ARMS = {"not_installed": None, "installed_off": "", "installed_on": "1"}
WORKLOADS: dict[str, dict[str, Any]] = {
    "decoder_bf16_kv": {"architecture": "LlamaForCausalLM", "kv_cache_dtype": "auto"},
    "decoder_fp8_kv": {"architecture": "LlamaForCausalLM", "kv_cache_dtype": "fp8"},
    "encoder": {"architecture": "BertModel", "runner": "pooling"},
}
# Large enough that the GPU, not Python, takes most of the time. Prompts: number and
# longest.
PROMPTS = {"LlamaForCausalLM": (128, 1500), "BertModel": (512, 512)}
SIZES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {
        "hidden_size": 3072,
        "num_hidden_layers": 16,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 16384,
        "max_position_embeddings": 2048,
    },
    "BertModel": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 512,
    },
}
MARK = "PARITY "


class Arm:
    """The parent's end of a `Worker`."""

    def __init__(self, arm: str, site: Path, workload: str, model: str) -> None:
        """Start the process."""
        env = {k: v for k, v in os.environ.items() if "XPU_FP8" not in k}
        env |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
        path = [env.get("PYTHONPATH", "")]
        if arm != "not_installed":
            path.insert(0, str(site))
            env["VLLM_XPU_FP8_PLUGIN"] = ARMS[arm] or ""
        env["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        arguments = {
            k: v for k, v in WORKLOADS[workload].items() if k != "architecture"
        }
        self.name = arm
        self.log = site.parent / f"{workload}.{arm}.log"
        self.process = subprocess.Popen(
            [sys.executable, WORKER, MARK, json.dumps(arguments), model],
            env=env,
            cwd=site.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
        )

    def result(self) -> Any:
        """Wait for the process's next result."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        raise SystemExit(
            f"cuda_parity.py: the process of arm {self.name} ended. The end of its "
            f"log:\n{self.log.read_text()[-3000:]}"
        )

    def ask(self, request: str) -> Any:
        """Send a request and return its result."""
        assert self.process.stdin
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.result()


def compare(
    workload: str, arms: list[Arm], rounds: int, console: Console
) -> dict[str, Any]:
    """Run one workload in all arms and return what was found."""
    for arm in arms:
        arm.result()
    console.print(f"{workload}: engines are up")
    answers = {arm.name: arm.ask("answer") for arm in arms}
    profiles = {arm.name: arm.ask("profile") for arm in arms}
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for i in range(rounds):
        for arm in arms[i % 3 :] + arms[: i % 3]:
            times[arm.name].append(arm.ask("time"))
        console.print(f"{workload}: round {i + 1} of {rounds} timed")
    first = answers["not_installed"]
    # As they are written down, so that a reader gets the same ratios.
    seconds = {name: [round(t, 4) for t in ts] for name, ts in times.items()}
    return {
        **{k: first[k] for k in ("platform", "attention", "distinct_outputs")},
        "same_platform": len({a["platform"] for a in answers.values()}) == 1,
        "same_attention": len({str(a["attention"]) for a in answers.values()}) == 1,
        "bit_identical": len({a["outputs_sha256"] for a in answers.values()}) == 1,
        "same_kernels": all(p == profiles["not_installed"] for p in profiles.values()),
        "kernel_names": len(profiles["not_installed"]),
        "kernel_launches": sum(profiles["not_installed"].values()),
        "plugin_imported": {n: a["plugin_imported"] for n, a in answers.items()},
        "seconds": seconds,
        "throughput_ratio": ratios(seconds),
        "machine": {k: first[k] for k in ("gpu", "vllm", "torch")},
    }


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the throughput of each arm ÷ that without the plugin, by medians."""
    median = {name: statistics.median(times) for name, times in seconds.items()}
    base = median.pop("not_installed")
    return {name: round(base / time, 4) for name, time in median.items()}


def passed(result: dict[str, Any]) -> bool:
    """Say whether a workload is the same in all arms."""
    return (
        result["platform"].startswith("vllm.platforms.cuda.")
        and all(result[k] for k in result if k.startswith("same_"))
        and result["bit_identical"]
        and result["distinct_outputs"] > 1
        and result["kernel_launches"] > 0
        and all(abs(r - 1) <= 0.02 for r in result["throughput_ratio"].values())
    )


def markdown_table(report: dict[str, Any]) -> str:
    """Return the documentation's table of a report."""
    rows = [
        "| | off | `=1` | outputs | kernels launched |",
        "|---|---|---|---|---|",
    ]
    for name, result in report["workloads"].items():
        ratio = result["throughput_ratio"]
        rows.append(
            f"| {name.replace('_', ' ')} | {ratio['installed_off']:.3f} | "
            f"{ratio['installed_on']:.3f} | "
            f"{'bit-identical' if result['bit_identical'] else 'differ'} | "
            f"{result['kernel_launches']}, "
            f"{'the same' if result['same_kernels'] else 'different'} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Run the workloads and print one JSON object; status 1 if an arm differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="timed rounds an arm")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    args = parser.parse_args()
    if [e for e in entry_points(group="vllm.platform_plugins") if e.name == "xpu_fp8"]:
        sys.exit("cuda_parity.py: run it where vllm-xpu-fp8-plugin is not installed.")
    sys.path.insert(0, str(ROOT))
    from tests.models import make_model, token_ids

    console = Console(stderr=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as tmp:
        site = Path(tmp) / "site"
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        pip += ["--no-build-isolation", "--target", str(site), str(ROOT)]
        subprocess.run(pip, check=True)
        models = {
            name: make_model(name, Path(tmp) / name, **size)
            for name, size in SIZES.items()
        }
        for name, (count, longest) in PROMPTS.items():
            prompts = token_ids([1 + (i * 373) % longest for i in range(count)])
            (Path(tmp) / name / "prompts.json").write_text(json.dumps(prompts))
        for workload, arguments in WORKLOADS.items():
            model = models[arguments["architecture"]]
            arms = [Arm(name, site, workload, model) for name in ARMS]
            try:
                results[workload] = compare(workload, arms, args.rounds, console)
                console.print(results[workload]["throughput_ratio"])
            finally:
                for arm in arms:
                    arm.process.kill()
                    arm.process.wait()
    machines = [result.pop("machine") for result in results.values()]
    report = {
        "date": time.strftime("%Y-%m-%d"),
        **machines[0],
        "passed": all(map(passed, results.values())),
        "workloads": results,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")
    sys.exit(0 if report["passed"] else 1)


if __name__ == "__main__":
    main()
