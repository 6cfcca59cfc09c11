# SPDX-License-Identifier: Apache-2.0
"""tests.kernel_tests tells a failure from what the virtual XPU cannot run."""

from pathlib import Path

from tests.kernel_tests import page, read_reports, why

REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"/><testcase name="c"><skipped/></testcase>
<testcase name="d"><failure message="NotImplementedError: The virtual XPU cannot run
 _xpu_C::fp4_gemm"/></testcase>
<testcase name="e"><failure message="AssertionError: 0x7f00 differs | much"/></testcase>
<testcase name="f"><error message="worker 'gw0' crashed"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted(tmp_path: Path) -> None:
    """Catches a crash that is counted as not runnable, or not at all."""
    file = tmp_path / "report.xml"
    file.write_text(REPORT)
    result = read_reports(file)
    assert result[:4] == (2, 2, 1, 1)
    text = page({"0.1.14.1": {"tests/test_x.py": result}}, "4543b580fecca")
    assert "## 0.1.14.1: 2 passed, 2 failed, 1 not runnable" in text
    assert "| tests/test_x.py | 2 | 2 | 1 | 1 |" in text
    assert "commit 4543b58" in text
    assert "differs \\| much" in text


def test_what_passes_when_run_again_has_passed(tmp_path: Path) -> None:
    """Catches a test counted twice, or one that failed for its neighbour's memory."""
    first, again = tmp_path / "0.xml", tmp_path / "1.xml"
    first.write_text(REPORT)
    again.write_text('<testsuites><testcase name="e"/></testsuites>')
    assert read_reports(first, again)[:4] == (3, 1, 1, 1)


def test_a_failure_that_is_not_the_devices_says_why() -> None:
    """Catches a reason that is given for another file's failure too."""
    assert "no such refusal" in why("flash_attn/test_mla_decode.py", "DID NOT RAISE E")
    assert not why("tests/test_fp8_gemm_onednn.py", "DID NOT RAISE E")
