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
        description: One sentence for the table in the README.

    """

    name: str
    choices: dict[str, tuple[str, ...]]
    default: str
    description: str

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
    "platform is used if this is an XPU host. emulate: vLLM's XPU code runs on "
    "the CPU, on the software XPU.",
)

EMULATE_COVERAGE = EnvVar(
    "VLLM_XPU_FP8_EMULATE_COVERAGE",
    {OFF: ("0", "off", "false"), ON: ("1", "on", "true")},
    OFF,
    "on: the software XPU refuses an encoder or prefill attention call for which "
    "the installed vllm-xpu-kernels holds no compiled kernel, as an Intel GPU would, "
    "so that the kernel package's own fallback runs.",
)

ENV_VARS = (PLUGIN, EMULATE_COVERAGE)


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
    """Return the README's table of environment variables."""
    rows = ["| variable | values (any case) | default | meaning |", "|---|---|---|---|"]
    for var in ENV_VARS:
        values = " · ".join(
            ", ".join(f"`{s}`" for s in spellings) for spellings in var.choices.values()
        )
        rows.append(f"| `{var.name}` | {values} | {var.default} | {var.description} |")
    return "\n".join(rows)
