# SPDX-License-Identifier: Apache-2.0
"""A general plugin of vLLM's, which vLLM calls in each process that has an engine.

It notes what the process is, and puts a fault into its ops.
"""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

# "KIND:LAYER": see tests/serving/faults.py.
FAULT = "TESTS_SERVING_FAULT"


def note() -> None:
    """Write a file on this process, and put in the fault that is asked for."""
    from vllm.platforms import current_platform

    if FAULT in os.environ:
        from tests.serving import faults

        faults.put_in(*os.environ[FAULT].split(":"))
    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "process": multiprocessing.current_process().name,
        "platform": type(current_platform).__name__,
        "folder": os.getcwd(),
        "host": os.environ.get("TESTS_SERVING_HOST", socket.gethostname()),
        "node": os.environ.get("RAY_NODE_ID", ""),
        "env": {k: v for k, v in os.environ.items() if k.startswith("VLLM")},
        "start": multiprocessing.get_start_method(allow_none=True),
        "ray": "ray" in sys.modules,
    }
    folder = Path(os.environ["TESTS_SERVING_NOTES"])
    (folder / f"{os.getpid()}.json").write_text(json.dumps(found))
