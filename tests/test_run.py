# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 run``."""

import os
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).parent / "vllm-xpu-fp8"


def run(
    *program: str, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_XPU_FP8")}
    return subprocess.run(
        [COMMAND, "run", *program],
        env={**env, **environ},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_script_and_what_it_starts_see_xpus(tmp_path: Path) -> None:
    """Catches a device that the program has and its child processes have not."""
    script = tmp_path / "script.py"
    script.write_text(
        # Which is not needed here, and does no harm.
        "from vllm_xpu_fp8_plugin import virtual_xpu\n"
        "virtual_xpu.enable()\n"
        "import subprocess, sys, torch, vllm_xpu_kernels._C\n"
        "x = torch.ones(2, 8, device='xpu')\n"
        "torch.ops._C.silu_and_mul(out := torch.empty(2, 4, device='xpu'), x)\n"
        "print('PARENT', torch.xpu.get_device_name(), round(out.sum().item(), 2))\n"
        "child = 'import torch; print(\"CHILD\", torch.xpu.device_count())'\n"
        "print(subprocess.check_output([sys.executable, '-c', child], text=True))\n"
    )
    done = run("--", "python", str(script))
    assert "PARENT Virtual Intel GPU (software) 5.85" in done.stdout, done.stderr
    assert "CHILD 2" in done.stdout


def test_a_program_may_look_for_torch_before_it_imports_it() -> None:
    """Catches a device that is lost where vLLM or transformers come before torch."""
    script = (
        "import importlib.util\n"
        "assert importlib.util.find_spec('torch').origin.endswith('__init__.py')\n"
        "import torch\n"
        "print('HERE', torch.xpu.device_count())\n"
    )
    done = run("--", "python", "-c", script)
    assert done.stdout.strip() == "HERE 2", done.stderr


def test_pytest_runs_on_a_device_of_the_tests_own(tmp_path: Path) -> None:
    """Catches a test suite for Intel GPUs that needs a change to run here.

    And a checkout's own vllm_xpu_kernels, which has no libraries, taken for the
    installed one.
    """
    for folder in ("tests", "vllm_xpu_kernels"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "tests" / "test_norm.py").write_text(
        "import pytest, torch, vllm_xpu_kernels._C\n"
        "@pytest.mark.skipif(not torch.xpu.is_available(), reason='no XPU')\n"
        "@pytest.mark.parametrize('device', [f'xpu:{i}' for i in range(2)])\n"
        "def test_norm(device):\n"
        "    torch.set_default_device(device)\n"
        "    x = torch.randn(4, 64)\n"
        "    out, weight = torch.empty_like(x), torch.ones(64)\n"
        "    torch.ops._C.rms_norm(out, x, weight, 0.0)\n"
        "    norm = x / x.square().mean(-1, keepdim=True).sqrt()\n"
        "    torch.testing.assert_close(out, norm)\n"
    )
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    done = run("--", "python", *pytest, cwd=tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_programs_arguments_and_status_are_its_own() -> None:
    """Catches a flag that the command takes for itself, and a lost exit status."""
    done = run(
        "--", "python", "-c", "import sys; print(sys.argv); sys.exit(7)", "--help"
    )
    assert "['-c', '--help']" in done.stdout
    assert done.returncode == 7


def test_a_python_without_torch_pays_nothing() -> None:
    """Catches torch imported into every pip and every shell script's Python."""
    done = run("--", "python", "-c", "import sys; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False"


def test_another_sitecustomize_runs_too(tmp_path: Path) -> None:
    """Catches the user's own start-up module left out."""
    (tmp_path / "sitecustomize.py").write_text("print('OWN')")
    done = run("--", "python", "-c", "print('END')", PYTHONPATH=str(tmp_path))
    # Once for the command itself, and once for the program.
    assert done.stdout.split() == ["OWN", "OWN", "END"]


def test_what_cannot_be_run_is_said() -> None:
    """Catches a traceback."""
    for program, message in (
        ((), "no program is given"),
        (("--",), "no program is given"),
        (("--", "no-such-program"), "no-such-program is not a program"),
    ):
        done = run(*program)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_device_that_cannot_be_had_ends_the_program() -> None:
    """Catches a program that goes on without the device that it was to have."""
    done = run("--", "python", "-c", "import torch", VLLM_XPU_FP8_VIRTUAL_DEVICES="0")
    assert done.returncode == 1
    assert "VLLM_XPU_FP8_VIRTUAL_DEVICES='0' is not an allowed value" in done.stderr
    assert "Traceback" not in done.stderr
