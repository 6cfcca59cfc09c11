# SPDX-License-Identifier: Apache-2.0
"""What `check` says of an op's calls in its catalogue."""

import torch

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.call import Call, complete
from vllm_xpu_fp8_plugin.check.registry import specs
from vllm_xpu_fp8_plugin.check.replay import replay


def faults(name: str) -> list[str]:
    """Return what is wrong with an op's outputs on the virtual XPU, call by call.

    Args:
        name: ``namespace::name`` of the op.

    """
    spec = specs()[name]
    making.seed(0)
    found: list[str] = []
    for arguments in spec.cases():
        call = complete(Call(name, arguments))
        assert call is not None
        for _, verdict in replay(call, spec, torch.device("xpu")):
            found += map(str, verdict.faults)
            if verdict.refused:
                found.append(verdict.refused)
    return found
