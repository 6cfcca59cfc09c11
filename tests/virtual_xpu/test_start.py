# SPDX-License-Identifier: Apache-2.0
"""A virtual XPU comes up whole, or not at all and says why: one process each."""

import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import psutil
import pytest

from tests.doctor.packages import kernel_wheel
from tests.virtual_xpu.processes import ENABLE, assert_refused, run
from vllm_xpu_fp8_plugin.kernel_package import installed


def test_before_and_after_torch_and_twice() -> None:
    """Catches functions of torch.xpu that settled what they are before."""
    code = """
import torch
assert not torch.accelerator.is_available() and not torch.xpu.is_available()
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
virtual_xpu.enable()
assert torch.accelerator.is_available() and torch.xpu.is_available()
print(torch.ones(2, device="xpu").sum().item(), virtual_xpu.description())
"""
    assert "2.0 Virtual Intel GPU (software): of " in run(code)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VLLM_XPU_FP8_VIRTUAL_DEVICES", "0", "from 1 to 16"),
        ("VLLM_XPU_FP8_VIRTUAL_MEMORY", "12GB", "from 0 to 1024"),
        ("VLLM_XPU_FP8_VIRTUAL_GPU", "b9000", "b580"),
        ("VLLM_XPU_FP8_VIRTUAL_OPS", "fast", "reference"),
    ],
)
def test_what_is_wrong_is_said_and_no_device_is_there(
    name: str, value: str, message: str
) -> None:
    """Catches a traceback, and half of a device."""
    assert_refused(name, value, message)


def test_a_real_gpu_is_not_taken_the_place_of() -> None:
    """Catches a virtual device on a host whose torch sees Intel GPUs."""
    out = run(
        "import torch\ntorch._C._has_xpu = True\n" + ENABLE.partition('print("D')[0]
    )
    assert "build for Intel GPUs" in out


def test_what_was_asked_for_is_there() -> None:
    """Catches settings that are read and not used."""
    code = """
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
import torch
p = torch.xpu.get_device_properties(2)
print(torch.xpu.device_count(), p.total_memory >> 30, p.platform_name)
"""
    out = run(
        code,
        VLLM_XPU_FP8_VIRTUAL_DEVICES="3",
        VLLM_XPU_FP8_VIRTUAL_MEMORY="1",
        VLLM_XPU_FP8_VIRTUAL_GPU="a770",
    )
    assert out.strip() == "3 1 Virtual XPU, after Intel(R) Arc(TM) A770 Graphics"


def test_memory_that_the_host_has_not_is_refused() -> None:
    """Catches a device whose memory Linux promises, and then ends the process for."""
    code = """
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
import psutil, torch
memory = psutil.virtual_memory()
assert torch.xpu.get_device_properties(0).total_memory == memory.total
try:
    torch.empty((memory.available + memory.total) // 2, dtype=torch.uint8, device="xpu")
except torch.OutOfMemoryError as e:
    print(e)
"""
    out = run(code, VLLM_XPU_FP8_VIRTUAL_MEMORY="1024")
    assert "the host has" in out
    assert "VLLM_XPU_FP8_VIRTUAL_MEMORY sets its size" in out


