# SPDX-License-Identifier: Apache-2.0
"""The reference pages agree with the code."""

import pytest

from tests.docs.generated import BLOCKS, DOCS, OPS_OF, block, replaced
from vllm_xpu_fp8_plugin import envs, kernels


@pytest.mark.parametrize(("page", "name"), BLOCKS)
def test_page_holds_what_the_code_says(page: str, name: str) -> None:
    """Catches an option, a variable or an op that was changed in the code alone."""
    if name == "ops" and (
        kernels.package_version() != OPS_OF or envs.VIRTUAL_OPS.get() != envs.AUTO
    ):
        pytest.skip(f"the page is of vllm-xpu-kernels {OPS_OF}, as it runs by default")
    text = (DOCS / page).read_text()
    assert block(text, name) == BLOCKS[page, name](), "run: make reference"


def test_a_block_is_replaced_and_nothing_else() -> None:
    """Catches a page that loses its end, and a marker that is not there."""
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert replaced(text, "x", "1\n2") == "a\n<!-- x -->\n1\n2\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="<!-- y -->"):
        replaced(text, "y", "new")
