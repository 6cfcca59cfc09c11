# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.envs."""

import sys
from types import SimpleNamespace

import pytest

from vllm_xpu_fp8_plugin import envs


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (None, envs.OFF),
        ("", envs.OFF),
        ("  ", envs.OFF),
        ("0", envs.OFF),
        ("Off", envs.OFF),
        ("FALSE", envs.OFF),
        ("1", envs.ON),
        ("on", envs.ON),
        (" True ", envs.ON),
        ("Emulate", envs.EMULATE),
    ],
)
def test_value_has_the_documented_meaning(value: str | None, meaning: str) -> None:
    """Catches an inverted boolean and a spelling that is case-sensitive."""
    environ = {} if value is None else {envs.PLUGIN.name: value}
    assert envs.PLUGIN.get(environ) == meaning


@pytest.mark.parametrize("value", ["yes", "2", "emulated", "1 1", "0x1"])
def test_other_value_is_refused_with_name_value_and_choices(value: str) -> None:
    """Catches a typing error that would silently mean off."""
    with pytest.raises(ValueError) as error:
        envs.PLUGIN.get({envs.PLUGIN.name: value})
    for part in (envs.PLUGIN.name, repr(value), "0, off, false", "1, on, true"):
        assert part in str(error.value)
    assert "emulate" in str(error.value)


def test_registers_each_variable_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a variable that vLLM would warn of as unknown."""
    module = SimpleNamespace(environment_variables={})
    monkeypatch.setitem(sys.modules, "vllm.envs", module)
    envs.register_with_vllm()
    envs.register_with_vllm()
    assert set(module.environment_variables) == {v.name for v in envs.ENV_VARS}
    monkeypatch.setenv(envs.PLUGIN.name, "1")
    assert module.environment_variables[envs.PLUGIN.name]() == "1"


def test_table_names_every_variable_and_spelling() -> None:
    """Catches a value that the documentation's table leaves out."""
    table = envs.markdown_table()
    for var in envs.ENV_VARS:
        assert f"| `{var.name}` | {var.values} | {var.default} |" in table
    for spellings in envs.PLUGIN.choices.values():
        assert all(f"`{spelling}`" in table for spelling in spellings)


@pytest.mark.parametrize(
    ("value", "number"), [("", 2), ("  ", 2), ("1", 1), (" 16 ", 16)]
)
def test_a_number_is_read(value: str, number: int) -> None:
    """Catches a default that is lost, and a bound that is left out."""
    name = envs.VIRTUAL_DEVICES.name
    assert envs.VIRTUAL_DEVICES.get({name: value}) == number


@pytest.mark.parametrize("value", ["0", "17", "-1", "two", "1.5", "٣x"])
def test_another_number_is_refused_with_the_bounds(value: str) -> None:
    """Catches 0 devices, or a traceback of int()."""
    name = envs.VIRTUAL_DEVICES.name
    with pytest.raises(ValueError, match=f"{name}=.*from 1 to 16"):
        envs.VIRTUAL_DEVICES.get({name: value})


def test_a_folder_is_a_path_or_none() -> None:
    """Catches a cache in a folder of the name ''."""
    assert envs.CACHE.get({envs.CACHE.name: " "}) is None
    assert envs.CACHE.get({envs.CACHE.name: "/x"}) == "/x"
