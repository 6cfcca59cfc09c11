# SPDX-License-Identifier: Apache-2.0
"""Reading kernel packages: real wheels, and files that are none."""

import contextlib
import io
import struct
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doctor.packages import kernel_package, kernel_wheel
from tests.kernel_package.test_compiled_attention import held
from vllm_xpu_fp8_plugin.kernel_package import installed, python_layer
from vllm_xpu_fp8_plugin.kernel_package.files import KernelPackageError, read_package
from vllm_xpu_fp8_plugin.kernel_package.python_layer import (
    FORWARDED,
    REFUSED,
    RETURNS_ONLY,
    WRITES_OUT,
)

VERSIONS = ("0.1.13.2", "0.1.14.1", "0.1.16.2")
# hypothesis runs a test many times within one use of a fixture.
TEMPORARY = tempfile.TemporaryDirectory()


@pytest.mark.parametrize("version", VERSIONS)
def test_compiled_kernels_of_real_wheels(version: str) -> None:
    """Catches a wheel of which the compiled kernels are read wrongly or not at all."""
    package = kernel_package(version)
    assert package.version == version
    xe2 = package.compiled["xe2"]
    assert held(xe2, 64, local=True) == (version == "0.1.14.1"), "ModernBERT, local"
    assert held(xe2, 64), "ModernBERT, global"
    assert held(xe2, 128) == (version != "0.1.13.2"), "bidirectional, head size 128"
    assert held(xe2, 96)
    for head_size in (32, 64, 128):
        assert held(xe2, head_size, paged=True, causal=True), "full attention"
    assert xe2.decode
    assert ("xe3" in package.compiled) == (version == "0.1.16.2")


@pytest.mark.parametrize("version", VERSIONS)
def test_query_descale_of_real_wheels(version: str) -> None:
    """Catches a conclusion from the op's schema, which Xe2's kernel does not honour."""
    package = kernel_package(version)
    takes_one = version == "0.1.16.2"
    assert package.attention_schema
    assert ("q_scale" in package.attention_schema) == takes_one
    assert package.takes_query_scale["xe2"] is False
    assert package.takes_query_scale.get("xe3", False) == takes_one
    assert package.needs == "libsycl.so.9"


@pytest.mark.parametrize("version", VERSIONS)
def test_python_layer_does_what_its_source_says(version: str) -> None:
    """Catches a source that is read wrongly: runs it, with an op that is missing."""
    package = kernel_package(version)
    layer = python_layer.examine(package.interface)
    assert layer == (
        (REFUSED, RETURNS_ONLY)
        if version == "0.1.13.2"
        else (REFUSED, WRITES_OUT)
        if version == "0.1.14.1"
        else (FORWARDED, WRITES_OUT)
    )

    received: list[Any] = []

    def op(*args: Any) -> None:
        received.extend(args)
        raise RuntimeError("kernel tuple not compiled")

    module = types.ModuleType("interface")
    code = package.interface.replace("from . import", "import")
    exec(code, module.__dict__)
    ops = types.SimpleNamespace(_vllm_fa2_C=types.SimpleNamespace(varlen_fwd=op))
    module.__dict__["torch"] = types.SimpleNamespace(**vars(torch) | {"ops": ops})
    query = torch.randn(5, 2, 64, dtype=torch.bfloat16)
    starts = torch.tensor([0, 5], dtype=torch.int32)
    out = torch.full_like(query, torch.nan)
    arguments = dict(
        q=query, k=query, v=query, cu_seqlens_q=starts, cu_seqlens_k=starts
    ) | {"max_seqlen_q": 5, "max_seqlen_k": 5, "out": out}
    module.flash_attn_varlen_func(**arguments)
    assert bool(out.isnan().any()) == (layer.fallback == RETURNS_ONLY)

    descale = torch.ones(())
    received.clear()
    with contextlib.suppress(NotImplementedError):
        module.flash_attn_varlen_func(**arguments, q_descale=descale)
    assert any(x is descale for x in received) == (layer.query_descale == FORWARDED)
    assert bool(received) == (layer.query_descale != REFUSED)


