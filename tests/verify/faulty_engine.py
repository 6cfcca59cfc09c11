# SPDX-License-Identifier: Apache-2.0
"""Runs one engine as an arm of `verify`, once for each fault."""

import multiprocessing
import os
from typing import Any

from tests import engine

Results = dict[str, dict[str, Any]]


def run_arm(
    request: dict[str, Any], role: str, faults: tuple[str, ...] = ("",), **more: Any
) -> Results:
    """Return the arm's result for each fault; "" is none.

    Args:
        request: As `arm.run` takes it. ``sweep``: the lengths of the length sweep, to
            save time; ``kv_scales``: whether layers get those of a calibrated
            checkpoint.
        role: Of the arm.
        faults: Names of `faults`.
        more: Goes into the request.

    """
    defaults = {"against": "unquantized", "reference_model": None, "seed": 0}
    done = engine.run_engine(
        **{**defaults, "plan": None, **request, **more},
        role=role,
        faults=faults,
        call=f"{__name__}:run",
    )
    results: Results = done["results"]
    return results


def run(request: dict[str, Any]) -> dict[str, Results]:
    """Run in the process that `engine` has forked."""
    from vllm import LLM
    from vllm.v1.executor import multiproc_executor

    from tests.verify import faults
    from vllm_xpu_fp8_plugin.verify import child, plan, vllm_arm

    faults.install()
    # Workers that are spawned would import vLLM again.
    multiproc_executor.get_mp_context = lambda: multiprocessing.get_context("fork")
    if "sweep" in request:
        plan.lengths = lambda page, longest: request["sweep"]
    progress = child.Progress(os.open(os.devnull, os.O_WRONLY))
    llm = LLM(**vars(vllm_arm.arm_arguments(request)))
    if request.get("kv_scales"):
        llm.collective_rpc(faults.set_kv_scales)
    results: Results = {}
    for fault in request["faults"]:
        with faults.switched_on(fault, llm):
            results[fault] = vllm_arm.run(llm, request, progress)
    return {"results": results}


def run_transformers_arm(request: dict[str, Any]) -> dict[str, Any]:
    """Return the result of the reference that runs transformers."""
    defaults = {"reference_model": None, "seed": 0, "plan": None}
    call = f"{__name__}:run_transformers"
    return engine.run_engine(**{**defaults, **request}, role="reference", call=call)


def run_transformers(request: dict[str, Any]) -> dict[str, Any]:
    """Run in the process that `engine` has forked."""
    from vllm_xpu_fp8_plugin.verify import child, plan, transformers_arm

    plan.lengths = lambda page, longest: request["sweep"]
    progress = child.Progress(os.open(os.devnull, os.O_WRONLY))
    return transformers_arm.measure(request, progress)
