# SPDX-License-Identifier: Apache-2.0
"""Each patch for vLLM mends what its test, which vLLM could take, sees."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from vllm.v1.attention.backend import AttentionType

from tests.doctor.packages import vllm_tree
from tests.upstream.scratch import apply, copy_of, patched_files
from vllm_xpu_fp8_plugin import vllm_releases

FOLDER = Path(__file__).parent.parent.parent / "upstream" / "vllm"
FAULTS = sorted(path.parent for path in FOLDER.glob("*/fix.patch"))
KERNELS = sorted(path.parent for path in FOLDER.parent.glob("kernels/*/fix.patch"))
TESTED = sorted(path.parent for path in FOLDER.glob("*/test_*.py"))


def installed() -> Path:
    """Return the folder of the installed vLLM."""
    spec = importlib.util.find_spec("vllm")
    assert spec and spec.origin
    return Path(spec.origin).parent


def outcomes(path: Path) -> dict[str, dict[str, str]]:
    """Run all of the tests on virtual XPUs, with the vLLM in `path`.

    One process for all of them, since it takes vLLM ten seconds to be imported.

    Returns:
        Of each fault, test -> "passed", "failed" or "skipped".

    """
    command = Path(sys.executable).parent / "vllm-xpu-fp8"
    tests = [str(test) for fault in TESTED for test in fault.glob("test_*.py")]
    pytest_line = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [command, "run", "--", *pytest_line, "--junit-xml", "found.xml", *tests],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    file = path / "found.xml"
    assert file.exists(), done.stdout + done.stderr
    found: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        words = {"failure": "failed", "error": "failed", "skipped": "skipped"}
        word = next((words[x.tag] for x in case if x.tag in words), "passed")
        # upstream.vllm.FAULT.MODULE, of which the front depends on the rootdir
        fault = case.attrib["classname"].split(".")[-2]
        found.setdefault(fault, {})[case.attrib["name"]] = word
    return found


def test_each_test_fails_before_and_passes_after(tmp_path: Path) -> None:
    """Catches a patch that does not apply or mends nothing, and a test that is blind.

    The patches are of vLLM 0.33.0. Before: the installed release, with the change of
    #39676 taken back. After: the release with every patch.
    """
    fixes = [fault / "fix.patch" for fault in FAULTS]
    taken_back = FOLDER / "encoder_descale_test" / "before_39676.patch"
    folders = {"before": [taken_back], "after": fixes}
    found = {}
    for name, patches in folders.items():
        files = sorted({file for patch in patches for file in patched_files(patch)})
        path = copy_of(installed(), files, tmp_path / name)
        for patch in patches:
            apply(patch, path)
        found[name] = outcomes(path)
    for fault in TESTED:
        before, after = (found[name][fault.name] for name in ("before", "after"))
        assert set(before) == set(after)
        assert "failed" in before.values(), fault.name
        assert set(after.values()) == {"passed"}, (fault.name, after)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_newest_release_still_has_the_fault(fault: Path, tmp_path: Path) -> None:
    """Catches a patch, shown on the installed release, of what a newer one mended."""
    patch = fault / "fix.patch"
    tree = vllm_tree(vllm_releases.NEWEST_TESTED)
    path = copy_of(tree, patched_files(patch), tmp_path / "copy")
    apply(patch, path)
    with pytest.raises(AssertionError, match="previously applied"):
        apply(patch, path)


@pytest.mark.parametrize("fault", TESTED, ids=lambda fault: fault.name)
def test_of_the_release_as_it_is_one_passes(fault: Path) -> None:
    """Catches a fault that the release no longer has, which is no report any more."""
    (file,) = fault.glob("test_*.py")
    module = runpy.run_path(str(file))
    with pytest.MonkeyPatch.context() as monkeypatch, torch.device("xpu"):
        if fault.name == "encoder_descale_test":
            types = (AttentionType.ENCODER_ONLY, torch.bfloat16)
            module["test_encoder_attention"](*types, monkeypatch)
        elif fault.name == "diffkv_descale":
            with pytest.raises((NotImplementedError, AssertionError)):
                module["test_decode_has_no_query_descale"](monkeypatch)
        elif fault.name == "encoder_fp8_kv_cache":
            with pytest.raises(NotImplementedError, match="encoder attention"):
                module["test_the_dtype_of_no_cache_changes_nothing"]()
        else:
            refused = pytest.raises(pytest.fail.Exception, match="DID NOT RAISE")
            with refused:
                module["test_triton_refuses_in_encoder_layers"](
                    {"alibi_slopes": [1, 1]}
                )


def test_each_fault_has_a_report_and_a_test() -> None:
    """Catches a patch without the words to send it with."""
    assert set(FAULTS) < set(TESTED)
    table = (FOLDER.parent / "README.md").read_text()
    for fault in [*TESTED, *KERNELS]:
        report = (fault / "REPORT.md").read_text()
        assert report.startswith("# ")
        for part in ("## What happens", "## Why", "## What is proposed"):
            assert part in report, (fault.name, part)
        assert f"({fault.relative_to(FOLDER.parent)}/REPORT.md)" in table


def test_scripts_of_the_reports_are_run() -> None:
    """Catches a script that is not one of docs/findings.md, which the tests run."""
    findings = (FOLDER.parent.parent / "docs" / "findings.md").read_text()
    count = 0
    for fault in KERNELS:
        blocks = re.findall(
            r"```python\n.*?```", (fault / "REPORT.md").read_text(), re.DOTALL
        )
        for block in blocks[1:]:
            assert block in findings, fault.name
            count += 1
    assert count >= 8


@pytest.mark.parametrize("fault", KERNELS, ids=lambda fault: fault.name)
def test_patch_of_the_kernels_applies(fault: Path, tmp_path: Path) -> None:
    """Catches a patch that the kernels' source has moved away from."""
    patch = fault / "fix.patch"
    files = patched_files(patch)
    assert files and all(file.startswith("csrc/") for file in files)
    checkout = os.environ.get("KERNELS_CHECKOUT")
    if not checkout:
        pytest.skip("KERNELS_CHECKOUT names no checkout of vllm-xpu-kernels")
    for file in files:
        copy = tmp_path / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((Path(checkout) / file).read_text())
    apply(patch, tmp_path)
