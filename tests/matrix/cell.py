# SPDX-License-Identifier: Apache-2.0
"""The part of a combination's run that is done in its environment.

``python -m tests.matrix.cell contract|upstream|rerank FILE`` writes what it found to
FILE, as JSON. What imports vLLM runs in such a process, and nothing else does.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

Found = dict[str, Any]


def contract() -> Found:
    """Run the contract suite."""
    from tests.matrix.contract import CHECKS

    errors: dict[str, str | None] = {}
    for check in CHECKS:
        try:
            check()
            errors[check.__name__] = None
        except (Exception, SystemExit) as e:
            traceback.print_exc()
            errors[check.__name__] = _message(e)
    import torch

    from vllm_xpu_fp8_plugin import compat
    from vllm_xpu_fp8_plugin.virtual_xpu import ops

    return {
        "torch": torch.__version__,
        "checks": errors,
        "adjustments": [a.name for a in compat.ADJUSTMENTS if a.needed()],
        "compiled": sum(op.runs == ops.COMPILED for op in ops.table().values()),
    }


def upstream() -> Found:
    """Ask whether upstream itself refuses the pair."""
    from tests.matrix.upstream_imports import refusal

    return {"refusal": refusal()}


def rerank() -> Found:
    """Run the engine."""
    from tests.matrix.rerank import run

    try:
        return {"error": None, **run()}
    except (Exception, SystemExit) as e:
        traceback.print_exc()
        return {"error": _message(e)}


def _message(e: BaseException) -> str:
    """Return the error in a line, with its place if it says nothing itself."""
    text = " ".join(str(e).split())
    if not text:
        frame = traceback.extract_tb(e.__traceback__)[-1]
        text = f"{frame.line} ({Path(frame.filename).name}:{frame.lineno})"
    return f"{type(e).__name__}: {text[:300]}"


if __name__ == "__main__":
    parts = {"contract": contract, "upstream": upstream, "rerank": rerank}
    Path(sys.argv[2]).write_text(json.dumps(parts[sys.argv[1]]()))
    sys.stdout.flush()
    sys.stderr.flush()
    # An engine's threads and vLLM's exit hooks take seconds.
    os._exit(0)
