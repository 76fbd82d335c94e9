"""What README and docs say about the repository itself: every link leads somewhere, every command and page exists."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])
FIRST_SCREEN_LINES = 40

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
TARGET = re.compile(r"^([a-z][a-z0-9-]*):", re.MULTILINE)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def targets() -> set[str]:
    return set(TARGET.findall((ROOT / "Makefile").read_text("utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_between_files_leads_to_a_file(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_command_in_a_page_is_a_target(page: Path) -> None:
    named = re.findall(r"(?:`|^)make ([a-z][a-z0-9-]*)", page.read_text("utf-8"), re.MULTILINE)

    assert sorted(set(named) - targets()) == []


def test_the_index_lists_every_page_of_the_docs() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("*.md")]

    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


def test_every_fact_and_section_that_is_cited_is_explained_in_the_repository() -> None:
    said = (ROOT / "docs/design-notes.md").read_text("utf-8")
    folders = ("api", "pipeline", "tests", "docs", "bench")
    files = [file for folder in folders for kind in ("py", "lua", "md") for file in (ROOT / folder).rglob(f"*.{kind}")]
    cited: dict[str, set[str]] = {"FACTS": set(), "DESIGN": set()}
    for file in files:
        for document, numbers in re.findall(r"\b(FACTS|DESIGN)(?: sections?)? (\d[\d., ]*)", file.read_text("utf-8")):
            cited[document] |= {number.partition(".")[0] for number in re.findall(r"\d[\d.]*", numbers)}

    assert len(cited["FACTS"]) > 5
    assert [number for number in sorted(cited["FACTS"]) if f"| FACTS {number} |" not in said] == []
    assert [number for number in sorted(cited["DESIGN"]) if f"\n| {number} |" not in said] == []


def test_the_first_screen_of_the_readme_runs_tests_sends_and_reads() -> None:
    screen = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:FIRST_SCREEN_LINES])

    for command in ("make run", "make test", "curl -X POST localhost:8080/publish", "curl 'localhost:8080/v1/metrics/"):
        assert command in screen


def test_make_alone_lists_the_targets_of_the_readme() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout

    for target in ("help", "run", "test", "check", "bench", "faults", "lock"):
        assert f"make {target} " in listed


def test_the_changelog_speaks_of_the_version_being_built() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
