# SPDX-License-Identifier: Apache-2.0
"""A measure's limits, and the verdict on a value."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vllm_xpu_fp8_plugin.verify.plan import CLASSIFY, EMBED, GENERATE, SCORE

PASS, DRIFT, ALARM = "pass", "drift", "alarm"
POOLING = (SCORE, EMBED, CLASSIFY)
RANKING = (SCORE, EMBED)
ALL = (*POOLING, GENERATE)

# One number for a limit, or two: for drift and for an alarm.
Limits = tuple[float, ...]


@dataclass(frozen=True)
class Threshold:
    """Limits for a measure.

    Attributes:
        name: The measure's name.
        tasks: The tasks that it is for; another entry may have other limits.
        drift: The worst value that FP8's rounding explains; None: `alarm` is that.
        alarm: The worst value that a rounding may explain at all; None: none is.
        at_least: Whether the value must not be less, rather than not greater.
        meaning: What the measure is.
        reason: Why the limits are where they are.

    """

    name: str
    tasks: tuple[str, ...]
    drift: float | None
    alarm: float | None
    at_least: bool
    meaning: str
    reason: str

    def judge(self, value: float) -> str:
        """Return `PASS`, `DRIFT` or `ALARM`; NaN is within no limit."""
        if self.alarm is not None and not self._within(value, self.alarm):
            return ALARM
        if self.drift is not None and not self._within(value, self.drift):
            return DRIFT
        return PASS

    def moved(self, limits: Limits) -> "Threshold":
        """Return this with other limits.

        One number is the limit that decides on a pass, and moves that for an alarm
        only where it would be the stricter one.
        """
        if len(limits) == 2:
            return replace(self, drift=limits[0], alarm=limits[1])
        if self.drift is None:
            return replace(self, alarm=limits[0])
        alarm = self.alarm
        if alarm is not None and not self._within(limits[0], alarm):
            alarm = limits[0]
        return replace(self, drift=limits[0], alarm=alarm)

    def _within(self, value: float, limit: float) -> bool:
        return value >= limit if self.at_least else value <= limit


def most(
    name: str,
    tasks: Iterable[str],
    meaning: str,
    reason: str,
    *,
    drift: float | None = None,
    alarm: float | None = None,
) -> Threshold:
    """Return the threshold of a measure that must not be greater."""
    return Threshold(name, tuple(tasks), drift, alarm, False, meaning, reason)


def least(
    name: str,
    tasks: Iterable[str],
    meaning: str,
    reason: str,
    *,
    drift: float | None = None,
    alarm: float | None = None,
) -> Threshold:
    """Return the threshold of a measure that must not be less."""
    return Threshold(name, tuple(tasks), drift, alarm, True, meaning, reason)
