"""The JSON Schema that editors read: it is the shipped one, knows every setting, and refuses what has no shape."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft7Validator

from pipeline.runtime.config_schema import SCHEMA_FILE, described_settings
from pipeline.runtime.config_yaml import read_document
from tests.runtime import test_config_refusals as refusals
from tests.test_layout import ROOT

TEMPLATES = sorted((ROOT / "pipeline/templates").glob("*/config.yaml"))
# What no schema can say: it knows nothing of other places of the file, of expressions, of lengths and of our keys.
BEYOND_SHAPE = (
    *("unknown field", "unknown stream", "unknown time zone", "is a field already", "is derived in this same stage"),
    *(
        "event time is a timestamp",
        "may be null",
        "events are partitioned by",
        "is float; groups",
        "is float; an event",
        "is list[string]",
    ),
    *("a string has no unit", "the unit of a timestamp", "only a timestamp has a zone", "is here twice"),
    *("a stream is named", "a key of ours", "in a circle", "is a metric;", "a filter must be", "aggregates are not"),
    *("gives a duration", "must be longer than the window", "a multiple of the window", "is a tier already"),
    *("'hour' is not a duration", "would leave out the events", "would be merged from", "must divide the window"),
    *("must be longer than the gap", "must be at most 1w"),
    "stages.hits.max_groups: must be a whole number from 1 to 10,000,000",  # 1e3 is an integer there
)


@cache
def validator() -> Draft7Validator:
    return Draft7Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("config_schema_script", ROOT / "scripts/config_schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def problems(text: str) -> list[str]:
    root: Any = read_document(text.encode(), "config.yaml").root
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator().iter_errors(root)]


def test_the_schema_is_a_schema() -> None:
    Draft7Validator.check_schema(validator().schema)


def test_the_shipped_schema_is_the_one_that_the_shapes_and_the_page_give() -> None:
    assert SCHEMA_FILE.read_text("utf-8") == generator().schema_text(), "run: make schema"


def test_every_setting_has_the_words_of_the_page() -> None:
    described = generator().described((ROOT / "docs/configuration.md").read_text("utf-8"))
    sections = {"TopShape.redis", "StreamShape.time", "StreamShape.retention", "AggregateShape.window"}
    sections |= {"TransformShape.lookup", "StreamShape.dedup"}

    assert set(described_settings()) - set(described) == sections


@pytest.mark.parametrize(
    "path", [ROOT / "config.yaml", ROOT / "api/demo.yaml", *TEMPLATES], ids=lambda path: path.parent.name
)
def test_a_config_that_is_shipped_fits(path: Path) -> None:
    assert problems(path.read_text("utf-8")) == []


@pytest.mark.parametrize("page", ["configuration.md", "transforms.md"])
def test_the_examples_of_the_pages_fit(page: str) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    whole = [block for block in blocks if "streams:" in block]

    assert [problem for block in whole for problem in problems(block)] == []


def refused() -> list[tuple[str, str]]:
    marked = [*refusals.REFUSED_STREAMS, *refusals.REFUSED_STAGES, *refusals.NOT_BUILT]
    windows = [(refusals.in_a_window(text), message) for text, message in refusals.REFUSED_WINDOWS]
    return [(text.replace("¦", ""), message) for text, message in [*marked, *windows]]


def test_what_the_loader_refuses_for_its_shape_the_schema_refuses_too() -> None:
    taken = [message for text, message in refused() if not problems(text)]

    assert len(refused()) > 2 * len(taken)
    assert [message for message in taken if not any(words in message for words in BEYOND_SHAPE)] == []
