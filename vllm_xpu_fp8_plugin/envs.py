# SPDX-License-Identifier: Apache-2.0
"""Every environment variable of the package: name, allowed values, default.

The prefix is ``VLLM_`` because vLLM's Ray executor copies ``VLLM_*`` to workers
on other hosts, and no other names.
"""

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple


class EnvVar(NamedTuple):
    """An environment variable that takes one of a few words, in any case.

    Attributes:
        name: Name of the variable.
        choices: Meaning of the value -> the spellings of it that are allowed.
        default: Meaning of an unset or empty variable.
        description: One sentence for the table in the documentation.

    """

    name: str
    choices: dict[str, tuple[str, ...]]
    default: str
    description: str

    @property
    def values(self) -> str:
        """Say which values are allowed."""
        return " · ".join(
            ", ".join(f"`{s}`" for s in spellings)
            for spellings in self.choices.values()
        )

    def get(self, environ: Mapping[str, str] | None = None) -> str:
        """Return the meaning of the variable's value, a key of `choices`.

        Raises:
            ValueError: The value is not one of the allowed spellings.

        """
        value = (os.environ if environ is None else environ).get(self.name, "")
        word = value.strip().lower()
        if not word:
            return self.default
        for meaning, spellings in self.choices.items():
            if word in spellings:
                return meaning
        allowed = "; ".join(
            f"{', '.join(spellings)} ({meaning})"
            for meaning, spellings in self.choices.items()
        )
        raise ValueError(
            f"{self.name}={value!r} is not an allowed value. Allowed: {allowed}; "
            f"or leave it unset ({self.default})."
        )


OFF, ON, EMULATE = "off", "on", "emulate"

PLUGIN = EnvVar(
    "VLLM_XPU_FP8_PLUGIN",
    {
        OFF: ("0", "off", "false"),
        ON: ("1", "on", "true"),
        EMULATE: ("emulate",),
    },
    OFF,
    "off: vLLM runs as if the package were not installed. on: the plugin's "
    "platform is used if this is an XPU host. emulate: vLLM runs on "
    "a virtual Intel GPU, on the CPU.",
)

EMULATE_COVERAGE = EnvVar(
    "VLLM_XPU_FP8_EMULATE_COVERAGE",
    {OFF: ("0", "off", "false"), ON: ("1", "on", "true")},
    OFF,
    "on: the virtual XPU refuses an encoder or prefill attention call for which "
    "the installed vllm-xpu-kernels holds no compiled kernel, as an Intel GPU would, "
    "so that the kernel package's own fallback runs.",
)


class Number(NamedTuple):
    """An environment variable that takes a whole number.

    Attributes:
        name: Name of the variable.
        least: Smallest number that is allowed.
        most: Greatest one.
        default: Meaning of an unset or empty variable.
        description: One sentence for the table in the documentation.

    """

    name: str
    least: int
    most: int
    default: int
    description: str

    def get(self, environ: Mapping[str, str] | None = None) -> int:
        """Return the variable's value.

        Raises:
            ValueError: It is not a whole number, or out of bounds.

        """
        value = (os.environ if environ is None else environ).get(self.name, "")
        if not value.strip():
            return self.default
        if not value.strip().isdecimal() or not self.least <= int(value) <= self.most:
            raise ValueError(
                f"{self.name}={value!r} is not an allowed value. Allowed: a whole "
                f"number from {self.least} to {self.most}; or leave it unset "
                f"({self.default})."
            )
        return int(value)

    @property
    def values(self) -> str:
        """Say which values are allowed."""
        return f"{self.least} to {self.most}"


class Folder(NamedTuple):
    """An environment variable that takes a path.

    Attributes:
        name: Name of the variable.
        default: What is used where it is unset, in words.
        description: One sentence for the table in the documentation.

    """

    name: str
    default: str
    description: str

    def get(self, environ: Mapping[str, str] | None = None) -> str | None:
        """Return the path, None where the variable is unset or empty."""
        value = (os.environ if environ is None else environ).get(self.name, "")
        return value if value.strip() else None

    @property
    def values(self) -> str:
        """Say which values are allowed."""
        return "a folder"


AUTO, COMPILED, REFERENCE = "auto", "compiled", "reference"

VIRTUAL_OPS = EnvVar(
    "VLLM_XPU_FP8_VIRTUAL_OPS",
    {AUTO: ("auto",), COMPILED: ("compiled",), REFERENCE: ("reference",)},
    AUTO,
    "auto: on the virtual XPU the kernel package's own compiled code runs, and PyTorch "
    "where that cannot or, as attention, is slow on a CPU. compiled: compiled code "
    "wherever it can run. reference: PyTorch throughout.",
)

VIRTUAL_GPU = EnvVar(
    "VLLM_XPU_FP8_VIRTUAL_GPU",
    {name: (name,) for name in ("b580", "b60", "b390", "nvl_p", "a770", "max1550")},
    "b580",
    "Intel GPU whose memory and properties the virtual XPU has.",
)

VIRTUAL_DEVICES = Number(
    "VLLM_XPU_FP8_VIRTUAL_DEVICES",
    1,
    16,
    2,
    "number of virtual XPUs; all of them compute on the same CPU.",
)

VIRTUAL_MEMORY = Number(
    "VLLM_XPU_FP8_VIRTUAL_MEMORY",
    0,
    1024,
    0,
    "GiB of memory that a virtual XPU has; 0: as much as the GPU that it is like, "
    "and no more than the host.",
)

CACHE = Folder(
    "VLLM_XPU_FP8_CACHE",
    "~/.cache/vllm-xpu-fp8-plugin",
    "where the virtual XPU keeps what it compiles.",
)

WARN, REFUSE = "warn", "refuse"

CHECK = EnvVar(
    "VLLM_XPU_FP8_CHECK",
    {OFF: ("0", "off", "false"), WARN: ("warn",), REFUSE: ("refuse",)},
    OFF,
    "with the plugin on: each worker compares its FP8 layers and KV caches, one of "
    "each shape, with float64 once its weights are loaded. warn: what is wrong is "
    "logged. refuse: it ends the start.",
)

ENV_VARS = (
    PLUGIN,
    CHECK,
    VIRTUAL_OPS,
    VIRTUAL_GPU,
    VIRTUAL_DEVICES,
    VIRTUAL_MEMORY,
    CACHE,
    EMULATE_COVERAGE,
)


def register_with_vllm() -> None:
    """Make the variables known to vLLM, which warns of any other ``VLLM_*`` name.

    Takes ``vllm.envs`` from `sys.modules`: whoever calls the plugin from vLLM has
    imported it, and a process that has not needs no registration.
    """
    vllm_envs = sys.modules.get("vllm.envs")
    if vllm_envs is None:
        return
    for var in ENV_VARS:
        vllm_envs.environment_variables.setdefault(
            var.name, lambda name=var.name: os.environ.get(name)
        )


def markdown_table() -> str:
    """Return the documentation's table of environment variables."""
    rows = ["| variable | values (any case) | default | meaning |", "|---|---|---|---|"]
    for var in ENV_VARS:
        rows.append(
            f"| `{var.name}` | {var.values} | {var.default} | {var.description} |"
        )
    return "\n".join(rows)
