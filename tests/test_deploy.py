# SPDX-License-Identifier: Apache-2.0
"""The container files of examples/deploy, read: no Docker builds them here."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from tests.wheel import ROOT
from vllm_xpu_fp8_plugin import envs

FOLDER = ROOT / "examples" / "deploy"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_dockerfile_copies_what_is_there() -> None:
    """Catches a path that is gone, and a package that is built without its files."""
    copied = {}
    for words in map(shlex.split, re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)):
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            copied[source] = words[-1]
    pyproject = (ROOT / "pyproject.toml").read_text()
    for name in ("README.md", "LICENSE"):
        assert f'"{name}"' in pyproject and name in copied
    # Anything else than a base that the user names would bring a vLLM of its own.
    assert re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE) == ["${BASE}"]
    assert not re.search(r"^ARG BASE=", DOCKERFILE, re.MULTILINE)


def test_dockerfiles_commands_are_sound_shell(tmp_path: Path) -> None:
    """Catches a command that the shell of the image would not take."""
    commands = re.findall(r"^RUN ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    assert commands
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n" + "\n".join(commands) + "\n")
    tool = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([tool, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_variables_have_values_that_are_allowed() -> None:
    """Catches an image that ends at its start."""
    (line,) = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    environ = dict(word.split("=") for word in line.split())
    assert envs.PLUGIN.get(environ) == envs.ON
    assert envs.CHECK.get(environ) == envs.REFUSE
    assert set(environ) <= {variable.name for variable in envs.ENV_VARS}


def test_service_sees_the_gpu_and_is_probed() -> None:
    """Catches a probe that is not in the image, and a port open to everybody."""
    (service,) = COMPOSE["services"].values()
    assert service["devices"] == ["/dev/dri"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    probe = service["healthcheck"]["test"]
    assert f"COPY examples/ready.py {probe[2]}" in DOCKERFILE
    help_text = subprocess.check_output(
        [sys.executable, ROOT / "examples" / "ready.py", "--help"], text=True
    )
    flags = [word for word in probe if word.startswith("--")]
    assert flags and all(flag in help_text for flag in flags)
