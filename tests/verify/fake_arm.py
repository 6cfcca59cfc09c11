# SPDX-License-Identifier: Apache-2.0
"""An arm without an engine, for the tests of `arm`; a script."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from vllm_xpu_fp8_plugin.verify import child


def measure(request: child.Result, progress: child.Progress) -> child.Result:
    progress.stage("working")
    if "pids" in request:
        sleeper = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(99)"]
        )
        Path(request["pids"]).write_text(f"{os.getpid()} {sleeper.pid}")
    match request["do"]:
        case "raise":
            print("\n".join(f"line {i}" for i in range(100)))
            raise ValueError("no such weight")
        case "refuse":
            raise child.CannotRunError("nothing to verify. Give --quantization fp8.")
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(99)
    return {"role": request["role"], "nan": float("nan")}


if __name__ == "__main__":
    child.main(measure)
