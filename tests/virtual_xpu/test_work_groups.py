# SPDX-License-Identifier: Apache-2.0
"""Launches of kernels with sub-groups, which a CPU cuts along one dimension alone."""

import numpy as np
import pytest
import torch

from tests.virtual_xpu.assembly import IN_GROUP, LANES, Array, run
from vllm_xpu_fp8_plugin import virtual_xpu

virtual_xpu.enable()
# Launches are watched from the first memory on.
torch.ones(1, device="xpu")

ROUNDED = """{
.decl OUT v_type=G type=BF num_elts=32 alias=<$0,0>
.decl IN v_type=G type=F num_elts=32 alias=<$1,0>
mov (M1_NM, 32) OUT(0,0)<1> IN(0,0)<1;1,0>
}"""
VALUES = np.arange(2 * LANES, dtype=np.float32).reshape(2, LANES)


def launch(*group: int) -> Array | None:
    """Round each lane's two values to bfloat16, in a work-group of this shape."""
    return run(ROUNDED, "=rw,rw", [VALUES], (np.uint16, 2), group)


@pytest.mark.parametrize("group", [(16,), (16, 2), (32, 2), (16, 1, 3)])
def test_a_work_group_of_whole_sub_groups_runs(group: tuple[int, ...]) -> None:
    """Catches a launch that is refused though a GPU cuts it in the same way."""
    got = launch(*group)
    np.testing.assert_array_equal(got, VALUES.view(np.uint32) >> 16)


@pytest.mark.parametrize("group", [(12, 4), (24, 2), (3, 5, 16)])
def test_a_work_group_that_a_gpu_cuts_otherwise_is_refused(
    group: tuple[int, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches sub-groups of other items than a GPU's, whose results are wrong."""
    with pytest.raises(RuntimeError, match="clEnqueueNDRangeKernel"):
        launch(*group)
    shape = " x ".join(str(n) for n in (*(1,) * (3 - len(group)), *group[::-1]))
    said = f"cannot run main: a work-group of {shape} items"
    assert said in capfd.readouterr().err


FIRST = """{
.decl OUT v_type=G type=F num_elts=16 alias=<$0,0>
.decl IN v_type=G type=F num_elts=16 alias=<$1,0>
mov (M1_NM, 16) OUT(0,0)<1> IN(0,0)<0;1,0>
}"""


def test_an_assembly_alone_makes_a_kernel_one_of_sub_groups() -> None:
    """Catches sub-groups of 8 lanes where vectors have 8: wrong MQA logits on AVX2."""
    values = VALUES[:1] + 3
    got = run(FIRST, "=rw,rw", [values], (np.float32, 1), lane_number=IN_GROUP)
    np.testing.assert_array_equal(got, np.full((1, LANES), 3, np.float32))


@pytest.mark.parametrize(("lanes", "named"), [(8, "8 lanes"), (0, "any size")])
def test_an_assembly_in_sub_groups_of_another_size_is_named(
    lanes: int, named: str
) -> None:
    """Catches a kernel that runs in as many lanes as a processor's vectors have."""
    with pytest.raises(ValueError, match=f"assembly in sub-groups of {named}"):
        run(FIRST, "=rw,rw", [VALUES[:1]], (np.float32, 1), sub_group=lanes)
