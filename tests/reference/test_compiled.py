# SPDX-License-Identifier: Apache-2.0
"""The compiled ops against their PyTorch versions, op by op and dtype by dtype."""

import pytest
import torch
from torch import Tensor

from tests.reference.cases import CASES
from tests.reference.differences import DIFFERENCES, Difference
from tests.reference.ops import COMPILED, HOW, Ops, table
from vllm_xpu_fp8_plugin import reference

# Of these each run draws other numbers, the arguments are addresses, or what comes out
# has no promised order; hyper-connections' head is held against float64 in
# test_in_pytorch.py. All have tests of their own.
NOT_COMPARED = {
    "_C::top_k_per_row_decode",
    "_C::top_k_per_row_prefill",
    "_xpu_C::topk_topp_sampler",
    "_xpu_C::exponential_2d_",
    "_C_cache_ops::swap_blocks_batch",
    "_xpu_C::hc_head_fused",
}


def units(a: Tensor, b: Tensor) -> Tensor:
    """Return how many values of their type lie between the elements of two tensors."""
    if not a.is_floating_point():
        return (a.long() - b.long()).abs()
    ints = {1: torch.int8, 2: torch.int16, 4: torch.int32}[a.itemsize]
    ranks = []
    for bits in (t.contiguous().view(ints).long() for t in (a, b)):
        ranks.append(bits.where(bits >= 0, torch.iinfo(ints).min - bits))
    return (ranks[0] - ranks[1]).abs()


def written(name: str, dtype: torch.dtype) -> list[list[Tensor]]:
    """Return what each way to run the op has written, tensor by tensor."""
    namespace, short_name = name.split("::")
    op = getattr(getattr(torch.ops, namespace), short_name).default
    results = []
    for how in HOW:
        torch.manual_seed(0)
        Ops.how = how
        arguments = CASES[name][1](dtype)
        getattr(Ops(namespace), short_name)(*arguments)
        parameters = zip(op._schema.arguments, arguments, strict=False)
        outputs = [a for p, a in parameters if p.alias_info and p.alias_info.is_write]
        results.append([t for t in outputs if isinstance(t, Tensor)])
    Ops.how = HOW[0]
    return results


def is_within(result: Tensor, compiled: Tensor, allowed: Difference) -> bool:
    """Whether no element is farther off than allowed."""
    bound = allowed.float32 if result.dtype == torch.float32 else allowed.narrow
    values, expected = result.double(), compiled.double()
    off, largest = (values - expected).abs(), expected.abs().max()
    near = (units(result, compiled) <= bound.units) | (off <= bound.error * largest)
    return bool(near.all())


@pytest.mark.parametrize("name", CASES)
def test_compiled_and_pytorch_agree(name: str) -> None:
    """Catches a PyTorch version that computes or rounds otherwise than the kernel."""
    if name not in table() or table()[name].runs != COMPILED:
        pytest.skip(f"{name} is not compiled code here")
    allowed = DIFFERENCES.get(name, Difference(""))
    identical = True
    for dtype in CASES[name][0]:
        for in_pytorch, compiled in zip(*written(name, dtype), strict=True):
            assert bool(compiled.view(torch.uint8).any()), "nothing was written"
            assert is_within(in_pytorch, compiled, allowed), dtype
            identical &= torch.equal(in_pytorch, compiled)
    # What has become identical leaves the list of differences.
    assert identical == (name not in DIFFERENCES)


def test_every_op_that_can_be_compared_is() -> None:
    """Catches an op that is compiled code in a new release, and that nothing checks."""
    compiled = {name for name, op in table().items() if op.runs == COMPILED}
    both = compiled & set(reference.implementations())
    assert both - NOT_COMPARED <= set(CASES)
    assert set(DIFFERENCES) <= set(CASES)
