"""The example of docs/transforms.md, run as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pipeline.core.registered_transforms import TRANSFORMS
from pipeline.rim import store
from pipeline.runtime.config import load_config
from tests.line import Line
from tests.servers import RunningServer

PAGE = Path(__file__).parents[2] / "docs/transforms.md"
FILES = {"yaml": "config.yaml", "csv": "devices.csv", "python": "functions.py"}


@pytest.fixture(autouse=True)
def forget_functions() -> Iterator[None]:
    before = dict(TRANSFORMS)
    yield
    TRANSFORMS.clear()
    TRANSFORMS.update(before)


def test_the_example_gives_what_the_page_says(server: RunningServer, tmp_path: Path) -> None:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for language, text in blocks:
        if language in FILES:
            (tmp_path / FILES[language]).write_text(text)
    sent, answered = (
        [msgspec.json.decode(line) for line in text.splitlines()] for language, text in blocks if language == "json"
    )
    line = Line(load_config(tmp_path / "config.yaml", {}), server)

    line.post("readings", sent)
    line.settle()

    rows = line.get("hot")["data"]
    assert [{name: row[name] for name in said} for row, said in zip(rows, answered, strict=True)] == answered
    checkpoint = store.load_checkpoint(server.client, "readings", 0, line.programs["hot"].group)
    assert (checkpoint.accepted, checkpoint.filtered) == (3, 1)
