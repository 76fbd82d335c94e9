"""The built site: complete, closed in itself, and every link and anchor in it leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.test_layout import ROOT

BIN = Path(sys.executable).parent
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}  # by the browser, unasked
KEPT_RELATIONS = {"canonical", "next", "prev", "edit", "license"}  # links that load nothing


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; a warning, such as of a link to nowhere, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [str(BIN / "mkdocs"), "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """What a page loads, where it links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.anchors |= {said[name] for name in ("id", "name") if name in said}
        self.classes |= set(said.get("class", "").split())
        if tag == "a" and "href" in said:
            self.links.append(said["href"])
        address = said.get(LOADED.get(tag, ""))
        if address and not (tag == "link" and said.get("rel") in KEPT_RELATIONS):
            self.loads.append(address)


@cache
def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def html(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_page_of_the_docs_is_in_the_site(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md") if path.name != "README.md"]

    assert [page.as_posix() for page in pages if not (site / page.with_suffix(".html")).exists()] == []
    assert (site / "index.html").exists()
    assert (site / "overview.html").exists()


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    loaded = {(path.name, address) for path in html(site) for address in read(path).loads}

    assert len(loaded) > 20
    assert [where for where in sorted(loaded) if urlsplit(where[1]).netloc] == []


def test_no_style_loads_anything_from_another_host(site: Path) -> None:
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    addresses = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", styles)

    assert [address for address in addresses if urlsplit(address).netloc] == []


def test_no_page_has_what_the_scripts_of_the_theme_would_load_more_for(site: Path) -> None:
    # Its bundle can fetch mermaid from another host: for elements of this class, and only then.
    assert [path.name for path in html(site) if "mermaid" in read(path).classes] == []


def test_every_link_and_anchor_inside_the_site_leads_somewhere(site: Path) -> None:
    broken = []
    for path in html(site):
        if path.name == "404.html":
            continue  # shown at any address, so its links are absolute
        for link in read(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in read(target).anchors):
                broken.append(f"{path.relative_to(site)}: {link}")

    assert broken == []
