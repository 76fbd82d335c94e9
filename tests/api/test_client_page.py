"""docs/client.md as a reader runs it: every block, in order, on the server that its first block starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from api.client import Client
from api.demo import DEMO_CONFIG
from pipeline.core.programs import compile_programs
from pipeline.runtime.config import load_config
from pipeline.runtime.door import UnavailableError

PAGE = Path(__file__).parents[2] / "docs/client.md"


@pytest.mark.slow  # tests/docs runs the page as well
@pytest.mark.timeout(300)
def test_every_block_of_the_page_runs_on_a_demo_that_ends_with_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMGAUGE_REDIS__URL", "redis://127.0.0.1:9/0")  # anybody's: a demo must not touch it
    monkeypatch.setenv("STREAMGAUGE_URL", "http://127.0.0.1:9")
    matplotlib.use("agg")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number + 1}", "exec"), names)

    assert len(blocks) > 12
    assert len(names["newest"]) > 0, "nothing was published while it was followed"
    with Client(names["client"].url, patience_s=0) as late, pytest.raises(UnavailableError):
        late.get("/readyz")


def test_the_demo_config_is_one_that_loads() -> None:
    assert set(compile_programs(load_config(DEMO_CONFIG, {}))) == {"sensor_climate", "views_by_section"}
