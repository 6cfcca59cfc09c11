# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.processes: nothing of the current directory runs."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.stranger import Stranger
from vllm_xpu_fp8_plugin import processes


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """Return a stranger's folder, which is the current directory."""
    made = Stranger(tmp_path / "model")
    monkeypatch.chdir(made.folder)
    return made


def run(module: str, *arguments: str, **environ: str) -> str:
    done = subprocess.run(
        processes.command(module, *arguments),
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_current_directory_is_not_searched(stranger: Stranger) -> None:
    """Catches `-m`, and a `-c` that keeps ''; PYTHONSAFEPATH would hide both."""
    encode = ("base64", "-e", os.devnull)
    assert run(*encode) == run(*encode, PYTHONSAFEPATH="1")
    assert stranger.has_run() == []


def test_a_module_runs_as_by_dash_m(tmp_path: Path) -> None:
    """Catches arguments, names or a spec that worker processes would not find."""
    (tmp_path / "asked.py").write_text(
        "import json, sys\n"
        "print(json.dumps([__name__, __spec__.name, sys.argv, '' in sys.path]))\n"
    )
    name, spec, argv, searches_here = json.loads(
        run("asked", "--x", "", PYTHONPATH=str(tmp_path))
    )
    assert (name, spec, searches_here) == ("__main__", "asked", False)
    assert argv == [str(tmp_path / "asked.py"), "--x", ""]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="see test_python_3_10")
@pytest.mark.parametrize(
    "how", [["-m", "base64", "-e", os.devnull], ["-c", "import base64"]]
)
def test_what_a_process_starts_does_not_search_it_either(
    how: list[str], stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches vLLM's own processes, which it starts by `-m` and by `-c`."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    environ = processes.environment()
    subprocess.run([sys.executable, *how], env=environ, check=True, timeout=240)
    assert stranger.has_run() == []


def test_python_3_10_and_ray_start_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches processes of vLLM's that nothing but another folder protects."""
    assert processes.folder(["--tensor-parallel-size", "2"]) is None
    for flags in (
        ["--distributed-executor-backend", "ray"],
        ["--distributed-executor-backend=ray"],
    ):
        assert processes.folder(flags) == "/"
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert processes.folder() == "/"
    monkeypatch.undo()
    assert processes.folder() is None
    old = SimpleNamespace(version_info=(3, 10, 14))
    monkeypatch.setattr(processes, "sys", old)
    assert processes.folder() == "/"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        (":", ""),
        (".", ""),
        ("./:/a::/b:", "/a:/b"),
        ("/a:../src:b", "/a:{parent}/src:{here}/b"),
        ("{here}", "{here}"),
    ],
)
def test_pythonpath_loses_what_stands_for_the_current_directory(
    given: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches `PYTHONPATH=$PYTHONPATH:/x`, and a folder of the user's that is lost."""
    here = {"here": os.getcwd(), "parent": str(Path.cwd().parent)}
    monkeypatch.setenv("PYTHONPATH", given.format(**here))
    assert processes.environment()["PYTHONPATH"] == kept.format(**here)
    monkeypatch.delenv("PYTHONPATH")
    assert "PYTHONPATH" not in processes.environment()
    assert processes.environment({"A": "1"})["A"] == "1"


def test_paths_among_vllms_flags_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a path that is lost in another folder, and a word taken for one."""
    monkeypatch.chdir(tmp_path)
    for name in ("half", "tokenizer"):
        (tmp_path / name).mkdir()
    here = str(tmp_path)
    assert processes.absolute(
        [
            *("--tokenizer", "./tokenizer", "--tokenizer=./tokenizer"),
            *("--dtype", "half", "--revision", "a/b", '--x={"a": "b=c"}', "-tp=2"),
        ]
    ) == [
        *("--tokenizer", f"{here}/tokenizer", f"--tokenizer={here}/tokenizer"),
        *("--dtype", "half", "--revision", "a/b", '--x={"a": "b=c"}', "-tp=2"),
    ]


@pytest.mark.slow
def test_on_python_3_10_doctor_runs_nothing_of_the_folder_it_is_started_in(
    stranger: Stranger, minilm: str
) -> None:
    """Catches a stranger's module that runs, and a checkout of vLLM taken for it.

    On later ones PYTHONSAFEPATH protects as well: see tests/test_terminal.py.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    # With that of PYTHONSAFEPATH which `environment` sets.
    code = (
        "import sys; sys.path[:] = filter(None, sys.path); "
        "from types import SimpleNamespace as N; "
        "from vllm_xpu_fp8_plugin import cli, processes as p; "
        "p.sys = N(version_info=(3, 10), executable=sys.executable); "
        "e = p.environment; "
        "p.environment = lambda c=None: e({**(c or {}), 'PYTHONSAFEPATH': ''}); "
        "sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", code, "doctor", "--json", "--model", minilm]
    done = subprocess.run(
        command,
        env={**env, "VLLM_XPU_FP8_PLUGIN": "emulate"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert stranger.has_run() == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"finding": "vLLM resolves VirtualXPUPlatform"' in done.stdout


_END = """
import atexit
from vllm_xpu_fp8_plugin import processes

class Kept:
    def __del__(self):
        print("taken apart")

kept = Kept()
atexit.register(print, "registered")
print("answer")
processes.end(3)
"""


def test_a_process_ends_with_what_is_registered_and_no_more() -> None:
    """Catches workers that are left, a lost answer, and 2 s of taking vLLM apart."""
    done = subprocess.run(
        [sys.executable, "-c", _END], capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout) == (3, "answer\nregistered\n"), done.stderr


@pytest.mark.parametrize(
    ("before", "after"), [(700, 50_000), (0, 0), (100_000, 100_000)]
)
def test_a_users_rarer_collection_is_kept(before: int, after: int) -> None:
    """Catches one that is turned on again, or made more frequent."""
    was = gc.get_threshold()
    try:
        gc.set_threshold(before, 7, 8)
        processes.collect_less_often()
        assert gc.get_threshold() == (after, 7, 8)
    finally:
        gc.set_threshold(*was)