def test_memory_that_others_have_taken_is_refused(tmp_path: Path) -> None:
    """Catches a device that asks SYCL alone, which knows the host's whole memory only.

    A process with a /proc/meminfo of its own, where Linux lets a user have one.
    """
    total = psutil.virtual_memory().total >> 10
    left = tmp_path / "meminfo"
    left.write_text(
        f"MemTotal: {total} kB\nMemFree: 1048576 kB\nMemAvailable: 1048576 kB\n"
    )
    code = """
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
import torch
kept = torch.empty(512 << 20, dtype=torch.uint8, device="xpu")
try:
    torch.empty(2 << 30, dtype=torch.uint8, device="xpu")
except torch.OutOfMemoryError as e:
    print(kept.nbytes, e)
"""
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount --bind {shlex.quote(str(left))} /proc/meminfo"
    if subprocess.run([*alone, mount], capture_output=True, timeout=60).returncode:
        pytest.skip("this machine lets no process have mounts of its own")
    program = shlex.join([sys.executable, "-c", code])
    done = subprocess.run(
        [*alone, f"{mount} && exec {program}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.startswith(f"{512 << 20} XPU out of memory"), done.stderr
    assert "the host has" in done.stdout


@pytest.mark.slow
def test_without_intels_runtime_every_op_runs_in_pytorch() -> None:
    """Catches a machine that is refused though PyTorch could do.

    It also makes the libraries anew, which are other ones without SYCL.
    """
    code = """
from vllm_xpu_fp8_plugin.virtual_xpu import intel
intel.platform.machine = lambda: "aarch64"
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
import torch, vllm_xpu_kernels._C
x = torch.ones(2, 8, device="xpu"); out = torch.empty_like(x)
torch.ops._C.rms_norm(out, x, x[0], 1e-6)
print(virtual_xpu.description(), out.sum().item())
from vllm_xpu_fp8_plugin.virtual_xpu.ops import table
# A product of oneDNN, which has a reason of its own as well.
print("GEMM", table()["_xpu_C::fp8_gemm"].reason)
"""
    out = run(code)
    assert " 0 run as compiled code" in out
    description, gemm = out.split("GEMM")
    for reason in (description, gemm):
        assert "for x86-64, this is aarch64" in reason
    assert "15.99" in out or "16.0" in out


@pytest.mark.slow
def test_in_pytorch_an_op_of_host_tensors_takes_them() -> None:
    """Catches an op of pinned memory that is there for XPU tensors only."""
    code = """
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
import torch, vllm_xpu_kernels._C
view = torch.ops._C.get_xpu_view_from_cpu_tensor
for pinned in (torch.ones(3).pin_memory(), torch.ones(6)[::2], torch.ones(0)):
    got = view(pinned)
    assert got.device == torch.device("xpu", 0) and got.shape == pinned.shape, got
    assert got.eq(1).all()
pinned = torch.ones(3).pin_memory()
got = view(pinned)
pinned[1] = 5
assert got.tolist() == [1, 5, 1]
address = torch.tensor(pinned.data_ptr())
assert torch.ops._C.xpu_host_register(address, 12)
print("THERE")
"""
    assert "THERE" in run(code, VLLM_XPU_FP8_VIRTUAL_OPS="reference")


def test_a_kernel_package_for_another_torch_runs_in_pytorch_and_says_so() -> None:
    """Catches ops that are in PyTorch, or missing, without a word of why."""
    code = (
        """
from vllm_xpu_fp8_plugin.virtual_xpu import libraries
libraries.load = lambda *args: ("undefined symbol: _ZN3c10", {})
"""
        + ENABLE
    )
    out = run(code)
    assert " 0 run as compiled code" in out
    assert "(undefined symbol: _ZN3c10)" in out


def test_a_release_for_another_sycl_runs_in_pytorch_and_says_so() -> None:
    """Catches a package that no SYCL runtime from PyPI loads, refused as broken."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(kernel_wheel("0.1.3.1")) as archive:
            archive.extractall(folder)
        out = run(PYTHONPATH=folder)
    assert "vllm-xpu-kernels 0.1.3.1 does not load" in out
    assert "libsycl.so.8" in out
    assert " 0 run as compiled code" in out


def test_device_code_of_an_unknown_form_is_not_run(tmp_path: Path) -> None:
    """Catches a kernel that is registered without code, and fails at its first call."""
    released = installed.package_dir()
    package = tmp_path / "vllm_xpu_kernels"
    package.mkdir()
    for file in released.iterdir():
        (package / file.name).symlink_to(file)
    library = package / "_moe_C.abi3.so"
    code = library.read_bytes().replace(b"\x03\x02\x23\x07", b"\x03\x02\x23\x08")
    library.unlink()
    library.write_bytes(code)
    # Its notes say the version.
    (notes,) = released.parent.glob("vllm_xpu_kernels-*.dist-info")
    (tmp_path / notes.name).symlink_to(notes)
    code = """
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
import torch, vllm_xpu_kernels._moe_C, vllm_xpu_kernels._C
from vllm_xpu_fp8_plugin.virtual_xpu import ops
print(ops.table()["_moe_C::topk_softmax"], ops.table()["_C::rms_norm"])
print(virtual_xpu.description())
"""
    out = run(code, PYTHONPATH=str(tmp_path))
    assert "device code of _moe_C is of a form that is not known" in out
    assert "Op(runs='compiled', reason='')" in out


def test_a_forked_process_is_told_to_spawn() -> None:
    """Catches a fork of a process with kernels that hangs at its first one."""
    code = """
import os
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
import torch
torch.ones(2, device="xpu").add_(1)
if os.fork() == 0:
    try:
        torch.xpu.init()
        torch.ops._C.silu_and_mul(*[torch.ones(2, 8, device="xpu")] * 2)
    except RuntimeError as e:
        print("CHILD", e, flush=True)
    os._exit(0)
os.wait()
"""
    assert "CHILD Cannot re-initialize XPU in forked subprocess" in run(code)


def test_triton_is_usable_and_no_gpu_is_hidden_from_ray() -> None:
    """Catches a Ray that cannot start with the GPUs that vLLM asks it for.

    Also a program that takes CUDA, where torch has it, in place of the virtual GPU.
    """
    code = """
import os, torch
os.environ.pop("CUDA_VISIBLE_DEVICES", None)
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
assert not torch.cuda.is_available() and torch.cuda.device_count() == 0
from vllm.triton_utils import HAS_TRITON
print("USABLE", HAS_TRITON, os.environ.get("CUDA_VISIBLE_DEVICES"))
"""
    assert "USABLE True None" in run(code)
