# SPDX-License-Identifier: Apache-2.0
"""Where a compiled op and its PyTorch version are not bit-identical, and why."""

from typing import NamedTuple

from tests.reference.ops import release


class Bound(NamedTuple):
    """How far two results may be apart: by either."""

    units: int = 0  # values of the type from one to the next
    error: float = 0.0  # a part of the tensor's largest value


class Difference(NamedTuple):
    """Why results differ, and how far in float32 and in the narrower types."""

    cause: str
    float32: Bound = Bound()
    narrow: Bound = Bound()


_EXP = "exp and tanh of the CPU's OpenCL compiler are not torch's in the last places"
_TAIL = (
    "1 + erf(x) and 1 + tanh(x) near 0 keep only their error in float32, and erf and "
    "tanh of the OpenCL compiler are not torch's in the last places"
)
_SUM = "squares are summed in another order, and rsqrt is the OpenCL compiler's"
_FMA = "the OpenCL compiler contracts x * cos - y * sin to a fused multiply-add"
_NATIVE = "sycl::native::exp and log have 14 bits on the CPU"
_ROUNDED = f"{_FMA}; before 0.1.16 each product is rounded to bfloat16"

DIFFERENCES = {
    "_C::silu_and_mul": Difference(_EXP, Bound(4)),
    "_C::mul_and_silu": Difference(_EXP, Bound(4)),
    "_C::swigluoai_and_mul": Difference(_EXP, Bound(4)),
    "_C::swiglustep_and_mul": Difference(_EXP, Bound(4)),
    # 5 on a processor with AVX-512, 6 on one without.
    "_C::situ_and_mul": Difference(_EXP, Bound(6), Bound(1)),
    "_C::gelu_quick": Difference(_EXP, Bound(4)),
    "_C::silu_and_mul_per_block_quant": Difference(_EXP, Bound(4), Bound(1)),
    "_C::gelu_and_mul": Difference(_TAIL, Bound(4, 2**-23), Bound(1, 2**-18)),
    "_C::gelu_tanh_and_mul": Difference(_TAIL, Bound(4, 2**-23), Bound(1, 2**-18)),
    "_C::gelu_new": Difference(_TAIL, Bound(4, 2**-24)),
    "_C::gelu_fast": Difference(_TAIL, Bound(4, 2**-24)),
    "_C::rms_norm": Difference(_SUM, Bound(6), Bound(1)),
    "_C::gemma_rms_norm": Difference(_SUM, Bound(6), Bound(1)),
    "_C::fused_add_rms_norm": Difference(_SUM, Bound(6), Bound(1)),
    "_C::fused_add_gemma_rms_norm": Difference(_SUM, Bound(6), Bound(1)),
    "_C::layer_norm": Difference(_SUM, Bound(6, 2**-21), Bound(1)),
    "_C::nemotron_layer_norm": Difference(_SUM, Bound(6, 2**-21), Bound(1)),
    "_C::fused_add_layer_norm": Difference(_SUM, Bound(6, 2**-21), Bound(1)),
    "_C::fused_add_nemotron_layer_norm": Difference(_SUM, Bound(6, 2**-21), Bound(1)),
    "_C::rms_norm_dynamic_per_token_quant": Difference(_SUM, Bound(6), Bound(1)),
    "_C::rms_norm_per_block_quant": Difference(_SUM, Bound(6), Bound(1)),
    "_C::fused_qk_norm_rope": Difference(_SUM, Bound(6), Bound(1)),
    "_C::rotary_embedding": Difference(_FMA, Bound(0, 2**-23)),
    "_xpu_C::apply_rotary_emb": Difference(_FMA, Bound(0, 2**-23)),
    "_xpu_C::multimodal_rotary_embedding": Difference(
        _ROUNDED, Bound(0, 2**-23), Bound(1, 2**-7)
    ),
    "_C::merge_attn_states": Difference(_NATIVE, Bound(0, 2**-13), Bound(1, 2**-13)),
}

if release() < (0, 1, 14):
    _TWICE = "the norm and its product with the weight are rounded to the input's type"
    DIFFERENCES["_C::rms_norm_static_fp8_quant"] = Difference(_TWICE, narrow=Bound(1))
    DIFFERENCES["_C::fused_add_rms_norm_static_fp8_quant"] = Difference(
        _TWICE, narrow=Bound(1)
    )
