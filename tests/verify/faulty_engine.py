# SPDX-License-Identifier: Apache-2.0
"""Runs one engine as an arm of `verify`, several times in a row."""

import os
from typing import Any

from tests import engine

Result = dict[str, Any]

_DEFAULTS = {"against": "unquantized", "reference_model": None, "seed": 0, "plan": None}


def run_arm(
    request: Result, role: str, faults: tuple[str, ...] = ("",), **more: Any
) -> dict[str, Result]:
    """Return the arm's result for each fault; "" is none.

    Args:
        request: As `arm.run` takes it. ``sweep``: the lengths of the length sweep, to
            save time; ``kv_scales``: whether layers get those of a calibrated
            checkpoint; ``adapter``: folder of a LoRA adapter that is loaded.
        role: Of the arm.
        faults: Names of `faults`.
        more: Goes into the request.

    """
    variants = [{"fault": fault} for fault in faults]
    results = _run({**request, **more}, role, variants)
    return dict(zip(faults, results, strict=True))


def run_seeds(
    request: Result, role: str, plans: dict[int, Result | None]
) -> dict[int, Result]:
    """Return the arm's result for each seed, by its plan if that is made already."""
    variants = [{"seed": seed, "plan": plan} for seed, plan in plans.items()]
    return dict(zip(plans, _run(request, role, variants), strict=True))


def _run(request: Result, role: str, variants: list[Result]) -> list[Result]:
    call = f"{__name__}:run"
    merged = {**_DEFAULTS, **request, "role": role, "variants": variants, "call": call}
    results: list[Result] = engine.run_engine(**merged)["results"]
    return results


def run(request: Result) -> Result:
    """Run in the process that `engine` has forked."""
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    from tests.verify import faults
    from vllm_xpu_fp8_plugin.verify import child, plan, vllm_arm

    faults.install()
    engine.fork_workers()
    if "sweep" in request:
        plan.lengths = lambda page, longest, seed: request["sweep"]
    progress = child.Progress(os.open(os.devnull, os.O_WRONLY))
    llm = LLM(**vars(vllm_arm.arm_arguments(request)))
    if request.get("kv_scales"):
        llm.collective_rpc(faults.set_kv_scales)
    if folder := request.get("adapter"):
        llm.llm_engine.add_lora(LoRARequest("adapter", 1, folder))
    results = []
    for variant in request["variants"]:
        with faults.switched_on(variant.get("fault", ""), llm):
            results.append(vllm_arm.run(llm, {**request, **variant}, progress))
    return {"results": results}


def run_transformers_arm(request: Result) -> Result:
    """Return the result of the reference that runs transformers."""
    merged = {**_DEFAULTS, **request, "role": "reference"}
    return engine.run_engine(**merged, call=f"{__name__}:run_transformers")


def run_transformers(request: Result) -> Result:
    """Run in the process that `engine` has forked."""
    from vllm_xpu_fp8_plugin.verify import child, plan, transformers_arm

    plan.lengths = lambda page, longest, seed: request["sweep"]
    progress = child.Progress(os.open(os.devnull, os.O_WRONLY))
    return transformers_arm.measure(request, progress)
