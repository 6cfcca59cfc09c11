# SPDX-License-Identifier: Apache-2.0
"""Whether there is an Intel GPU."""

from pathlib import Path
from typing import Any

from vllm_xpu_fp8_plugin.doctor.report import Check, Status

_INTEL = "0x8086"
_CARDS = Path("/sys/class/drm")


def check(torch: dict[str, Any], cards: Path = _CARDS) -> list[Check]:
    """Return a check a device, or one that says why there is none.

    Args:
        torch: The probe's answer.
        cards: Where Linux lists graphics cards.

    """
    devices = torch.get("devices", [])
    if devices:
        return [
            Check(
                "device",
                Status.OK,
                f"{device['name']}, {device['memory'] / 2**30:.0f} GiB"
                + (f", driver {device['driver']}" if device.get("driver") else ""),
                data=device,
            )
            for device in devices
        ]
    if _intel_cards(cards):
        build = f"torch {torch.get('version', '(not installed)')}"
        return [
            Check(
                "device",
                Status.WARNING,
                f"There is an Intel graphics card, and {build} sees no Intel GPU",
                "Check the driver (sycl-ls) and the rights on /dev/dri."
                if torch.get("xpu")
                else "For that card, install vLLM's XPU build with its torch.",
            )
        ]
    return [Check("device", Status.NOTE, "No Intel GPU in this machine")]


def _intel_cards(cards: Path) -> list[Path]:
    found = []
    for vendor in cards.glob("card*/device/vendor"):
        try:
            if vendor.read_text().strip() == _INTEL:
                found.append(vendor)
        except OSError:
            continue
    return found
