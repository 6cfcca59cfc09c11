# SPDX-License-Identifier: Apache-2.0
"""Where a quotient and a product with the inverse part, to the code.

Each value lies so near the middle of two codes that ``x / s`` and ``x * (1 / s)``,
both in float32, round to different ones. Which of them a kernel computes is read in
csrc/quantization of vllm-xpu-kernels; the rest of the suite allows either.
"""

import pytest
import torch
from torch import Tensor

from tests.reference.memory import poisoned
from tests.reference.ops import Ops, in_pytorch_only

ops, cache_ops = Ops("_C"), Ops("_C_cache_ops")
# A compiler for the device may take either, and the CPU's does (differences.py).
pytestmark = [pytest.mark.usefixtures("how"), in_pytorch_only]

E4M3 = torch.float8_e4m3fn


def exact(*values: str) -> Tensor:
    return torch.tensor([float.fromhex(value) for value in values])


# Two values, a scale for each, and what they become by way of the inverse and of the
# quotient.
VALUES = exact("0x1.09e908p+0", "0x1.b4dcp-3")
SCALES = exact("0x1.953254p-1", "0x1.6fe1bp-3")
BY_INVERSE, BY_QUOTIENT = [1.25, 1.125], [1.375, 1.25]


@pytest.mark.parametrize("i", [0, 1])
def test_quantisation_with_a_scale_multiplies_by_the_inverse(i: int) -> None:
    """Catches a division in `fp8.quantize`."""
    q = poisoned((1, 4), E4M3)
    ops.static_scaled_fp8_quant(q, VALUES[i].expand(1, 4).contiguous(), SCALES[i])
    assert q.float().tolist() == [[BY_INVERSE[i]] * 4]


@pytest.mark.parametrize("i", [0, 1])
def test_a_cache_stores_the_quotient(i: int) -> None:
    """Catches a product with the inverse in `cache_dtype.encode` or `convert_fp8`."""
    new = VALUES[i].expand(1, 1, 16).contiguous()
    key_cache, value_cache = torch.zeros(2, 1, 16, 1, 16, dtype=torch.uint8)
    cache_ops.reshape_and_cache_flash(
        *(new, new, key_cache, value_cache, torch.tensor([3]), "fp8"),
        *(SCALES[i : i + 1], SCALES[i : i + 1]),
    )
    for cache in (key_cache, value_cache):
        assert cache[0, 3].view(E4M3).float().tolist() == [[BY_QUOTIENT[i]] * 16]
    latent = torch.zeros(1, 16, 24, dtype=torch.uint8)
    cache_ops.concat_and_cache_mla(
        new[0], new[0, :, :8], latent, torch.tensor([3]), "fp8", SCALES[i : i + 1]
    )
    assert latent[0, 3].view(E4M3).float().tolist() == [BY_QUOTIENT[i]] * 24
    converted = torch.zeros(16, dtype=torch.uint8)
    cache_ops.convert_fp8(converted, new.flatten(), SCALES[i].item(), "fp8")
    assert converted.view(E4M3).float().tolist() == [BY_QUOTIENT[i]] * 16


@pytest.mark.parametrize(
    ("dtype", "largest", "value", "code"),
    [
        (E4M3, "0x1.2c8p+1", "0x1.c2cp-2", 80.0),
        (E4M3, "0x1.178p+1", "-0x1.a34p-3", -40.0),
        (torch.int8, "0x1.27p+1", "0x1.27p+0", 63),
        (torch.int8, "0x1.084p+1", "-0x1.084p+0", -63),
    ],
)
def test_silu_and_mul_by_groups_divides(
    dtype: torch.dtype, largest: str, value: str, code: float
) -> None:
    """Catches a product with the inverse of a group's scale.

    The sigmoid of a gate of 32 is 1 in float32, so that the products are exact.
    """
    up = torch.zeros(32)
    up[:2] = exact(largest, value)
    x = torch.cat([torch.full((32,), 32.0), up]).half()[None]
    out, scales = poisoned((1, 32), dtype), torch.zeros(1, 1)
    ops.silu_and_mul_per_block_quant(out, x, scales, 32, None, False, False)
    top = 127 if dtype == torch.int8 else 448
    assert out.float().tolist() == [[top, code] + [0] * 30]


@pytest.mark.parametrize("has_residual", [False, True])
def test_int8_of_a_norm_multiplies_by_the_inverse(has_residual: bool) -> None:
    """Catches a division in `norm_quant`: the code would be 63.

    Of a row of ones the norm is the weight.
    """
    weight = torch.zeros(32)
    weight[:2] = exact("0x1.27p+1", "0x1.27p+0")
    result, scale = poisoned((1, 32), torch.int8), torch.zeros(1, 1)
    x = torch.ones(1, 32)
    residual = torch.zeros(1, 32) if has_residual else None
    ops.rms_norm_dynamic_per_token_quant(result, x, weight, scale, 0.0, None, residual)
    assert result.tolist() == [[127, 64] + [0] * 30]


@pytest.mark.parametrize("i", [0, 1])
def test_fp8_of_a_norm_multiplies_by_the_inverse(i: int) -> None:
    """Catches a division of a norm by a scale that is given."""
    result, x = poisoned((1, 4), E4M3), torch.ones(1, 4)
    weight = VALUES[i].expand(4).contiguous()
    ops.rms_norm_static_fp8_quant(result, x, weight, SCALES[i], 0.0)
    assert result.float().tolist() == [[BY_INVERSE[i]] * 4]
