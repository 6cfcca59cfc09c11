# SPDX-License-Identifier: Apache-2.0
"""Each name that a module offers, used as a user does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vllm_xpu_fp8_plugin

PACKAGE = Path(vllm_xpu_fp8_plugin.__file__).parent


def bound_in(path: Path) -> set[str]:
    """Return the names that a module binds at its top."""
    names: set[str] = set()
    own = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == own:
            continue  # its own modules, as themselves
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {ast.unparse(target) for target in node.targets}
    return names


OFFERING = [
    ".".join(
        p for p in path.relative_to(PACKAGE.parent).with_suffix("").parts
    ).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if "__all__" in bound_in(path)
]

# Calls what can be called without arguments, after `install` where there is one.
CODE = """
import importlib, inspect, sys, types

module = importlib.import_module(sys.argv[1])
for _ in range(2):
    getattr(module, "install", lambda: None)()
for name in module.__all__:
    value = getattr(module, name)
    assert not isinstance(value, types.ModuleType), f"{name} is a module"
    if inspect.isfunction(value):
        parameters = inspect.signature(value).parameters.values()
        if all(p.default is not p.empty for p in parameters):
            value()
print("USED", *module.__all__)
"""


@pytest.mark.parametrize("module", OFFERING)
def test_public_names_are_what_they_say_after_use(module: str) -> None:
    """Catches a function that a module of the same name takes the place of.

    As a `coverage` once was, when another function had imported the module.
    """
    done = subprocess.run(
        [sys.executable, "-c", CODE, module],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "USED" in done.stdout, done.stderr


@pytest.mark.parametrize("path", [p.parent for p in PACKAGE.rglob("__init__.py")])
def test_no_module_has_a_name_that_its_package_binds(path: Path) -> None:
    """Catches the same before any import makes it happen."""
    modules = {m.stem for m in path.glob("*.py")} | {
        m.parent.name for m in path.glob("*/__init__.py")
    }
    assert not bound_in(path / "__init__.py") & modules
