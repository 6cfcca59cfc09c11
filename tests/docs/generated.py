# SPDX-License-Identifier: Apache-2.0
"""The parts of the documentation that are made from the code.

Each stands between ``<!-- name -->`` and ``<!-- /name -->`` of its page.
"""

import argparse
import importlib
import re
from collections.abc import Callable
from pathlib import Path

from tests.matrix import results
from tests.serving import report
from vllm_xpu_fp8_plugin import cli, envs
from vllm_xpu_fp8_plugin.kernel_package import installed

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
# The kernel release that the page of ops is of.
OPS_OF = "0.1.14.1"

_RUNS = {"compiled": "compiled code", "reference": "PyTorch", "missing": "not"}


def block(text: str, name: str) -> str:
    """Return what stands between the markers of a name.

    Raises:
        ValueError: The text has no such markers.

    """
    match = re.search(f"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", text, re.DOTALL)
    if not match:
        raise ValueError(f"no block <!-- {name} --> ... <!-- /{name} -->")
    return match[1]


def replaced(text: str, name: str, content: str) -> str:
    """Return the text with other content between the markers of a name."""
    before = f"<!-- {name} -->\n{block(text, name)}\n<!-- /{name} -->"
    return text.replace(before, f"<!-- {name} -->\n{content}\n<!-- /{name} -->")


def options() -> str:
    """Return a table of each command's options, with what --help says of them."""
    root = argparse.ArgumentParser()
    subparsers = root.add_subparsers()
    lines = []
    for name in cli._COMMANDS:
        importlib.import_module(f"{cli.__name__}.{name}").add_parser(subparsers)
        parser = subparsers.choices[name]
        lines += [f"## vllm-xpu-fp8 {name}", "", "| option | meaning |", "|---|---|"]
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            lines.append(f"| {_option(action)} | {_cell(action.help or '')} |")
        lines.append("")
    return "\n".join(lines).strip()


def _option(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    names = action.option_strings
    return f"`{' '.join(filter(None, [', '.join(names), str(value)]))}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("%%", "%")


def ops() -> str:
    """Return a table of the installed kernel package's ops. Makes virtual XPUs."""
    from vllm_xpu_fp8_plugin import virtual_xpu
    from vllm_xpu_fp8_plugin.check.registry import NOT_COMPUTATIONS, specs
    from vllm_xpu_fp8_plugin.virtual_xpu.ops import table

    virtual_xpu.enable()
    checked = set(specs())
    lines = ["| op | runs as | `check` | why |", "|---|---|---|---|"]
    for name, op in sorted(table().items()):
        oracle = "yes" if name in checked else "no"
        if name in NOT_COMPUTATIONS:
            oracle = "computes nothing"
        lines.append(f"| `{name}` | {_RUNS[op.runs]} | {oracle} | {_cell(op.reason)} |")
    return "\n".join(lines)


def works() -> str:
    """Return README's table of what works where."""
    return block((ROOT / "README.md").read_text(), "works")


# Page and block -> what makes it.
BLOCKS: dict[tuple[str, str], Callable[[], str]] = {
    ("environment.md", "envs"): envs.markdown_table,
    ("cli.md", "options"): options,
    ("ops.md", "ops"): ops,
    ("compatibility.md", "works"): works,
    ("compatibility.md", "matrix"): lambda: results.docs_table(results.load()),
    ("serving.md", "soak"): lambda: report.table(report.load()),
}


def write() -> list[str]:
    """Write each block into its page, and return the pages that have changed."""
    changed = []
    for (page, name), make in BLOCKS.items():
        if name == "ops" and installed.package_version() != OPS_OF:
            continue
        path = DOCS / page
        text = path.read_text()
        new = replaced(text, name, make())
        if new != text:
            path.write_text(new)
            changed.append(page)
    return changed
