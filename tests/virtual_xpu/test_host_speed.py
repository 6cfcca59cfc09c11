# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.virtual_xpu.host_speed."""

import gc
import os
import subprocess
import sys

import pytest
import torch

from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.virtual_xpu import host_speed

virtual_xpu.enable()


@pytest.mark.parametrize("rows", [5, 40])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_products_are_right_on_every_processor(
    dtype: torch.dtype, native: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a weight that is not transposed, a bias that is lost, two roundings."""
    monkeypatch.setattr(host_speed, "_has_product", lambda dtype: native)
    x, weight = torch.randn(2, rows, 64).to(dtype), torch.randn(48, 64).to(dtype)
    bias = torch.randn(48).to(dtype)
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    layer = torch.nn.Identity()
    got = host_speed.unquantized_gemm(layer, *(t.to("xpu") for t in (x, weight, bias)))
    assert got.device.type == "xpu"
    assert got.dtype == dtype
    unit = torch.finfo(dtype).eps * exact.abs().clamp(min=1)
    assert ((got.cpu().double() - exact).abs() <= unit + 1e-5).all()


def test_a_weight_that_changes_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a float32 copy of a weight that is kept beyond its change."""
    monkeypatch.setattr(host_speed, "_has_product", lambda dtype: False)
    x = torch.ones(1, 8, device="xpu", dtype=torch.float16)
    weight = torch.ones(2, 8, device="xpu", dtype=torch.float16)
    layer = torch.nn.Identity()
    assert host_speed.unquantized_gemm(layer, x, weight).tolist() == [[8, 8]]
    weight.mul_(2)
    assert host_speed.unquantized_gemm(layer, x, weight).tolist() == [[16, 16]]


def test_only_what_vllm_has_set_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a user's OMP_NUM_THREADS that is ignored, and one thread for all."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.delenv("VLLM_OMP_NUM_THREADS_SET_BY_VLLM", raising=False)
        host_speed.use_every_core()
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("VLLM_OMP_NUM_THREADS_SET_BY_VLLM", "1")
        host_speed.use_every_core()
        assert torch.get_num_threads() == len(os.sched_getaffinity(0))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("since", [0, 9_000])
def test_a_collection_that_was_set_since_is_kept(since: int) -> None:
    """Catches the import's end, which would take it for its own."""
    was = gc.get_threshold()
    try:
        gc.set_threshold(since, 7, 8)
        host_speed.keep_what_was_imported.__wrapped__()
        assert gc.get_threshold() == (since, 7, 8)
    finally:
        gc.set_threshold(*was)
        gc.unfreeze()


_VLLM_PROCESS = """
import gc
import sys

before = gc.get_threshold()
started = []

def note(event, arguments):
    if event == "subprocess.Popen":
        started.append(arguments[1])

sys.addaudithook(note)

import vllm.model_executor.layers.quantization.utils.humming
import humming

builds = [command for command in started if "humming" in str(command)]
while_imported = gc.get_threshold()

from vllm.config import VllmConfig
from vllm.platforms import current_platform

current_platform.check_and_update_config(VllmConfig())
as_before = gc.get_threshold() == before and gc.get_freeze_count() > 0
print(builds, while_imported[0], as_before)
"""


def test_a_process_of_vllm_starts_no_others_and_collects_less_often() -> None:
    """Catches two more imports of torch for each, for nothing, and 1.2 s of collecting.

    The processes look for CUDA. Collection is as it was once vLLM is imported.
    """
    pytest.importorskip("humming")
    ours = "HUMMING_DISABLE_PARALLEL_BUILD"
    done = subprocess.run(
        [sys.executable, "-c", _VLLM_PROCESS],
        env={k: v for k, v in os.environ.items() if k != ours},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1:] == ["[] 50000 True"], done.stderr[-2000:]
