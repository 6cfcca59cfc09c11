# SPDX-License-Identifier: Apache-2.0
"""Each outcome of activation, in a process of its own with the real vLLM."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.startup import mirror

pytestmark = pytest.mark.slow

# vLLM's modules import its logger before they ask for the platform.
PLATFORM = """
import vllm.logger
from vllm.platforms import current_platform

current_platform.validate_environ(False)
print("PLATFORM", type(current_platform).__module__, type(current_platform).__name__)
print("DEVICE", current_platform.device_type, current_platform.is_xpu())
"""


# Forks a process for each line, which goes on below as a script of its own would. What
# vLLM imports before it asks for the platform takes 6 s.
SERVER = """
import json, os, signal, sys
import torch, vllm.logger, vllm.platforms
assert vars(vllm.platforms).get("_current_platform") is None
for line in sys.stdin:
    if not (child := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
signal.alarm(240)
request = json.loads(line)
for descriptor, name in enumerate(request["files"]):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), descriptor)
os.environ.clear()
os.environ.update(request["env"])
if request["path"]:
    os.chdir(request["path"])
    sys.path[:] = [request["path"], *(p for p in sys.path if "site-packages" not in p)]
exec(request["code"])
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """Have a process that imports vLLM once for all tests."""
    yield
    if _server.cache_info().currsize:
        _server().communicate()
    _server.cache_clear()


