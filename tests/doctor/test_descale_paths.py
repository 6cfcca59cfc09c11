# SPDX-License-Identifier: Apache-2.0
"""Which attention paths of real vLLM trees hand on a query descale."""

import re
import shutil
from pathlib import Path

import pytest

from tests.doctor.packages import VLLM_SOURCES, installed_vllm, vllm_tree
from vllm_xpu_fp8_plugin.doctor import descale_paths
from vllm_xpu_fp8_plugin.doctor.checks import vllm
from vllm_xpu_fp8_plugin.doctor.descale_paths import (
    ABSENT,
    DROPPED,
    NONE,
    PASSED,
    UNKNOWN,
)
from vllm_xpu_fp8_plugin.doctor.report import Status

INSTALLED = installed_vllm()


def states(tree: Path) -> dict[str, str]:
    return {p.name: p.state for p in descale_paths.inspect(tree).paths}


@pytest.mark.parametrize("version", ["0.20.0", "0.28.0"])
def test_releases_that_have_cascade_attention_leak_there(version: str) -> None:
    """Catches a leaking path that is not seen, and a guarded one that is reported."""
    tree = vllm_tree(version)
    assert states(tree) == {
        "encoder": NONE,
        "full": NONE,
        "cascade": PASSED,
        "DiffKV": PASSED,
    }
    assert descale_paths.inspect(tree).refuses_fp8_kv_cache


def test_installed_vllm() -> None:
    """Catches the same for the vLLM that the other tests run."""
    assert states(INSTALLED) == {
        "encoder": NONE,
        "full": NONE,
        "cascade": ABSENT,
        "DiffKV": PASSED,
    }
    path = descale_paths.inspect(INSTALLED).paths[0]
    file, line = path.where.split(":")
    source = (INSTALLED / "v1/attention/backends" / file).read_text().splitlines()
    assert "flash_attn_varlen_func(" in source[int(line) - 1]


@pytest.mark.parametrize("plugin", [False, True])
def test_what_the_plugin_mends_is_said(plugin: bool) -> None:
    """Catches DiffKV's descale that is called harmless though nothing drops it."""
    checks = {c.name: c for c in vllm.check(INSTALLED, {}, plugin=plugin)}
    diffkv = checks["query_descale_diffkv"]
    assert diffkv.status == (Status.OK if plugin else Status.NOTE)
    assert "the plugin drops it" in diffkv.finding


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the installed vLLM's sources, to be changed."""
    for name in VLLM_SOURCES:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(INSTALLED.parent / name, target)
    return tmp_path / "vllm"


def change(path: Path, pattern: str, replacement: str) -> None:
    text, changes = re.subn(pattern, replacement, path.read_text())
    assert changes
    path.write_text(text)


GUARD = r"\n *if self\.supports_quant_query_input\n *else None"


def test_the_defect_of_39676_is_found(tree: Path) -> None:
    """Catches a build of main from before the fix that is called sound."""
    file = tree / "v1/attention/backends/flash_attn.py"
    change(file, r"(q_descale=layer[^\n]*)" + GUARD, r"\1\n")
    assert states(tree)["encoder"] == PASSED
    assert states(tree)["full"] == NONE


def test_a_flag_that_allows_it_on_xpu_is_found(tree: Path) -> None:
    """Catches a guard trusted without looking at what it guards with."""
    change(
        tree / "v1/attention/backends/fa_utils.py",
        r"return not current_platform\.is_xpu\(\)",
        "if current_platform.is_xpu():\n        return True\n    return False",
    )
    assert states(tree)["encoder"] == PASSED
    assert states(tree)["full"] == PASSED


def test_a_flag_that_cannot_be_read_is_unknown(tree: Path) -> None:
    """Catches a guess where the sources have become something else."""
    change(
        tree / "v1/attention/backends/fa_utils.py",
        r"return not current_platform\.is_xpu\(\)",
        "return ask_the_device()",
    )
    assert states(tree)["encoder"] == UNKNOWN


def test_a_wrapper_that_drops_descales_is_seen(tree: Path) -> None:
    """Catches vLLM 0.17 - 0.19 reported as leaking: its wrapper drops them."""
    change(tree / "_xpu_ops.py", r"q_descale=q_descale,", "")
    assert states(tree)["DiffKV"] == DROPPED


def test_encoder_attention_without_the_refusal_is_seen(tree: Path) -> None:
    """Catches a vLLM with #55048 fixed that is still said to fail."""
    change(
        tree / "v1/attention/backends/flash_attn.py",
        r"if is_quantized_kv_cache\(self\.kv_cache_dtype\):\n( *)raise Not",
        r"if False:\n\1raise Not",
    )
    assert descale_paths.inspect(tree).refuses_fp8_kv_cache is False


@pytest.mark.parametrize("content", [None, "def (", "x\0"])
def test_sources_that_are_missing_or_broken_are_named(
    tree: Path, content: str | None
) -> None:
    """Catches a traceback for a vLLM that is too old or damaged."""
    file = tree / "v1/attention/backends/flash_attn.py"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"flash_attn\.py"):
        descale_paths.inspect(tree)
