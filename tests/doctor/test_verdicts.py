# SPDX-License-Identifier: Apache-2.0
"""What becomes of kinds of attention layers, with the kernels of real wheels."""

import pytest

from tests.doctor.packages import kernel_package
from vllm_xpu_fp8_plugin.doctor import verdicts
from vllm_xpu_fp8_plugin.doctor.attention_layers import (
    DECODER,
    ENCODER,
    MEDIA,
    AttentionLayers,
)
from vllm_xpu_fp8_plugin.doctor.verdicts import COMPILED, FALLBACK, REFUSED, WRONG
from vllm_xpu_fp8_plugin.kernel_package import compiled_attention, python_layer
from vllm_xpu_fp8_plugin.kernel_package.python_layer import PythonLayer

OLD, MIDDLE, NEW = "0.1.13.2", "0.1.14.1", "0.1.16.2"

MODERNBERT_LOCAL = AttentionLayers(ENCODER, 14, 64, 12, 12, window=128)
ENCODER_128 = AttentionLayers(ENCODER, 12, 128, 8, 8)
MEDIA_128 = AttentionLayers(MEDIA, 12, 128, 8, 8)
SOFTCAP = AttentionLayers(ENCODER, 12, 64, 8, 8, softcap=50.0)
ALIBI = AttentionLayers(ENCODER, 12, 64, 8, 8, alibi=True)


def verdict(layers: AttentionLayers, version: str, *, plugin: bool) -> str:
    package = kernel_package(version)
    layer = python_layer.examine(package.interface)
    found = verdicts.judge(layers, package.compiled["xe2"], layer, with_plugin=plugin)
    assert (found.reason == "") == (found.verdict == COMPILED)
    return found.verdict


@pytest.mark.parametrize(
    ("layers", "version", "without", "with_plugin"),
    [
        (MODERNBERT_LOCAL, OLD, WRONG, FALLBACK),
        (MODERNBERT_LOCAL, MIDDLE, COMPILED, COMPILED),
        (MODERNBERT_LOCAL, NEW, FALLBACK, FALLBACK),
        (ENCODER_128, OLD, WRONG, FALLBACK),
        (ENCODER_128, MIDDLE, COMPILED, COMPILED),
        (ENCODER_128, NEW, COMPILED, COMPILED),
        (MEDIA_128, OLD, FALLBACK, FALLBACK),
        (MEDIA_128, NEW, COMPILED, COMPILED),
        (SOFTCAP, MIDDLE, WRONG, REFUSED),
        (ALIBI, NEW, WRONG, REFUSED),
    ],
)
def test_verdicts_on_encoder_layers(
    layers: AttentionLayers, version: str, without: str, with_plugin: str
) -> None:
    """Catches uninitialised memory that is called sound, and the reverse."""
    assert verdict(layers, version, plugin=False) == without
    assert verdict(layers, version, plugin=True) == with_plugin


@pytest.mark.parametrize("version", [OLD, MIDDLE, NEW])
@pytest.mark.parametrize("head_size", [32, 64])
@pytest.mark.parametrize("role", [ENCODER, DECODER])
def test_small_heads_are_compiled_everywhere(
    version: str, head_size: int, role: str
) -> None:
    """Catches head size 32, which runs in the kernel for 64, called missing."""
    layers = AttentionLayers(role, 6, head_size, 12, 4 if role == DECODER else 12)
    assert verdict(layers, version, plugin=False) == COMPILED


def test_the_plugin_changes_no_verdict_on_a_decoder() -> None:
    """Catches a promise that the plugin does not keep: it leaves decoders alone."""
    layers = AttentionLayers(DECODER, 6, 640, 12, 4)
    for version, expected in ((OLD, WRONG), (MIDDLE, FALLBACK)):
        for plugin in (False, True):
            assert verdict(layers, version, plugin=plugin) == expected


def test_a_package_without_a_fallback_refuses() -> None:
    """Catches an error at the first request that is called slow."""
    layer = PythonLayer(python_layer.REFUSED, python_layer.NO_FALLBACK)
    held = kernel_package(OLD).compiled["xe2"]
    found = verdicts.judge(MODERNBERT_LOCAL, held, layer, with_plugin=True)
    assert found.verdict == REFUSED


def test_kernels_that_cannot_be_read_give_no_verdict() -> None:
    """Catches a guess where the library names nothing, as a stripped one."""
    layer = PythonLayer(python_layer.REFUSED, python_layer.WRITES_OUT)
    for held in (None, compiled_attention.CompiledSet(frozenset(), frozenset())):
        found = verdicts.judge(ENCODER_128, held, layer, with_plugin=False)
        assert found.verdict == verdicts.UNKNOWN