@functools.cache
def _server() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _environment(**extra: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    return {**env, "VLLM_LOGGING_LEVEL": "INFO", **extra}


def run(
    code: str, value: str | None, path: Path | None = None, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run `code` with ``VLLM_XPU_FP8_PLUGIN`` set to `value`.

    `path` is a site-packages to use in place of the real one.
    """
    env = _environment(**extra)
    if value is not None:
        env["VLLM_XPU_FP8_PLUGIN"] = value
    server = _server()
    assert server.stdin and server.stdout
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        request = {
            "code": code,
            "env": env,
            "path": path and str(path),
            "files": [os.devnull, str(out), str(err)],
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            code, status, out.read_text(), err.read_text()
        )


def log_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the plugin's own lines."""
    text = done.stdout + done.stderr
    return [x for x in text.splitlines() if "XPU FP8 plugin is" in x]


def test_unset_leaves_no_trace() -> None:
    """Catches work, log lines or a platform of ours where the plugin is off."""
    done = run(PLATFORM, None)
    assert "PLATFORM vllm.platforms.interface UnspecifiedPlatform" in done.stdout
    assert log_lines(done) == []


def test_off_says_so_and_leaves_vllm_alone() -> None:
    """Catches "0" taken for true, and a variable that vLLM calls unknown."""
    done = run(PLATFORM, "0")
    assert "PLATFORM vllm.platforms.interface UnspecifiedPlatform" in done.stdout
    assert [x for x in log_lines(done) if "inactive" in x and "INFO" in x]
    assert "Unknown vLLM environment variable" not in done.stdout + done.stderr


def test_off_imports_the_standard_library_only() -> None:
    """Catches an import of torch or vLLM, or a package, where the plugin is off."""
    code = """
import sys
before = set(sys.modules)
import vllm_xpu_fp8_plugin
assert vllm_xpu_fp8_plugin.register() is None
new = {m.split(".")[0] for m in set(sys.modules) - before}
print("THIRD", sorted(new - set(sys.stdlib_module_names) - {"vllm_xpu_fp8_plugin"}))
"""
    for extra in ({}, {"VLLM_XPU_FP8_PLUGIN": "off"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=_environment(**extra),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert "THIRD []" in done.stdout, done.stdout + done.stderr


def test_on_without_a_gpu_warns_and_goes_on_without_the_plugin() -> None:
    """Catches a platform forced on a host without an Intel GPU, or silence about it."""
    done = run(PLATFORM, "1")
    assert "PLATFORM vllm.platforms.interface UnspecifiedPlatform" in done.stdout
    lines = log_lines(done)
    assert len(lines) == 1, "one line a process, though vLLM calls twice"
    assert "WARNING" in lines[0]
    assert "not a build for Intel GPUs" in lines[0]
    assert "VLLM_XPU_FP8_PLUGIN=emulate" in lines[0]


def test_a_vllm_that_cannot_be_asked_is_named_and_goes_on() -> None:
    """Catches an error that vLLM up to 0.28 swallows without a word."""
    code = """
import vllm.logger, vllm.platforms
del vllm.platforms.xpu_platform_plugin
from vllm_xpu_fp8_plugin import register
print("ANSWER", register(), register())
"""
    done = run(code, "1")
    assert "ANSWER None None" in done.stdout, done.stderr
    (line,) = log_lines(done)
    assert "WARNING" in line
    assert "could not be asked" in line
    assert "ImportError" in line


# An Intel GPU host, as far as torch, vLLM and the kernel package can tell.
GPU_HOST = """
from vllm_xpu_fp8_plugin import virtual_xpu
virtual_xpu.enable()
import torch
"""


def test_on_with_two_gpus_hands_out_the_platform() -> None:
    """Catches an XPU host on which the plugin stays inactive, and a GPU not seen.

    vLLM detects the device, a virtual one, by its own code.
    """
    code = (
        GPU_HOST + PLATFORM + 'print("GPUS", torch.accelerator.device_count(), '
        "current_platform.get_device_name(1))"
    )
    done = run(code, "1")
    assert "PLATFORM vllm_xpu_fp8_plugin.platform XPUFp8Platform" in done.stdout
    assert "DEVICE xpu True" in done.stdout
    assert "GPUS 2 Virtual Intel GPU (software)" in done.stdout
    assert [x for x in log_lines(done) if "active" in x and "INFO" in x]


def test_on_without_a_driver_says_so() -> None:
    """Catches an XPU build of torch that sees no GPU, taken for one that does."""
    code = GPU_HOST + "torch._C._xpu_getDeviceCount = lambda: 0\n" + PLATFORM
    done = run(code, "1")
    assert "PLATFORM vllm.platforms.interface UnspecifiedPlatform" in done.stdout
    (line,) = log_lines(done)
    assert "WARNING" in line
    assert "no Intel GPU is visible" in line
    assert "sycl-ls" in line


def test_on_with_a_broken_kernel_library_names_it(tmp_path: Path) -> None:
    """Catches the traceback of a library that does not load on a GPU host."""
    broken = tmp_path / "_C.abi3.so"
    broken.write_bytes(b"\x7fELF" + b"\0" * 5000)
    code = f"""{GPU_HOST}
import sys, vllm_xpu_kernels
for name in [n for n in sys.modules if n.startswith("vllm_xpu_kernels.")]:
    del sys.modules[name]
vllm_xpu_kernels.__path__ = [{str(tmp_path)!r}]
{PLATFORM}"""
    done = run(code, "1")
    (line,) = log_lines(done)
    assert "WARNING" in line
    assert "vllm.platforms.xpu does not import (ImportError" in line
    assert str(broken) in line
    assert "requirements/xpu.txt" in line


def test_a_gpu_host_serves_by_the_plugins_own_platform(minilm: str) -> None:
    """Catches a platform that only works with what is changed for a virtual GPU."""
    code = f"""{GPU_HOST}
from vllm import LLM
from vllm.platforms import current_platform
from vllm.v1.worker import gpu_worker
# It imports torchvision, which an XPU's requirements have and these have not.
gpu_worker.kernel_warmup = lambda worker: None
llm = LLM(
    {minilm!r}, runner="pooling", quantization="fp8", kv_cache_dtype="fp8",
    enforce_eager=True, kv_cache_memory_bytes=1 << 26, max_num_batched_tokens=256,
)
scores = llm.score("What is the capital of France?", [
    "The capital of France is Paris.", "The capital of Brazil is Brasilia."
])
print("PLATFORM", type(current_platform).__name__)
print("SCORES", [round(s.outputs.score, 2) for s in scores])
"""
    done = run(code, "1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    assert "PLATFORM XPUFp8Platform" in done.stdout, done.stderr
    assert "SCORES [0.88, 0.41]" in done.stdout


def test_emulate_hands_out_a_virtual_xpu() -> None:
    """Catches a virtual XPU that vLLM does not take for an XPU."""
    done = run(PLATFORM, "EMULATE")
    assert "virtual_xpu.platform VirtualXPUPlatform" in done.stdout
    assert "DEVICE xpu True" in done.stdout
    assert len(log_lines(done)) == 1


@pytest.mark.parametrize("value", ["yes", "emulated"])
def test_unknown_value_ends_vllm_with_a_message(value: str) -> None:
    """Catches a typing error after which vLLM goes on without what was asked for."""
    done = run(PLATFORM, value)
    assert done.returncode == 1
    assert f"VLLM_XPU_FP8_PLUGIN={value!r}" in done.stderr
    assert "0, off, false" in done.stderr
    assert "Traceback" not in done.stderr


def test_emulate_without_the_kernel_package_names_the_pip_command(
    tmp_path: Path,
) -> None:
    """Catches a traceback, or a silent CPU run, where the kernel package is missing."""
    path = mirror(tmp_path / "site", True, without="vllm_xpu_kernels")
    done = run(PLATFORM, "emulate", path)
    assert done.returncode == 1
    assert "pip install --no-deps vllm-xpu-kernels" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF" + b"\0" * 5000])
def test_broken_kernel_package_is_named(content: bytes | None, tmp_path: Path) -> None:
    """Catches a damaged installation that ends in a traceback or in missing ops."""
    path = mirror(tmp_path / "site", True, without="vllm_xpu_kernels")
    package = path / "vllm_xpu_kernels"
    package.mkdir()
    (package / "__init__.py").touch()
    if content is not None:
        (package / "_vllm_fa2_C.abi3.so").write_bytes(content)
    done = run(PLATFORM, "emulate", path)
    assert done.returncode == 1
    assert "einstall" in done.stderr
    assert str(package) in done.stderr
    assert "Traceback" not in done.stderr
