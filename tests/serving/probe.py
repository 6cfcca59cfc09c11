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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.serving.server import Server

# "KIND:LAYER": see tests/serving/faults.py.
FAULT = "TESTS_SERVING_FAULT"
_NOTES = "TESTS_SERVING_NOTES"


def environment(folder: Path, *paths: str) -> dict[str, str]:
    """Return the variables by which a program's processes have the probe.

    Args:
        folder: Gets the probe's entry point and what it notes.
        paths: More folders for Python's path.

    """
    made = folder / "plugins" / "tests_serving_probe-0.dist-info"
    made.mkdir(parents=True, exist_ok=True)
    (made / "METADATA").write_text("Name: tests-serving-probe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(
        "[vllm.general_plugins]\ntests_serving_probe = tests.serving.probe:note\n"
    )
    (folder / "notes").mkdir(exist_ok=True)
    root = Path(__file__).parent.parent.parent
    return {
        _NOTES: str(folder / "notes"),
        "PYTHONPATH": ":".join([str(made.parent), str(root), *paths]),
    }


def note() -> None:
    """Write a file on this process, and put in the fault that is asked for."""
    from vllm.platforms import current_platform

    if FAULT in os.environ:
        from tests.serving import faults

        kind, layer = os.environ[FAULT].split(":")
        faults.put_in(kind, layer, trigger(_folder()))
    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "process": multiprocessing.current_process().name,
        "platform": type(current_platform).__name__,
        "folder": os.getcwd(),
        "host": os.environ.get("TESTS_SERVING_HOST", socket.gethostname()),
        "env": {k: v for k, v in os.environ.items() if k.startswith("VLLM")},
        "start": multiprocessing.get_start_method(allow_none=True),
        "ray": "ray" in sys.modules,
    }
    (_folder() / "notes" / f"{os.getpid()}.json").write_text(json.dumps(found))


def _folder() -> Path:
    return Path(os.environ[_NOTES]).parent


def trigger(folder: Path) -> Path:
    """Return the file that switches the fault on, so that a server comes up first."""
    return folder / "trigger"


def notes(folder: Path) -> list[dict[str, Any]]:
    """Return what the probe found in each process that has this folder."""
    return [json.loads(p.read_text()) for p in sorted((folder / "notes").iterdir())]


def assert_active_in_each(server: "Server", count: int, coordinators: int = 0) -> None:
    """Assert that each process has the plugin, and has said so once.

    Args:
        server: That is up.
        count: Of its processes that have to do with an engine.
        coordinators: Of those that hand on what engines say; vLLM asks for its
            platform there, and calls no probe.

    """
    found = notes(server.folder)
    assert [note["platform"] for note in found] == ["VirtualXPUPlatform"] * count
    assert {note["env"]["VLLM_XPU_FP8_PLUGIN"] for note in found} == {"emulate"}
    said = server.output.count("XPU FP8 plugin is active")
    assert said == count + coordinators
