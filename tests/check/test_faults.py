# SPDX-License-Identifier: Apache-2.0
"""Faults that are put into ops are found and named."""

from typing import Any

import pytest
import torch

from tests.check.faults import FAULTS, PutIn
from vllm_xpu_fp8_plugin.check import device, making, replay
from vllm_xpu_fp8_plugin.check.call import Call, complete, operator
from vllm_xpu_fp8_plugin.check.registry import Spec, specs


@pytest.fixture(scope="module")
def xpu() -> torch.device:
    from vllm_xpu_fp8_plugin import virtual_xpu

    virtual_xpu.enable()
    return device.ready("xpu")


def call_with(fault: PutIn) -> tuple[Call, Spec]:
    """Return the first call of the catalogue that a fault shows in."""
    spec = specs()[fault.op]
    making.seed(0)
    for arguments in spec.cases():
        call = complete(Call(fault.op, arguments, frozenset(spec.host)))
        if call is not None and fault.where(call.arguments):
            return call, spec
    raise AssertionError("no call of the catalogue shows the fault")


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_and_named(
    name: str, xpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check that does not see a fault, or says something else of it."""
    fault = FAULTS[name]
    call, spec = call_with(fault)
    sound = replay.judge(call, spec, xpu)
    assert not sound.refused and not sound.faults

    def faulty(op: str) -> Any:
        real = operator(op)
        return lambda **arguments: fault.run(real, arguments)

    monkeypatch.setattr(replay, "operator", faulty)
    found = replay.judge(call, spec, xpu).faults
    words = [f.words for f in found if f.kind == fault.kind]
    assert any(fault.words in w for w in words), found


def test_there_are_enough_faults() -> None:
    """Catches faults that were dropped: scale, axis, page, mask, stride, race, ..."""
    assert len(FAULTS) >= 20
    assert {f.kind for f in FAULTS.values()} == {
        replay.OUTSIDE,
        replay.INPUT,
        replay.UNWRITTEN,
        replay.VALUES,
        replay.NEIGHBOURS,
        replay.RUNS,
    }
