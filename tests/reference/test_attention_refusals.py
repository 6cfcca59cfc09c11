# SPDX-License-Identifier: Apache-2.0
"""What attention in PyTorch refuses, as the kernels do or should."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference import oracle
from tests.reference.attention_calls import close, flash_attn_varlen_func, starts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 3, 8)}, "fp16, bf16 or fp8"),
        ({"v": torch.zeros(2, 2, 8, dtype=torch.bfloat16)}, "key is torch.float16"),
        ({"k": torch.zeros(2, 2, 16, dtype=torch.float16)}, "head size"),
        ({"cu_seqlens_q": torch.tensor([0, 2])}, "int32"),
        ({"q": torch.zeros(2, 3, 8, dtype=torch.float16)}, "do not divide"),
    ],
)
def test_what_the_kernel_refuses_is_refused(
    change: dict[str, Tensor], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    half = torch.zeros(2, 2, 8, dtype=torch.float16)
    arguments: dict[str, Any] = {
        "q": half,
        "k": half,
        "v": half,
        "cu_seqlens_q": starts([2]),
        "cu_seqlens_k": starts([2]),
        **change,
    }
    with pytest.raises(RuntimeError, match=message):
        flash_attn_varlen_func(max_seqlen_q=2, max_seqlen_k=2, **arguments)


@pytest.mark.parametrize("page", [-1, 2])
def test_a_page_that_does_not_exist_is_refused(page: int) -> None:
    """Catches a page of another sequence's, or an IndexError, in place of a reason."""
    half = torch.zeros(1, 2, 8, dtype=torch.float16)
    cache = torch.zeros(2, 4, 2, 8, dtype=torch.float16)
    with pytest.raises(RuntimeError, match=f"page {page}, there are 2"):
        flash_attn_varlen_func(
            half,
            cache,
            cache,
            max_seqlen_q=1,
            cu_seqlens_q=starts([1]),
            max_seqlen_k=8,
            seqused_k=torch.tensor([8], dtype=torch.int32),
            block_table=torch.tensor([[0, page]], dtype=torch.int32),
        )


@pytest.mark.parametrize(
    "extra",
    [{"softcap": 30.0}, {"alibi_slopes": torch.ones(2)}],
    ids=["softcap", "alibi"],
)
def test_softcap_and_alibi_raise(extra: dict[str, Any]) -> None:
    """Catches an argument that the real kernel ignores and this hides."""
    half = torch.zeros(2, 2, 8, dtype=torch.float16)
    with pytest.raises(NotImplementedError, match="TRITON_ATTN"):
        flash_attn_varlen_func(
            half,
            half,
            half,
            max_seqlen_q=2,
            cu_seqlens_q=starts([2]),
            max_seqlen_k=2,
            cu_seqlens_k=starts([2]),
            **extra,
        )


def test_values_of_another_size_than_keys_are_for_decode_alone() -> None:
    """Catches a prefill that is right here, and writes past its rows on a GPU."""
    keys, values = torch.randn(1, 16, 1, 24).half().split([16, 8], dim=-1)
    query = torch.randn(7, 1, 16).half()

    def attend(query: Tensor, *lengths: int) -> Tensor:
        count = len(lengths)
        out: Tensor = flash_attn_varlen_func(
            query,
            keys,
            values,
            max_seqlen_q=max(lengths),
            cu_seqlens_q=starts(list(lengths)),
            max_seqlen_k=7,
            seqused_k=torch.full((count,), 7, dtype=torch.int32),
            causal=True,
            block_table=torch.zeros(count, 1, dtype=torch.int32),
            out=torch.full((len(query), 1, 8), math.nan).half(),
        )
        return out

    expected, _ = oracle.attention(
        query[:1], keys[0, :7], values[0, :7], 16**-0.5, True, (-1, -1), None
    )
    assert close(attend(query[:1], 1), expected)
    # Of one length they would be taken for speculative decoding.
    with pytest.raises(NotImplementedError, match=r"keys of 16 with values of 8"):
        attend(query, 3, 4)
