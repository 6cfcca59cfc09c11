# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.ray_workers; tests/serving/test_hosts.py has it in a cluster."""

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_xpu_fp8_plugin import envs, ray_workers


def passed_on(**parallel: Any) -> Any:
    config = SimpleNamespace(parallel_config=SimpleNamespace(**parallel))
    ray_workers.pass_on(config)
    return getattr(config.parallel_config, "ray_runtime_env", "no field")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in envs.ENV_VARS:
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.setenv("VLLM_XPU_FP8_PLUGIN", "1")
    monkeypatch.setenv("VLLM_XPU_FP8_CHECK", "refuse")
    monkeypatch.setenv("VLLM_XPU_FP8_CACHE", "/home/of/this/host")


def test_rays_workers_start_with_the_variables() -> None:
    """Catches a variable that is left out, and one host's folder on another."""
    given = passed_on(distributed_executor_backend="ray", ray_runtime_env=None)
    expected = {"VLLM_XPU_FP8_PLUGIN": "1", "VLLM_XPU_FP8_CHECK": "refuse"}
    assert given == {"env_vars": expected}


def test_what_the_user_gives_stays() -> None:
    """Catches a runtime environment of the user's that is replaced or changed."""
    users = {"working_dir": "/w", "env_vars": {"A": "b", "VLLM_XPU_FP8_CHECK": "warn"}}
    given = passed_on(distributed_executor_backend="ray", ray_runtime_env=users)
    assert given["working_dir"] == "/w"
    assert given["env_vars"] == {
        "A": "b",
        "VLLM_XPU_FP8_PLUGIN": "1",
        "VLLM_XPU_FP8_CHECK": "warn",
    }
    assert "VLLM_XPU_FP8_PLUGIN" not in users["env_vars"]


def test_without_ray_or_its_field_nothing_changes() -> None:
    """Catches an engine that does not start, with a vLLM that has no such field."""
    assert passed_on(distributed_executor_backend="mp", ray_runtime_env=None) is None
    assert passed_on(distributed_executor_backend="ray") == "no field"
    assert passed_on() == "no field"