def test_a_wheel_is_read_within_five_seconds_and_200_mb() -> None:
    """Catches a wheel that is unpacked whole: this one has 780 MB."""
    code = """
import re, resource, sys
from pathlib import Path
from vllm_xpu_fp8_plugin.kernel_package.files import read_package
read_package(Path(sys.argv[1]))
usage = resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss starts at that of the process this one was forked from.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(usage.ru_utime + usage.ru_stime, int(peak[1]) / 1024)
"""
    wheel = kernel_wheel("0.1.16.2")
    unpacked = sum(i.file_size for i in zipfile.ZipFile(wheel).infolist())
    assert unpacked > 780e6
    done = subprocess.run(
        [sys.executable, "-c", code, wheel], capture_output=True, text=True, check=True
    )
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 5
    assert megabytes < 200


def test_installed_package_and_its_parent_folder_read_alike() -> None:
    """Catches a folder that has to be named in one certain way."""
    folder = installed.package_dir()
    package = read_package(folder)
    assert package.version == installed.package_version()
    assert package.compiled
    assert package == read_package(folder.parent)._replace(source=folder)


def small_wheel(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vllm_xpu_kernels/flash_attn_interface.py", "")
        for name, content in files.items():
            archive.writestr(f"vllm_xpu_kernels/{name}", content)
    return buffer.getvalue()


WHEEL = small_wheel(
    **{
        "_vllm_fa2_C.abi3.so": b"varlen_fwd(Tensor q) -> Tensor[]\0",
        "libattn_kernels_xe_2.so": b"chunk_policy_head64_fffff" * 50,
    }
)


def fake(field_offset: int, value: int) -> bytes:
    """Return `WHEEL` with a 4-byte field of its last record changed."""
    end = WHEEL.rfind(b"PK\5\6") + field_offset
    return WHEEL[:end] + struct.pack("<I", value) + WHEEL[end + 4 :]


def claiming(size: int) -> bytes:
    """Return `WHEEL` whose list claims `size` bytes for each member."""
    data = bytearray(WHEEL)
    at = data.find(b"PK\1\2")
    while at >= 0:
        data[at + 24 : at + 28] = struct.pack("<I", size)
        at = data.find(b"PK\1\2", at + 4)
    return bytes(data)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\3\4",
        WHEEL[:-30],
        WHEEL[len(WHEEL) // 2 :],
        fake(12, 1 << 30),
        fake(16, 1 << 31),
        claiming(0xFFFFFFF0),
        claiming(1 << 20),
        b"not a wheel" * 9999,
    ],
)
def test_a_file_that_is_no_wheel_is_named(content: bytes, tmp_path: Path) -> None:
    """Catches a traceback, or gigabytes taken, for a truncated or hostile wheel."""
    path = tmp_path / "kernels.whl"
    path.write_bytes(content)
    with pytest.raises(KernelPackageError, match=r"kernels\.whl|claims"):
        read_package(path)


@pytest.mark.parametrize("path", ["missing.whl", "."])
def test_a_path_without_the_package_is_named(path: str, tmp_path: Path) -> None:
    """Catches a wrong --kernels that ends in a traceback."""
    with pytest.raises(KernelPackageError, match="vllm"):
        read_package(tmp_path / path)


@settings(deadline=None)
@given(st.data())
def test_damaged_wheels_are_read_or_refused(data: st.DataObject) -> None:
    """Catches any other exception for bytes changed anywhere in a wheel."""
    content = bytearray(WHEEL)
    places = st.integers(0, len(content) - 1)
    for at in data.draw(st.lists(places, min_size=1, max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    path = Path(TEMPORARY.name) / "damaged.whl"
    path.write_bytes(content)
    with contextlib.suppress(KernelPackageError):
        read_package(path)


@settings(deadline=None)
@given(st.text() | st.sampled_from(["(" * 9999, "-" * 99999 + "1", "x\0"]))
def test_any_python_source_is_examined(source: str) -> None:
    """Catches a source that ends in an exception in place of "unknown"."""
    wrapped = f"def flash_attn_varlen_func(q_descale):\n    {source}"
    for text in (source, wrapped):
        assert python_layer.examine(text).query_descale in (
            python_layer.UNKNOWN,
            python_layer.REFUSED,
        )
