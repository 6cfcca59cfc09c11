# SPDX-License-Identifier: Apache-2.0
"""Which vLLM releases the plugin is tested with, and what some of them need.

An adjustment asks the installation whether it is needed; the version at which it
becomes obsolete is for whoever raises `OLDEST`, and checked by the tests.
"""

import functools
import multiprocessing
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from packaging.version import Version
from vllm.logger import init_logger

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.xpu_fp8_plugin.compat")

# Both are checked against tests/matrix/results.json.
OLDEST, NEWEST_TESTED = "0.20.2", "0.33.0"


class Adjustment(NamedTuple):
    """Something done for a range of vLLM releases only.

    Attributes:
        name: What is done.
        reason: The fault of vLLM that it makes up for.
        obsolete_in: First release without the fault.
        needed: Whether the installed vLLM has it.

    """

    name: str
    reason: str
    obsolete_in: str
    needed: Callable[[], bool]


def _has_cascade_attention() -> bool:
    from vllm.v1.attention.backends import flash_attn

    return hasattr(flash_attn, "cascade_attention")


@functools.cache
def _loses_biases() -> bool:
    """Return whether vLLM, as installed, makes a layer's weights and loses its bias."""
    from vllm.model_executor.model_loader.reload import meta

    layer = torch.nn.Linear(1, 1, device="meta")
    bias = layer.bias = torch.nn.Parameter(torch.ones(1))
    meta.materialize_layer(layer, SimpleNamespace(restore_device=torch.device("cpu")))
    return layer.bias is not bias


CASCADE = Adjustment(
    "cascade attention is switched off",
    "It hands the XPU kernel the descale of a query that is not quantised, which the "
    "kernel package refuses.",
    "0.32.0",
    _has_cascade_attention,
)
BIASES = Adjustment(
    "biases survive quantisation at load time",
    "With --quantization fp8, a layer's weight is made after its bias has been "
    "loaded, and vLLM makes the bias anew with it: uninitialised memory.",
    "0.21.0",
    _loses_biases,
)
ADJUSTMENTS = (CASCADE, BIASES)


def unsupported(what: str, cause: ImportError) -> ImportError:
    """Return the error to raise where the installed vLLM lacks what `what` needs."""
    return ImportError(
        f"{what} cannot run with vLLM {version('vllm')}: {cause}. Use a vLLM from "
        f"{OLDEST} to {NEWEST_TESTED}, or update the plugin."
    )


def adjust_config(vllm_config: "VllmConfig") -> None:
    """Adjust an engine's configuration to the installed vLLM."""
    _note_a_newer_vllm()
    model_config = vllm_config.model_config
    if model_config is None or model_config.disable_cascade_attn:
        return
    if CASCADE.needed():
        model_config.disable_cascade_attn = True
        logger.warning(
            "Cascade attention is switched off: in this vLLM it passes the XPU "
            "kernel a query descale, which the kernel does not take."
        )


@functools.cache
def adjust_loading() -> None:
    """Adjust how vLLM loads weights in this process. Idempotent."""
    if not BIASES.needed():
        return
    from vllm.model_executor.model_loader.reload import layerwise, meta

    materialize = meta.materialize_layer

    def keeping_what_is_loaded(layer: torch.nn.Module, info: Any) -> None:
        loaded = {
            name: tensor
            for name, tensor in meta.get_layer_tensors(layer).items()
            if not tensor.is_meta
        }
        materialize(layer, info)
        for name, tensor in loaded.items():
            setattr(layer, name, tensor)

    # What imported it by name has its own reference.
    for module in (meta, layerwise):
        module.materialize_layer = keeping_what_is_loaded


@functools.cache
def _note_a_newer_vllm() -> None:
    """Say so once: vLLM's engine has a process of its own, and so have its workers."""
    if multiprocessing.parent_process() is not None:
        return
    installed = version("vllm")
    if Version(installed.partition("+")[0]) > Version(NEWEST_TESTED):
        logger.info(
            "NOTE: vLLM %s is newer than %s, the newest that this plugin was tested "
            "with. Should it fail, VLLM_XPU_FP8_PLUGIN=0 runs vLLM without it.",
            installed,
            NEWEST_TESTED,
        )
