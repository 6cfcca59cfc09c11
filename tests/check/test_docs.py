# SPDX-License-Identifier: Apache-2.0
"""docs/check.md says what is true."""

import re
from pathlib import Path

from tests.check.catalogue_table import RELEASES, cell
from tests.check.faults import FAULTS
from tests.reference.ops import release
from vllm_xpu_fp8_plugin.check.registry import NOT_COMPUTATIONS, specs
from vllm_xpu_fp8_plugin.kernel_package import installed

ROOT = Path(__file__).parent.parent.parent
DOCS = (ROOT / "docs" / "check.md").read_text()


def test_ops_without_an_oracle_are_listed() -> None:
    """Catches an op that nothing checks, and that the list does not name."""
    ours = set(installed.op_schemas(installed.package_dir()))
    listed = set(re.findall(r"`(_\w+::\w+)`", DOCS.split("## Ops without")[1]))
    assert not listed & set(specs())
    if release() == (0, 1, 14, 1):
        assert listed == ours - set(specs()) - NOT_COMPUTATIONS


def test_table_has_every_op_and_release() -> None:
    """Catches a table that was not made again for an op or a release."""
    table = DOCS.split("<!-- catalogue -->")[1].split("<!-- /catalogue -->")[0]
    assert tuple(table.split("\n")[1].split(" | ")[1:]) == (
        *RELEASES[:-1],
        f"{RELEASES[-1]} |",
    )
    assert set(re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE)) == set(specs())


def test_each_wrong_op_of_the_table_is_explained() -> None:
    """Catches a disagreement that nothing is said of."""
    table, rest = DOCS.split("<!-- /catalogue -->")
    wrong = re.findall(r"^\| `\w+::(\w+)` \|.*\*\*", table, re.MULTILINE)
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", rest, re.MULTILINE)
    explained = [name.strip("`") for cell in cells for name in cell.split(", ")]
    assert set(wrong) == set(explained)


def test_cell_names_faults_and_what_is_not_compiled() -> None:
    """Catches a fault that the table shows as right."""
    op = {"faults": [], "made": 9, "runs_as": "compiled", "ulps": 0.51}
    assert cell(op) == "0.51"
    assert cell({**op, "runs_as": "reference"}) == r"0.51 \*"
    faults = [{"kind": "crash"}, {"kind": "values"}, {"kind": "values"}]
    assert cell({**op, "faults": faults}) == "**crash, values**"


def test_page_counts_the_faults() -> None:
    """Catches a number of faults that is not the tests'."""
    assert f"of {len(FAULTS)}\nfaults put into ops it names all" in DOCS
