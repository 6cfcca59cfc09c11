# SPDX-License-Identifier: Apache-2.0
"""Starts modules in processes that take no code from the current directory; ends them.

``python -m`` puts the current directory first on `sys.path`: in the folder of a
downloaded model, or in a checkout of vLLM, modules that lie there would run in place
of the installed ones.
"""

import atexit
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

# What `-m` does, without the '' that `-c` has put on the path. `sys` is built in:
# nothing is looked for before.
_RUN = (
    "import sys; sys.path[:] = filter(None, sys.path); import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)

# Holds no modules, and a stranger cannot write there.
_SAFE_FOLDER = "/"

# New objects before Python looks for garbage among them, while vLLM is imported.
OBJECTS = 50_000


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs an installed module."""
    return [sys.executable, "-c", _RUN, module, *arguments]


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment, for a child and for what that one starts.

    vLLM starts processes of its own by ``-m`` and by ``-c``; ``PYTHONSAFEPATH`` keeps
    the current directory from them (Python 3.11). So does a ``PYTHONPATH`` without
    the entries that stand for it: an empty one is what ``$PYTHONPATH:/a/folder``
    leaves where the variable was not set.
    """
    environ = {**os.environ, "PYTHONSAFEPATH": "1", **(changes or {})}
    if "PYTHONPATH" in environ:
        given = environ["PYTHONPATH"].split(os.pathsep)
        kept = [os.path.abspath(p) for p in given if os.path.normpath(p) != "."]
        environ["PYTHONPATH"] = os.pathsep.join(kept)
    return environ


def folder(flags: Sequence[str] = ()) -> str | None:
    """Return the folder to start a process in, None for the current one.

    Python 3.10 does not know ``PYTHONSAFEPATH``, and Ray puts the directory that it
    is started in first on its workers' path. From one that was deleted torch does
    not load.

    Args:
        flags: vLLM's engine flags.

    """
    try:
        os.getcwd()
    except FileNotFoundError:
        return _SAFE_FOLDER
    asks_for_ray = any(flag.rpartition("=")[2] == "ray" for flag in flags)
    return _SAFE_FOLDER if sys.version_info < (3, 11) or asks_for_ray else None


def absolute(flags: Sequence[str]) -> list[str]:
    """Return vLLM's flags with each relative path to something that exists absolute.

    A path is what has a separator: ``half`` is a dtype, whatever lies here.
    """
    done = []
    for flag in flags:
        start, equals, value = flag.partition("=")
        if not flag.startswith("-"):
            start, equals, value = "", "", flag
        if os.sep in value and os.path.exists(value):
            value = os.path.abspath(value)
        done.append(f"{start}{equals}{value}")
    return done


def collect_less_often() -> None:
    """Have Python look for garbage after 50,000 new objects in place of 700.

    vLLM's imports make 700,000 that stay: 1.2 s of CPU time in each of its processes.
    Who has turned collection off, or made it rarer still, keeps that.
    """
    if 0 < gc.get_threshold()[0] < OBJECTS:
        gc.set_threshold(OBJECTS)


def end(status: int) -> NoReturn:
    """End this process, with all that is registered for its end.

    Python would first take apart each object that vLLM's imports have made, for 2 s.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
