"""The fenced blocks of README and docs: where each stands, in what language, and what a comment before it says of it.

    <!-- file: rooms.csv -->    the block is this file, in the folder where the page's commands run
    <!-- run: stop -->          Ctrl-C before the block; `start` starts it (again)

Such comments are for the tests: no reader sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

from tests.test_layout import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>file|run): (?P<what>\S+) -->\n+)?"
    r"^ *```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_ENDPOINT = re.compile(r"^#+ `((?:GET|POST) [^`]+)`$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """`endpoint` is the one whose section it stands in; `mark` and `what` are the comment before it."""

    page: str
    line: int
    language: str
    text: str
    endpoint: str | None
    mark: str | None = None
    what: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]


def blocks_of(page: str) -> list[Block]:
    return list(_blocks(page, (ROOT / page).read_text("utf-8")))


def _blocks(page: str, text: str) -> Iterator[Block]:
    for match in _FENCE.finditer(text):
        above = text[: match.start()]
        section = above[above.rfind("\n#") + 1 :].partition("\n")[0]
        endpoint = _ENDPOINT.match(section)
        yield Block(
            page=page,
            line=text.count("\n", 0, match.start("text")) + 1,
            language=match["language"],
            text=dedent(match["text"]),
            endpoint=endpoint[1] if endpoint else None,
            mark=match["mark"],
            what=match["what"],
        )
