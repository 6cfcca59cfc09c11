# SPDX-License-Identifier: Apache-2.0
"""Replays calls, in a process of its own that a kernel may end; for `arm.run`.

Each result is a line of a file, written as it comes: what a crash leaves is known.
"""

import faulthandler
import fnmatch
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vllm_xpu_fp8_plugin.check import device, making, repro, save
from vllm_xpu_fp8_plugin.check.call import Call, complete
from vllm_xpu_fp8_plugin.check.registry import NOT_COMPUTATIONS, specs
from vllm_xpu_fp8_plugin.check.replay import replay
from vllm_xpu_fp8_plugin.verify import child
from vllm_xpu_fp8_plugin.verify.child import CannotRunError, Progress, Result

# The first call of a kernel may compile it: of grouped products half a minute on two
# cores, and more where others compute.
_SECONDS_A_CALL = 900


def measure(request: Result, progress: Progress) -> Result:
    """Replay what the request names and return what the calls ran on."""
    try:
        target = device.ready(request["device"])
    except ValueError as e:
        raise CannotRunError(str(e)) from e
    # Two processors' worth of threads gain nothing at these sizes.
    torch.set_num_threads(1)
    names = [n for n in device.registered() if fnmatch.fnmatch(n, request["ops"])]
    if not names:
        raise CannotRunError(
            f"--ops {request['ops']}: no op of vllm-xpu-kernels matches. Its names are "
            "like _C::rms_norm; give a pattern such as '*norm*'."
        )
    calls = list(_calls(request, names))
    if request["recorded"]:
        # Of a model the ops that it calls are asked about.
        called = {_op_of(path) for path in _files(request)}
        names = [n for n in names if n in called]
    progress.total = len(calls)
    progress.stage("replaying")
    progress.advance(request["start"])
    if request["crashed"]:
        ended = calls[request["start"] - 1]
        words = [request["crashed"]]
        repro.save(ended, specs()[ended.op], words, Path(request["repros"]))
    with Path(request["lines"]).open("a") as lines:
        for number, call in enumerate(calls):
            if number >= request["start"]:
                _replayed(number, call, target, request, lines)
                progress.advance()
    unknown = [n for n in names if n not in specs() and n not in NOT_COMPUTATIONS]
    return {
        **device.described(target),
        "runs_as": device.runs_as(),
        "ops": [n for n in names if n not in NOT_COMPUTATIONS],
        "not_checked": unknown,
        "calls": len(calls),
    }


def _calls(request: Result, names: list[str]) -> Iterator[Call]:
    if request["recorded"]:
        noted = _made(Path(request["recorded"]))
        for path in _files(request):
            call = save.read(path)
            if call.op in names and call.op in specs():
                how = noted.get(path.name, {"layers": (), "count": 0})
                layers = tuple(how["layers"])
                yield replace(call, layers=layers, count=how["count"])
        return
    for name, spec in specs().items():
        if name not in names:
            continue
        making.seed(0)
        for arguments in spec.cases():
            made = complete(Call(name, arguments, frozenset(spec.host)))
            if made is not None:
                yield made


def _made(folder: Path) -> Result:
    """Return file -> which layers made its call, and how often."""
    found: Result = {}
    for path in folder.glob("rank*.json"):
        found |= json.loads(path.read_text())
    return found


def _files(request: Result) -> list[Path]:
    return sorted(Path(request["recorded"]).glob("*.safetensors"))


def _op_of(path: Path) -> str:
    return save.read(path).op


def _replayed(
    number: int, call: Call, target: torch.device, request: Result, lines: Any
) -> None:
    """Write a line before the call, and one after it."""
    about = {
        "number": number,
        "op": call.op,
        "call": call.described(),
        "types": sorted({str(t.dtype).split(".")[1] for t in call.tensors().values()}),
        "layers": list(call.layers),
        "count": call.count,
    }
    print(json.dumps({**about, "begun": True}), file=lines, flush=True)
    faulthandler.dump_traceback_later(_SECONDS_A_CALL, exit=True)
    # Of the call alone: whatever else is checked, it gets the same values.
    making.seed(zlib.crc32(call.key().encode()))
    spec, verdicts = specs()[call.op], []
    try:
        for changed, verdict in replay(call, spec, target):
            verdicts.append(asdict(verdict))
            if verdict.faults:
                words = [fault.words for fault in verdict.faults]
                repro.save(changed, spec, words, Path(request["repros"]))
    finally:
        faulthandler.cancel_dump_traceback_later()
    print(json.dumps({**about, "verdicts": verdicts}), file=lines, flush=True)


if __name__ == "__main__":
    child.main(measure)
