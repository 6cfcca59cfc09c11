# SPDX-License-Identifier: Apache-2.0
"""Looks at a model once vLLM has loaded its weights."""

import functools
from collections.abc import Callable
from typing import Any

import torch

_PROCESS = "process_weights_after_loading"


def after_loading(check: Callable[[torch.nn.Module], None]) -> None:
    """Have vLLM's loader hand each model that it has loaded to `check`. Idempotent.

    Args:
        check: Raises what ends the start.

    Raises:
        NotImplementedError: This vLLM loads models in another way.

    """
    from vllm.model_executor.model_loader import base_loader

    process = getattr(base_loader, _PROCESS, None)
    if process is None:
        raise NotImplementedError(
            f"vLLM's base_loader has no {_PROCESS}: it loads models in another way"
        )
    checks = getattr(process, "checks", ())
    if check in checks:
        return

    @functools.wraps(process)
    def processed(model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        process(model, *args, **kwargs)
        check(model)

    processed.checks = (*checks, check)  # type: ignore[attr-defined]
    setattr(base_loader, _PROCESS, processed)
