# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.virtual_xpu.intel: how Intel's runtime is told to compile."""

from pathlib import Path

from vllm_xpu_fp8_plugin.virtual_xpu.intel import IntelRuntime

CACHE, LAYER = Path("/cache"), Path("/build/libvirtual_xpu_layer.so")
OPTIONS, FOLDER = "CL_CONFIG_LLVM_OPTIONS", "SYCL_CACHE_DIR"


def settings(long_kernels: bool, **given: str) -> dict[str, str]:
    runtime = IntelRuntime("1", Path(), {"libintelocl.so": Path("/libintelocl.so")})
    return runtime.settings(CACHE, LAYER, long_kernels, given)


def test_kernels_that_compile_quickly_are_not_taken_for_fast_ones() -> None:
    """Catches engines whose kernels run two to three times slower than they need to.

    A process passes its variables on to those that it starts, of whichever kind.
    """
    fast, quick = settings(False), settings(True)
    assert fast[OPTIONS] == "" and "-regalloc=fast" in quick[OPTIONS]
    assert fast[FOLDER] != quick[FOLDER]
    assert settings(False, **quick) == fast
    assert settings(True, **fast) == quick


def test_what_a_user_set_is_kept() -> None:
    """Catches a user's own options, cache or layer that have no effect."""
    given = {
        OPTIONS: "-debug-pass=Structure",
        FOLDER: "/mine",
        "OPENCL_LAYERS": "/own.so",
    }
    for long_kernels in (False, True):
        made = settings(long_kernels, **given)
        assert {name: made[name] for name in (OPTIONS, FOLDER)} == {
            OPTIONS: given[OPTIONS],
            FOLDER: given[FOLDER],
        }
        assert made["OPENCL_LAYERS"] == f"{LAYER}:/own.so"


def test_the_layer_of_another_build_is_replaced() -> None:
    """Catches two layers in a process, each of which sees every launch."""
    made = settings(False, OPENCL_LAYERS="/old/libvirtual_xpu_layer.so:/own.so")
    assert made["OPENCL_LAYERS"] == f"{LAYER}:/own.so"
