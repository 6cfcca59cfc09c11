# SPDX-License-Identifier: Apache-2.0
"""The results of the matrix: one JSON, and two Markdown tables."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.version import Version

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent.parent / "docs" / "compatibility.md"

PASSED, FAILED = "passed", "failed"
REFUSED, NOT_INSTALLABLE = "refused by upstream", "not installable"
SKIPPED = "skipped"  # not kept

# "vllm", "kernels", "torch", "status", "error", "checks", "adjustments", "compiled",
# "rerank", "notes", "date", "sources". "compiled" is the number of ops that ran as the
# kernel package's own code, None in results from before the virtual GPU.
Cell = dict[str, Any]
Key = tuple[str, str]

_SHORT = {PASSED: "pass", FAILED: "**fail**", REFUSED: "refused"}


def load(folder: Path = FOLDER) -> dict[Key, Cell]:
    """Return the cells of results.json, none if there is no such file."""
    path = folder / "results.json"
    cells = json.loads(path.read_text())["cells"] if path.exists() else []
    return {(cell["vllm"], cell["kernels"]): cell for cell in cells}


def save(cells: dict[Key, Cell], folder: Path = FOLDER) -> None:
    """Write results.json and results.md."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(cells.values(), key=_order)
    lines = ",\n".join(json.dumps(cell, ensure_ascii=False) for cell in ordered)
    (folder / "results.json").write_text(f'{{"cells": [\n{lines}\n]}}\n')
    (folder / "results.md").write_text(markdown(cells) + "\n")


def versions(cells: dict[Key, Cell], field: str) -> list[str]:
    """Return the vLLM or kernel releases of the results, oldest first."""
    return sorted({cell[field] for cell in cells.values()}, key=Version)


def ends(cells: dict[Key, Cell]) -> list[Key]:
    """Return the oldest and the newest vLLM, each with the newest kernels it passed."""
    tested = versions(cells, "vllm")
    passed = [cell for cell in sorted(cells.values(), key=_order) if has_passed(cell)]
    newest = {cell["vllm"]: cell["kernels"] for cell in passed}
    return [(vllm, newest[vllm]) for vllm in (tested[0], tested[-1])]


def has_passed(cell: Cell) -> bool:
    """Return whether the contract holds and no engine has failed."""
    rerank = cell["rerank"]
    return cell["status"] == PASSED and not (rerank and rerank["error"])


def markdown(cells: dict[Key, Cell]) -> str:
    """Return results.md, without a newline at its end."""
    kernels = versions(cells, "kernels")
    dates = sorted({cell["date"] for cell in cells.values()})
    lines = [
        "# vLLM and vllm-xpu-kernels releases",
        "",
        f"Run on {_span(dates)}. `python -m tests.matrix` writes this file and "
        "results.json; docs/compatibility.md says what is tested.",
        "",
        "*pass*: the contract suite passes; *FP8*: and an engine on the virtual GPU "
        "reranks in FP8 as transformers does in float32; the number is that of the ops "
        "that ran as the kernel package's own compiled code. *refused*: upstream does "
        "not import with that kernel release.",
        "",
        f"| vLLM | torch | {' | '.join(kernels)} |",
        f"|---|---|{'---|' * len(kernels)}",
    ]
    for vllm in versions(cells, "vllm"):
        row = [cells.get((vllm, k)) for k in kernels]
        lines.append(f"| {vllm} | {_torch(row)} | {' | '.join(map(_word, row))} |")
    return "\n".join([*lines, *_errors(cells.values()), *_notes(cells)])


def docs_table(cells: dict[Key, Cell]) -> str:
    """Return the documentation's table of what is supported."""
    lines = [
        "| vLLM | torch | vllm-xpu-kernels that it passes with | that upstream refuses "
        "| FP8 rerank, virtual GPU | ops compiled |",
        "|---|---|---|---|---|---|",
    ]
    for vllm in versions(cells, "vllm"):
        row = [c for c in sorted(cells.values(), key=_order) if c["vllm"] == vllm]
        columns = (
            [c for c in row if has_passed(c)],
            [c for c in row if c["status"] == REFUSED],
            [c for c in row if c["rerank"] and not c["rerank"]["error"]],
        )
        texts = [", ".join(c["kernels"] for c in column) or "-" for column in columns]
        counts = sorted({c["compiled"] for c in columns[2]} - {None})
        texts.append(" to ".join(str(n) for n in counts[:: len(counts) - 1 or 1]))
        lines.append(f"| {vllm} | {_torch(row)} | {' | '.join(texts)} |")
    dates = sorted({cell["date"] for cell in cells.values()})
    return "\n".join([*lines, "", f"Run on {_span(dates)}."])


def write_docs(cells: dict[Key, Cell]) -> None:
    """Put the table between the markers of its page."""
    text = PAGE.read_text()
    marked = f"<!-- matrix -->\n{docs_table(cells)}\n<!-- /matrix -->"
    pattern = "<!-- matrix -->.*?<!-- /matrix -->"
    PAGE.write_text(re.sub(pattern, lambda _: marked, text, flags=re.DOTALL))


def _order(cell: Cell) -> tuple[Version, Version]:
    return Version(cell["vllm"]), Version(cell["kernels"])


def _span(dates: list[str]) -> str:
    return dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def _torch(row: Iterable[Cell | None]) -> str:
    found = {c["torch"].partition("+")[0] for c in row if c and c["torch"]}
    return ", ".join(sorted(found)) or "-"


def _word(cell: Cell | None) -> str:
    if cell is None:
        return "not run"
    if cell["status"] == PASSED:
        fp8 = ""
        if cell["rerank"]:
            fp8 = ", **no FP8**" if cell["rerank"]["error"] else ", FP8"
        count = cell["compiled"]
        return f"pass{fp8}" + ("" if count is None else f", {count} ops")
    return _SHORT.get(cell["status"], cell["status"])


def _errors(cells: Iterable[Cell]) -> list[str]:
    """Return each error once, with the combinations that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for cell in sorted(cells, key=_order):
        rerank = cell["rerank"] or {"error": None}
        if error := cell["error"] or rerank["error"]:
            of_vllm = found.setdefault(f"{cell['status']}: `{error}`", {})
            of_vllm.setdefault(cell["vllm"], []).append(cell["kernels"])
    lines = []
    for error, combinations in found.items():
        pairs = "; ".join(f"{v} with {', '.join(k)}" for v, k in combinations.items())
        lines.append(f"- {error}: {pairs}")
    return ["", "## Errors", "", *lines] if lines else []


def _notes(cells: dict[Key, Cell]) -> list[str]:
    """Return, for each vLLM, what was not as its metadata asks for."""
    lines = []
    for vllm in versions(cells, "vllm"):
        notes = {n for c in cells.values() if c["vllm"] == vllm for n in c["notes"]}
        if notes:
            lines.append(f"- {vllm}: {', '.join(sorted(notes))}")
    title = "## Packages that differ from what vLLM asks for (asked for: present)"
    return ["", title, "", *lines] if lines else []
