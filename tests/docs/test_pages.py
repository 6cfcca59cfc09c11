# SPDX-License-Identifier: Apache-2.0
"""The pages say what is true, and what they say to type is run."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.commands import RUN_BY, Command, commands
from tests.docs.generated import DOCS, ROOT, block
from tests.wheel import tracked

PAGES = [
    *sorted(DOCS.glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
]
ALL = [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), ALL)
def test_command_is_run_by_a_test_or_marked(page: str, command: Command) -> None:
    """Catches a command that nothing runs and that does not say so."""
    if "tests run it" not in command.title and "Needs" in command.title:
        assert command.line not in RUN_BY, "it is run: say so in the title"
    else:
        assert command.line in RUN_BY


def test_what_is_said_to_run_a_command_is_there() -> None:
    """Catches a test that is gone, and a command that is on no page any more."""
    assert set(RUN_BY) <= {command.line for _, command in ALL}
    for target in RUN_BY.values():
        file, name = target.split("::")
        folder, _, subject = file.rpartition("/")
        path = ROOT / "tests" / folder / f"test_{subject}.py"
        tree = ast.parse(path.read_text())
        names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        assert name in names, target


def test_files_named_on_pages_exist() -> None:
    """Catches a script or a source file that was renamed."""
    files = {str(path.relative_to(ROOT)) for path in tracked()}
    inside = {name.removeprefix("vllm_xpu_fp8_plugin/") for name in files}
    pattern = re.compile(r"(?:[\w.]+/)*[\w.]+\.(?:py|sh|yaml|yml|toml)\b|[\w/]+/")
    own = ("examples/", "benchmarks/", "tests/", "scripts/", "upstream/", "docs/")
    found = 0
    for page in PAGES:
        for words in re.findall(r"`([^`\n]+)`", page.read_text()):
            for name in words.split():
                if name.startswith(own) and pattern.fullmatch(name):
                    assert (ROOT / name).exists(), (page.name, name)
                    found += 1
    assert found > 10
    page = (DOCS / "how_it_works.md").read_text()
    places = re.findall(r"`([\w/]+\.py|[\w/]+/)`", page)
    assert len(places) > 10
    for name in places:
        assert name in inside | files or any(f.startswith(name) for f in inside), name


def test_names_are_in_the_module_that_a_page_says() -> None:
    """Catches a name that has moved to another module, as names of tables do."""
    said = [
        pair
        for page in PAGES
        for pair in re.findall(r"`(\w+)` in `([\w/]+\.py)`", page.read_text())
    ]
    assert said
    for name, module in said:
        paths = (ROOT / module, ROOT / "vllm_xpu_fp8_plugin" / module)
        path = next(path for path in paths if path.exists())
        assert re.search(rf"\b{name}\b", path.read_text()), (name, module)


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    """Catches a README that grows again, and links to pages that are gone."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link
    assert set(DOCS.glob("*.md")) <= {ROOT / link for link in links}


def test_readmes_table_is_the_sites() -> None:
    """Catches two tables of what works that disagree."""
    readme = (ROOT / "README.md").read_text()
    assert block(readme, "works") == block(
        (DOCS / "compatibility.md").read_text(), "works"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_rows_of_a_table_have_its_columns(page: Path) -> None:
    """Catches a bar within a cell, behind which the rest of a row is lost."""
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
        rows = table.splitlines()
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(counts) == 1, [r for r in rows if r.count("|") != rows[1].count("|")]


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name
)
def test_pages_stay_sober(path: Path) -> None:
    """Catches exclamation marks, and paths or hosts of one machine."""
    text = re.sub(r"<!--.*?-->|```python.*?```|`[^`\n]*`", "", path.read_text())
    assert not re.search(r"!(?!\[)", text), "but for pictures and code"
    assert not re.search(r"/(work|root|home|tmp)/", path.read_text())
