# SPDX-License-Identifier: Apache-2.0
"""What a model is looked at for."""

from pathlib import Path
from typing import NamedTuple

from vllm_xpu_fp8_plugin.doctor.attention_layers import AttentionLayers
from vllm_xpu_fp8_plugin.doctor.model_files import ModelFiles
from vllm_xpu_fp8_plugin.kernel_package import compiled_attention
from vllm_xpu_fp8_plugin.kernel_package.python_layer import PythonLayer


class Backend(NamedTuple):
    """The attention backend that vLLM takes for a kind of layers.

    Attributes:
        upstream: Import path of vLLM's own choice, None if it refuses.
        plugin: The same with the plugin on.
        error: What it says where it refuses.

    """

    upstream: str | None
    plugin: str | None
    error: str | None


class ModelSetup(NamedTuple):
    """What a model is looked at for.

    Attributes:
        model: What its files say.
        layers: Its kinds of attention layers; empty if they could not be read.
        backends: One for each of `layers`; empty if vLLM could not be asked.
        quantization: As for ``vllm serve``, None if not given.
        kv_cache_dtype: Likewise.
        kernels: The kernels compiled for the architecture, None if not known.
        python_layer: What the kernel package's Python layer does.
        plugin: Whether the plugin is asked for.
        vllm: Folder of the installed vLLM, None if there is none.
        refuses_fp8_kv_cache: Does vLLM's encoder attention refuse an fp8 KV cache.

    """

    model: ModelFiles
    layers: list[AttentionLayers]
    backends: list[Backend]
    quantization: str | None
    kv_cache_dtype: str | None
    kernels: compiled_attention.CompiledSet | None
    python_layer: PythonLayer
    plugin: bool
    vllm: Path | None
    refuses_fp8_kv_cache: bool
