# SPDX-License-Identifier: Apache-2.0
"""The reference pages agree with the code."""

import re

import pytest

from tests.docs.generated import BLOCKS, DOCS, OPS_OF, block, replaced
from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.kernel_package import installed


@pytest.mark.parametrize(("page", "name"), BLOCKS)
def test_page_holds_what_the_code_says(page: str, name: str) -> None:
    """Catches an option, a variable or an op that was changed in the code alone."""
    if name == "ops" and (
        installed.package_version() != OPS_OF or envs.VIRTUAL_OPS.get() != envs.AUTO
    ):
        pytest.skip(f"the page is of vllm-xpu-kernels {OPS_OF}, as it runs by default")
    text = (DOCS / page).read_text()
    assert block(text, name) == BLOCKS[page, name](), "run: make reference"


def test_pages_count_the_ops_as_the_table_does() -> None:
    """Catches a count that was not made again when an op began to run otherwise."""
    table = (DOCS / "ops.md").read_text()
    kinds = [
        len(re.findall(rf"\| {k} \|", table)) for k in ("compiled code", "PyTorch")
    ]
    line = re.search(
        rf"of (\d+) ops of vllm-xpu-kernels {OPS_OF}, (\d+) run as compiled code, "
        r"(\d+) in PyTorch, (\d+) not at all",
        (DOCS / "serve.md").read_text(),
    )
    assert line
    total, *counts, missing = map(int, line.groups())
    assert counts == kinds
    assert sum(counts) + missing == total == len(re.findall(r"^\| `_", table, re.M))
    page = (DOCS / "virtual_gpu.md").read_text()
    assert f"{OPS_OF}, {kinds[0]} of {total} ops run as compiled code" in page


def test_a_block_is_replaced_and_nothing_else() -> None:
    """Catches a page that loses its end, and a marker that is not there."""
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert replaced(text, "x", "1\n2") == "a\n<!-- x -->\n1\n2\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="<!-- y -->"):
        replaced(text, "y", "new")
