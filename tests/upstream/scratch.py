# SPDX-License-Identifier: Apache-2.0
"""A copy of the installed vLLM in which some files are changed."""

import re
import subprocess
from pathlib import Path


def patched_files(patch: Path) -> list[str]:
    """Return the files that a patch changes, relative to site-packages."""
    return sorted(set(re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.MULTILINE)))


def copy_of(package: Path, files: list[str], folder: Path) -> Path:
    """Make a package of links, in which these files are copies.

    Args:
        package: The installed package's folder.
        files: Files of it, relative to the folder that it lies in.
        folder: Where to make it.

    Returns:
        `folder`, to go before site-packages on the path.

    """
    own = {Path(file) for file in files}
    folders = {parent for file in own for parent in file.parents} - {Path(".")}
    for relative in sorted(folders | {Path(package.name)}):
        (folder / relative).mkdir(parents=True)
    for relative in sorted(folders | {Path(package.name)}):
        for entry in (package.parent / relative).iterdir():
            path = relative / entry.name
            if path in own:
                (folder / path).write_text(entry.read_text())
            elif path not in folders and entry.name != "__pycache__":
                (folder / path).symlink_to(entry)
    return folder


def apply(patch: Path, folder: Path, *, reverse: bool = False) -> None:
    """Apply a patch to a copy. It may lie some lines elsewhere in another release.

    Raises:
        AssertionError: It does not apply.

    """
    command = ["patch", "-p1", "--forward", "--fuzz=2", "--no-backup-if-mismatch"]
    if reverse:
        command[2] = "--reverse"
    done = subprocess.run(
        [*command, "-i", patch], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
