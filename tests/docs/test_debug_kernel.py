# SPDX-License-Identifier: Apache-2.0
"""docs/debug_kernel.md, as it is written."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.generated import DOCS

PAGE = (DOCS / "debug_kernel.md").read_text()

pytestmark = pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")


def debug(name: str, folder: Path) -> str:
    """Write the page's script and gdb's commands, and return what gdb prints."""
    section = PAGE.split("\n## ")[1 if name == "fault" else 2]
    script = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    orders = re.search(r"```text\n(set .*?)```", section, re.DOTALL)
    line = re.search(r"```bash\n(.*?)\n```", section, re.DOTALL)
    assert script and orders and line
    (folder / f"{name}.py").write_text(script[1])
    (folder / f"{name}.gdb").write_text(orders[1])
    command = line[1].split()
    command[0] = str(Path(sys.executable).parent / command[0])
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240
    )
    if "ptrace" in done.stderr:
        pytest.skip("gdb may not start a process here")
    return done.stdout + done.stderr


def test_gdb_names_the_kernel_that_faults(tmp_path: Path) -> None:
    """Catches a transcript that is none; addresses and registers may differ."""
    shown = debug("fault", tmp_path)
    assert "received signal SIGSEGV" in shown, shown
    name = re.search(r"typeinfo name for (vllm::.*) \(\)", PAGE)
    assert name and name[1] in shown


def test_gdb_stops_in_a_kernel(tmp_path: Path) -> None:
    """Catches kernels that the runtime no longer tells gdb of."""
    shown = debug("stop", tmp_path)
    kernel = "typeinfo name for vllm::rms_norm_kernel<float, 2, 4, true>"
    assert re.search(f"hit Breakpoint 2, 0x.* in {re.escape(kernel)}", shown), shown
    assert "DeviceBackend::Kernel::RunGroup" in shown
