# SPDX-License-Identifier: Apache-2.0
"""What may be printed of texts that come from elsewhere: a model's files, a log."""

import re
import sys
import unicodedata
from io import TextIOWrapper

# ECMA-48: a control sequence (colours, movements), a string (titles, links) with its
# end, or an escape of two characters.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
# Control and format characters (bidirectional overrides are such), halves of
# surrogate pairs, and separators that some terminals take for a new line.
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    """Return `text` without anything that a terminal obeys instead of showing it.

    Escape sequences are left out, other control characters are written out as in
    Python's source; lines and tabs stay.
    """
    return "".join(map(_written_out, _SEQUENCE.sub("", text)))


def on_a_line(text: str) -> str:
    """Return `text` as `printable` does, without lines that could pose as others."""
    return printable(text).replace("\n", r"\n")


def _written_out(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _UNSAFE:
        return character
    return character.encode("unicode_escape").decode()


def never_fail_to_encode() -> None:
    """Have stdout and stderr write out what their encoding lacks.

    It is ASCII in many a container, and a file's name need not be valid UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
