# SPDX-License-Identifier: Apache-2.0
"""Records a model's calls if there is one, and replays calls until all are done."""

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_xpu_fp8_plugin.check import summary
from vllm_xpu_fp8_plugin.verify import arm

RECORDING, REPLAY = "recording", "replay"


@dataclass
class Options:
    """What the user asked for.

    Attributes:
        model: A folder or a hub name whose calls are recorded, None for a catalogue.
        flags: vLLM's engine flags.
        ops: A pattern for names of ops.
        device: torch's name of it.
        output: The folder for all files.

    """

    model: str | None
    flags: list[str]
    ops: str
    device: str
    output: Path


def run(options: Options, on_progress: arm.OnProgress) -> dict[str, Any]:
    """Return the report.

    Raises:
        arm.ArmError: The engine, or the device, could not run.

    """
    for path in options.output.glob("repro_*"):
        path.unlink()
    recorded = None
    engine = None
    if options.model:
        recorded = options.output / "calls"
        shutil.rmtree(recorded, ignore_errors=True)
        recorded.mkdir()
        request = {
            "script": f"{__package__}.record_arm",
            "model": options.model,
            "flags": options.flags,
            "folder": str(recorded.absolute()),
        }
        engine = arm.run(RECORDING, request, options.output, on_progress)
    machine, results = _replayed(options, recorded, on_progress)
    return summary.report(options.model, engine, machine, results)


def _replayed(
    options: Options, recorded: Path | None, on_progress: arm.OnProgress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Replay in one process, and in another one from the call after a crash."""
    lines = options.output / "replay.jsonl"
    lines.unlink(missing_ok=True)
    request: dict[str, Any] = {
        "script": f"{__package__}.replay_arm",
        "recorded": str(recorded.absolute()) if recorded else None,
        "ops": options.ops,
        "device": options.device,
        "lines": str(lines.absolute()),
        "repros": str(options.output.absolute()),
        "start": 0,
        "crashed": "",
    }
    while True:
        try:
            machine = arm.run(REPLAY, request, options.output, on_progress)
            return machine, list(_read(lines).values())
        except arm.ArmError as e:
            results = _read(lines)
            last = max(results, default=-1)
            how = _how_it_ended(str(e), options.output / f"{REPLAY}.log")
            if not how or last < request["start"] or "verdicts" in results[last]:
                # It did not end in a call.
                raise
            fault = {"kind": "crash", "words": how}
            verdict = {"variant": "as given", "faults": [fault], "ulps": 0.0}
            ended = {**results[last], "verdicts": [{**verdict, "refused": ""}]}
            with lines.open("a") as file:
                print(json.dumps(ended), file=file)
            request.update(start=last + 1, crashed=fault["words"])


def _how_it_ended(message: str, log: Path) -> str:
    # Its line is followed by what each thread was doing.
    if "\nTimeout (" in "\n" + log.read_text(errors="replace"):
        return "does not end: the process was stopped"
    head = message.splitlines()[0]
    number = head.partition("by signal ")[2].partition(".")[0]
    if not number:
        return ""
    try:
        name = signal.Signals(int(number)).name
    except ValueError:
        name = f"signal {number}"
    return f"ends the process by {name}"


def _read(lines: Path) -> dict[int, dict[str, Any]]:
    """Return call -> the last that was written of it."""
    found: dict[int, dict[str, Any]] = {}
    if lines.exists():
        for line in lines.read_text().splitlines():
            result = json.loads(line)
            found[result["number"]] = result
    return found
