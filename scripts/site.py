"""Hooks of the documentation site (mkdocs.yml): its navigation, and the pages of the repository that lie outside docs/.

Invariant: docs/README.md says which pages there are and in what order; the site has exactly those.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
INDEX = "docs/README.md"
DECISIONS = "decisions/"
# Page of the repository → page of the site. Links to other files outside docs/ stand as the file's name.
FROM_OUTSIDE = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "tests/data/README.md": "test-data.md",
}

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation of the index page: a section for each of its headings, a page for each link in its tables."""
    _, *parts = _SECTION.split((ROOT / INDEX).read_text("utf-8"))
    nav: list[Any] = ["README.md"]
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        nav.append({title: [_in_nav(match[3]) for match in _LINK.finditer(text) if match[3].endswith(".md")]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, name in FROM_OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links between files of the repository to the pages of the site."""
    sources = {name: source for source, name in FROM_OUTSIDE.items()}
    source = PurePosixPath(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    blocks = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(text if text.startswith("```") else _LINK.sub(_moved(source, page), text) for text in blocks)


def _moved(source: PurePosixPath, page: Page) -> Any:
    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        file = os.path.normpath(source.parent / path)
        if file.startswith("docs/"):
            uri = file.removeprefix("docs/")
        elif file in FROM_OUTSIDE:
            uri = FROM_OUTSIDE[file]
        else:
            return text if text.startswith("`") else f"{text} (`{file}`)"
        relative = os.path.relpath(uri, PurePosixPath(page.file.src_uri).parent)
        return f"{image}[{text}]({relative}{hash_}{anchor})"

    return link


def _in_nav(target: str) -> Any:
    """A page of the navigation; the decisions are one entry of the index and a section of the site."""
    path = os.path.normpath(PurePosixPath("docs") / target)
    if path.startswith(f"docs/{DECISIONS}"):
        return {"Decisions": sorted(f"{DECISIONS}{file.name}" for file in (ROOT / "docs" / DECISIONS).glob("*.md"))}
    return FROM_OUTSIDE.get(path, path.removeprefix("docs/"))
