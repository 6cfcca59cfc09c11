# SPDX-License-Identifier: Apache-2.0
"""virtual_xpu/csrc/few_rows.cpp."""

import pytest
import torch
from torch import Tensor

from vllm_xpu_fp8_plugin import virtual_xpu

virtual_xpu.enable()

TYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16)


def few_rows(rows: Tensor, weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return ``rows @ weight.T * scale``."""
    return torch.ops.virtual_xpu.few_rows(rows, weight, scale)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_code_has_its_value(dtype: torch.dtype) -> None:
    """Catches an exponent's bias, subnormals, the sign of zero, infinity and NaN."""
    bits = 8 * dtype.itemsize
    unsigned = {8: torch.uint8, 16: torch.uint16}[bits]
    codes = torch.arange(2**bits, dtype=torch.int32).to(unsigned).view(dtype)
    weight = torch.zeros(len(codes), 16, dtype=dtype)
    weight[:, 0] = codes
    rows = torch.zeros(1, 16)
    rows[0, 0] = 1
    got, want = few_rows(rows, weight)[0], codes.float()
    assert torch.equal(got.isnan(), want.isnan())
    number = ~want.isnan()
    assert torch.equal(got[number], want[number])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("m", [0, 1, 3, 4, 5, 32])
@pytest.mark.parametrize(("n", "k"), [(1, 16), (3, 48), (4, 32), (130, 80)])
def test_products_of_every_shape_are_right(
    dtype: torch.dtype, m: int, n: int, k: int
) -> None:
    """Catches a tile that ends beyond the last row or column, or before it."""
    rows, weight = torch.randn(m, k), torch.randn(n, k).to(dtype)
    exact = rows.double() @ weight.double().T
    bound = 1e-6 * (rows.double().abs() @ weight.double().abs().T)
    assert ((few_rows(rows, weight).double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("scales", [1, 9])
def test_each_column_has_its_scale(scales: int) -> None:
    """Catches one scale for all columns, and the scale of the next one."""
    rows, weight = torch.randn(3, 16), torch.randn(9, 16).half()
    scale = torch.arange(1.0, 1 + scales)
    want = few_rows(rows, weight) * scale
    assert torch.equal(few_rows(rows, weight, scale), want)


@pytest.mark.parametrize(
    ("rows", "weight", "scale"),
    [
        (torch.ones(2, 8), torch.ones(2, 8).half(), None),
        (torch.ones(2, 16).half(), torch.ones(2, 16).half(), None),
        (torch.ones(2, 16), torch.ones(2, 16), None),
        (torch.ones(2, 16), torch.ones(16, 2).half().t(), None),
        (torch.ones(2, 16), torch.ones(2, 32).half(), None),
        (torch.ones(2, 16), torch.ones(2, 16).half(), torch.ones(3)),
    ],
    ids=["K", "rows", "weight", "strides", "shapes", "scale"],
)
def test_what_it_does_not_take_is_refused(
    rows: Tensor, weight: Tensor, scale: Tensor | None
) -> None:
    """Catches a read beyond the end of what was given."""
    with pytest.raises(RuntimeError, match="few_rows"):
        few_rows(rows, weight, scale)
