# SPDX-License-Identifier: Apache-2.0
"""Runs the two arms one after the other, or takes a reference that is there already."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_xpu_fp8_plugin.verify import arm, machine
from vllm_xpu_fp8_plugin.verify.inputs import Data
from vllm_xpu_fp8_plugin.verify.threshold import Limits

UNQUANTIZED, TRANSFORMERS = "unquantized", "transformers"


@dataclass
class Options:
    """What the user asked for.

    Attributes:
        model: A folder or a hub name.
        reference_model: The model of the reference where it is another one.
        against: `UNQUANTIZED` or `TRANSFORMERS`.
        flags: vLLM's engine flags, with those for FP8.
        data: What to run.
        builtin: Whether that is the package's own set.
        output: The folder for all files.
        seed: Order of the items, text of the length sweep.
        max_tokens: Tokens to generate for each prompt.
        limits: Limits in place of the default ones.

    """

    model: str
    reference_model: str | None
    against: str
    flags: list[str]
    data: Data
    builtin: bool
    output: Path
    seed: int = 0
    max_tokens: int = 64
    limits: dict[str, Limits] = field(default_factory=dict)


def both_arms(
    options: Options, on_progress: arm.OnProgress
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Return the results of reference and candidate, and was the first one reused.

    Raises:
        arm.ArmError: One of them could not run.

    """
    request = {
        "script": f"{__package__}.vllm_arm",
        "model": options.model,
        "reference_model": options.reference_model,
        "against": options.against,
        "flags": options.flags,
        "data": {**dataclasses.asdict(options.data), "builtin": options.builtin},
        "seed": options.seed,
        "max_tokens": options.max_tokens,
        "plan": None,
    }
    first = dict(request)
    if options.against == TRANSFORMERS:
        first["script"] = f"{__package__}.transformers_arm"
    key = arm.key(first, machine.describe())
    reference = _finished(options.output, key)
    reused = reference is not None
    if reference is None:
        marker = options.output / f"{arm.REFERENCE}.key"
        marker.unlink(missing_ok=True)
        reference = arm.run(arm.REFERENCE, first, options.output, on_progress)
        marker.write_text(key)
    second = {**request, "plan": reference["plan"]}
    candidate = arm.run(arm.CANDIDATE, second, options.output, on_progress)
    return reference, candidate, reused


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """Return a reference's result that was made from the very same things."""
    try:
        if (folder / f"{arm.REFERENCE}.key").read_text() != key:
            return None
        result = json.loads((folder / f"{arm.REFERENCE}.json").read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None
