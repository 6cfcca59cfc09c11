# SPDX-License-Identifier: Apache-2.0
"""What the results say, and that the documentation and the package say the same."""

import copy
import re

import pytest
from packaging.version import Version

from tests.matrix import results
from tests.matrix.__main__ import KERNELS, VLLM
from tests.matrix.contract import CHECKS
from vllm_xpu_fp8_plugin import compat, vllm_releases

CELLS = results.load()


def test_every_combination_has_a_result_and_none_fails() -> None:
    """Catches a release left out, and a table with a failure in it."""
    assert set(CELLS) == {(v, k) for v in VLLM for k in KERNELS}
    assert {cell["status"] for cell in CELLS.values()} <= {
        results.PASSED,
        results.REFUSED,
        results.NOT_INSTALLABLE,
    }
    for cell in CELLS.values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", cell["date"])
        if cell["status"] == results.PASSED:
            assert set(cell["checks"]) == {check.__name__ for check in CHECKS}
            assert set(cell["checks"].values()) == {None}
            assert cell["error"] is None
        else:
            assert cell["error"]


@pytest.mark.parametrize("vllm", VLLM)
def test_every_vllm_passes_and_reranks_in_fp8(vllm: str) -> None:
    """Catches a vLLM that no kernel release goes with, or that was never run."""
    row = [cell for cell in CELLS.values() if cell["vllm"] == vllm]
    passed = [cell for cell in row if cell["status"] == results.PASSED]
    assert passed
    reranked = [c["rerank"] for c in passed if c["rerank"] and not c["rerank"]["error"]]
    assert reranked
    assert all(rerank["spearman"] >= 0.98 for rerank in reranked)


def test_tables_are_the_generated_ones() -> None:
    """Catches a table of the pages or results.md that disagrees with results.json."""
    text = results.PAGE.read_text()
    (table,) = re.findall("<!-- matrix -->\n(.*?)\n<!-- /matrix -->", text, re.DOTALL)
    assert table == results.docs_table(CELLS)
    written = (results.FOLDER / "results.md").read_text()
    assert written == results.markdown(CELLS) + "\n"


def test_tables_show_what_the_results_say() -> None:
    """Catches a table that stays the same when a result changes."""
    cells = copy.deepcopy(CELLS)
    key = next(k for k, c in cells.items() if c["rerank"] and not c["rerank"]["error"])
    cells[key]["rerank"]["error"] = "AssertionError: Spearman 0.1"
    assert results.docs_table(cells) != results.docs_table(CELLS)
    assert "Spearman 0.1" in results.markdown(cells)
    cells[key].update(status=results.FAILED, error="no backend", rerank=None)
    assert "**fail**" in results.markdown(cells)
    assert "no backend" in results.markdown(cells)


def test_package_names_the_releases_that_were_tested() -> None:
    """Catches a NOTE for a tested vLLM, or none for one that was not."""
    tested = results.versions(CELLS, "vllm")
    assert (tested[0], tested[-1]) == (
        vllm_releases.OLDEST,
        vllm_releases.NEWEST_TESTED,
    )


@pytest.mark.parametrize("adjustment", compat.ADJUSTMENTS, ids=lambda a: a.name)
def test_an_adjustment_goes_once_no_supported_vllm_needs_it(
    adjustment: compat.Adjustment,
) -> None:
    """Catches an adjustment that outlives its cause, and a wrong `obsolete_in`."""
    assert Version(adjustment.obsolete_in) > Version(vllm_releases.OLDEST), "remove it"
    for cell in CELLS.values():
        if cell["status"] == results.PASSED:
            is_older = Version(cell["vllm"]) < Version(adjustment.obsolete_in)
            assert (adjustment.name in cell["adjustments"]) == is_older, cell["vllm"]
