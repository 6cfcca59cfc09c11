# SPDX-License-Identifier: Apache-2.0
"""Makes a call on the device and compares what it did with what it should have done."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import explain, making
from vllm_xpu_fp8_plugin.check.call import Call, operator
from vllm_xpu_fp8_plugin.check.expected import FP4, Expected, bits, compare, stored
from vllm_xpu_fp8_plugin.check.memory import OTHER_POISON, POISON, Memory
from vllm_xpu_fp8_plugin.check.registry import Spec

# What a fault is, worst first.
CRASH, OUTSIDE, INPUT, UNWRITTEN = "crash", "outside", "input", "unwritten"
VALUES, NEIGHBOURS, RUNS, REFUSED = "values", "neighbours", "runs", "refused"


@dataclass(frozen=True)
class Fault:
    """What is wrong.

    Attributes:
        kind: One of the kinds above.
        words: What it is, for people.

    """

    kind: str
    words: str


@dataclass
class Verdict:
    """What a call did.

    Attributes:
        variant: Whose values it had, one of `making.VARIANTS`.
        faults: What is wrong, the worst first.
        ulps: The largest error in units of an output's last place.
        relative: The largest error as a part of the value.
        refused: What the op said, if it refused the call.

    """

    variant: str
    faults: list[Fault] = field(default_factory=list)
    ulps: float = 0.0
    relative: float = 0.0
    refused: str = ""


class _Run(NamedTuple):
    """Memory and what was returned, on the CPU: before and after."""

    memory: Memory
    after: dict[str, Tensor]
    before: dict[str, Tensor]


def replay(
    call: Call, spec: Spec, device: torch.device
) -> Iterator[tuple[Call, Verdict]]:
    """Yield the call with its own values, and with those of each variant, judged.

    The call is to have every argument that the oracle needs; see `complete`.
    """
    for variant, changed in making.variants(call, spec):
        verdict = judge(changed, spec, device)
        verdict.variant = variant
        yield changed, verdict
        if verdict.refused:
            return


def judge(call: Call, spec: Spec, device: torch.device) -> Verdict:
    """Make the call three times, with two poisons, and compare."""
    verdict = Verdict(making.AS_GIVEN)
    try:
        wanted = spec.oracle(**call.arguments)
    except (RuntimeError, ValueError, IndexError, TypeError) as e:
        verdict.refused = f"float64 does not take this call: {e}"
        return verdict
    poisoned = [name for name in wanted if name not in spec.inplace]
    try:
        first = _run(call, device, poisoned, POISON)
    except (RuntimeError, NotImplementedError, ValueError, IndexError) as e:
        verdict.refused = str(e).splitlines()[0] if str(e) else type(e).__name__
        return verdict
    second = _run(call, device, poisoned, OTHER_POISON)
    _around(first, wanted, verdict)
    wrong = {}
    for name, expected in wanted.items():
        if name in first.after:
            wrong[name] = _value(name, expected, first, second, verdict)
        else:
            verdict.faults.append(Fault(VALUES, f"returns no {name}"))
    if spec.repeats:
        _repeated(wanted, first, second, wrong, verdict)
    for name, mask in wrong.items():
        if mask is not None and bool(mask.any()):
            result = stored(first.after[name], wanted[name])
            words = explain.explained(call, spec, name, result, mask, wanted)
            verdict.faults.append(Fault(VALUES, words))
    if not verdict.faults:
        _neighbours(call, spec, device, first, poisoned, verdict)
    return verdict


def _run(call: Call, device: torch.device, poisoned: list[str], poison: int) -> _Run:
    memory = Memory(call, device, poisoned, poison)
    returned = operator(call.op)(**memory.arguments)
    torch.get_device_module(device).synchronize()
    after, before = {}, {}
    for name, slab in memory.slabs.items():
        after[name] = slab.inside(slab.after())
        before[name] = slab.inside(slab.before)
    values = returned if isinstance(returned, tuple | list) else [returned]
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            name = f"return.{i}" if len(values) > 1 else "return"
            after[name] = value.cpu()
            before[name] = after[name]
    return _Run(memory, after, before)


def _around(run: _Run, wanted: Mapping[str, Expected], verdict: Verdict) -> None:
    """Look at guard bands, and at inputs."""
    slabs = run.memory.slabs
    outputs = {id(slabs[name]) for name in wanted if name in slabs}
    for name, slab in slabs.items():
        where = slab.outside(slab.after()) if slab.is_first else ""
        if where:
            verdict.faults.append(Fault(OUTSIDE, f"writes {where} of {name}"))
        if id(slab) in outputs or not run.after[name].numel():
            continue
        changed = bits(run.after[name]) != bits(run.before[name])
        if bool(changed.any()):
            what = explain.region(changed)
            verdict.faults.append(Fault(INPUT, f"changes its input {name} {what}"))


def _value(
    name: str, expected: Expected, first: _Run, second: _Run, verdict: Verdict
) -> Tensor | None:
    """Return which elements of an output are wrong; note those never written."""
    got, before = first.after[name], first.before[name]
    if stored(got, expected).shape != expected.values.shape:
        words = f"{name} has shape {list(got.shape)}, not {list(expected.values.shape)}"
        verdict.faults.append(Fault(VALUES, words))
        return None
    if not got.numel():
        return None
    found = compare(got, expected, before)
    wrong = found.wrong
    if not name.startswith("return"):
        same = bits(got) == bits(before)
        same &= bits(second.after[name]) == bits(second.before[name])
        same &= bits(before) != bits(second.before[name])
        if expected.dtype == FP4:
            same = same.repeat_interleave(2, -1)
        if expected.written is not None:
            same &= expected.written
        if bool(same.any()):
            what = explain.region(same)
            verdict.faults.append(Fault(UNWRITTEN, f"never writes {name} {what}"))
            wrong = wrong & ~same
    if math.isfinite(found.ulps):
        verdict.ulps = max(verdict.ulps, found.ulps)
        verdict.relative = max(verdict.relative, found.relative)
    elif bool(wrong.any()):
        verdict.ulps = verdict.relative = math.inf
    return wrong


def _repeated(
    wanted: Mapping[str, Expected],
    first: _Run,
    second: _Run,
    wrong: Mapping[str, Tensor | None],
    verdict: Verdict,
) -> None:
    """Compare two runs, in memory that held other poison."""
    for name, expected in wanted.items():
        if name not in first.after or wrong.get(name) is None:
            continue
        one, other = (x.after[name] for x in (first, second))
        unequal = bits(one) != bits(other)
        if expected.written is not None:
            unequal &= expected.written
        if not name.startswith("return"):
            unwritten = bits(one) == bits(first.before[name])
            unwritten &= bits(other) == bits(second.before[name])
            unequal &= ~unwritten
        if bool(unequal.any()):
            where = explain.region(unequal)
            words = f"gives another {name} when run again, {where}"
            verdict.faults.append(Fault(RUNS, words))


def _neighbours(
    call: Call,
    spec: Spec,
    device: torch.device,
    first: _Run,
    poisoned: list[str],
    verdict: Verdict,
) -> None:
    """Give all other tokens other values: a token's result is to stay."""
    names = [n for n in spec.vary if n in spec.rows and _tokens(call, n) > 2]
    if not names:
        return
    row = _tokens(call, names[0]) // 2
    others = {n: making.varied(call.arguments[n], "random", 1.0) for n in names}
    for sign in (1, -1):
        changed: dict[str, Any] = {}
        for name, other in others.items():
            changed[name] = making.with_row(other, sign, call.arguments[name], row)
        run = _run(call.with_arguments(**changed), device, poisoned, POISON)
        _same_row(row, spec, first, run, verdict)
        if verdict.faults:
            return


def _same_row(row: int, spec: Spec, first: _Run, run: _Run, verdict: Verdict) -> None:
    for name in spec.rows:
        if name not in first.after or (name in spec.vary and name not in spec.inplace):
            continue
        one, other = bits(first.after[name]), bits(run.after[name])
        if one.dim() and not torch.equal(one[row], other[row]):
            words = f"{name}[{row}] depends on the values of other tokens"
            verdict.faults.append(Fault(NEIGHBOURS, words))


def _tokens(call: Call, name: str) -> int:
    value = call.arguments.get(name)
    return len(value) if isinstance(value, Tensor) and value.dim() else 0
