# SPDX-License-Identifier: Apache-2.0
"""What a check says, and the report that checks make up."""

import enum
from typing import Any, NamedTuple

from vllm_xpu_fp8_plugin import __version__

# Counts up where a field changes its meaning or goes; docs/doctor.md.
SCHEMA_VERSION = 1


class Status(enum.IntEnum):
    """How bad it is."""

    OK = 0
    NOTE = 1
    WARNING = 2
    PROBLEM = 3

    @property
    def word(self) -> str:
        """The status as it is printed."""
        return self.name.lower()


class Check(NamedTuple):
    """One finding.

    Attributes:
        name: Stable within a section, for programs.
        status: How bad it is.
        finding: One sentence.
        remedy: One sentence: what to do, or empty where there is nothing to do.
        data: The facts behind the finding, for programs.

    """

    name: str
    status: Status
    finding: str
    remedy: str = ""
    data: dict[str, Any] | None = None


class Section(NamedTuple):
    """Checks of one subject."""

    name: str
    checks: list[Check]


class Report(NamedTuple):
    """All sections, in the order in which they are printed."""

    sections: list[Section]

    @property
    def status(self) -> Status:
        """The worst status of a check."""
        return max(
            (check.status for section in self.sections for check in section.checks),
            default=Status.OK,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as docs/doctor.schema.json describes it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "plugin_version": __version__,
            "status": self.status.word,
            "sections": [
                {
                    "name": section.name,
                    "checks": [
                        {
                            "name": check.name,
                            "status": check.status.word,
                            "finding": check.finding,
                            "remedy": check.remedy or None,
                            "data": check.data or {},
                        }
                        for check in section.checks
                    ],
                }
                for section in self.sections
            ],
        }
