# SPDX-License-Identifier: Apache-2.0
"""The site that the pages become."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.generated import DOCS, ROOT


def mkdocs(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build as `make docs` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config)]
    return subprocess.run(
        [*command, "-d", str(site)], capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = mkdocs(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_site_builds_without_a_warning(site: Path) -> None:
    """Catches a broken link and a page that no menu lists; checks what make runs."""
    built = {path.parent.name for path in site.glob("*/index.html")}
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= built
    done = subprocess.run(
        ["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True
    )
    assert "mkdocs build --strict" in done.stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unlisted.md", "# Not in the menu\n"),
        ("index.md", "# Start\n\n[gone](gone.md)\n"),
        ("index.md", "# Start\n\n[gone](install.md#gone)\n"),
    ],
)
def test_site_refuses_what_is_broken(name: str, text: str, tmp_path: Path) -> None:
    """Catches a configuration that lets these pass."""
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "docs").mkdir()
    for page in DOCS.glob("*.md"):
        (tmp_path / "docs" / page.name).write_text("# A page\n")
    assert mkdocs(tmp_path / "mkdocs.yml", tmp_path / "site").returncode == 0
    (tmp_path / "docs" / name).write_text(text)
    assert mkdocs(tmp_path / "mkdocs.yml", tmp_path / "site").returncode != 0


class _Tables(HTMLParser):
    """Counts tables, and cells that still hold a table's Markdown."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tables += tag == "table"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_tables_and_the_picture_are_rendered(site: Path) -> None:
    """Catches a table that a comment above it keeps from becoming one."""
    for page in DOCS.glob("*.md"):
        source = page.read_text()
        html = site / ("" if page.stem == "index" else page.stem) / "index.html"
        parser = _Tables()
        parser.feed(html.read_text())
        tables = len(re.findall(r"^\|(?:---\|)+$", source, re.MULTILINE))
        assert parser.tables == tables, page.name
        assert "|---|" not in parser.text
    picture = (site / "how_it_works" / "index.html").read_text()
    assert 'class="mermaid"' in picture
