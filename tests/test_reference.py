"""The reference pages against what they describe: every setting, command, exit code, module and key is named."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from api.main import app
from pipeline.core.aggregates import ARGUMENT_TYPES
from pipeline.core.definitions import AGGREGATE_FUNCTIONS
from pipeline.core.times import format_duration
from pipeline.rim import keys
from pipeline.runtime import cli, config_shapes, config_streams
from pipeline.runtime.config_report import settings_at
from pipeline.runtime.config_windows import KINDS
from tests.test_layout import ROOT

DOCS = ROOT / "docs"
SECTIONS: dict[str, list[tuple[str, type[BaseModel]]]] = {
    "The file": [("", config_shapes.TopShape), ("redis.", config_shapes.RedisShape)],
    "A stream": [
        ("", config_shapes.StreamShape),
        ("time.", config_shapes.TimeShape),
        ("retention.", config_shapes.StreamRetentionShape),
        ("dedup.", config_shapes.DedupShape),
        ("schema.<field>.", config_shapes.FieldShape),
    ],
    "A transform": [("", config_shapes.TransformShape), ("lookup.<name>.", config_shapes.LookupShape)],
    "An aggregate": [("", config_shapes.AggregateShape), ("window.", config_shapes.WindowShape)],
}


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def section(title: str) -> str:
    return re.split(rf"^## {title}.*$", page("configuration.md"), flags=re.MULTILINE)[1].split("\n## ")[0]


def settings(title: str) -> dict[str, str]:
    """Setting → default, as the tables of a section say."""
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", section(title), re.MULTILINE))


def leaves(title: str) -> dict[str, Any]:
    """Setting → pydantic field, of all shapes of a section; a shape inside another stands by its own settings."""
    found = {
        f"{prefix}{name}": info
        for prefix, shape in SECTIONS[title]
        for name, info in zip(settings_at(shape, ()), shape.model_fields.values(), strict=True)
    }
    return {name: info for name, info in found.items() if not any(other.startswith(f"{name}.") for other in found)} | {
        name: info for name, info in found.items() if name == "schema"
    }


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_lists_exactly_the_settings_there_are(title: str) -> None:
    assert settings(title).keys() == leaves(title).keys()


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_gives_the_defaults_there_are(title: str) -> None:
    said = settings(title)

    for name, info in leaves(title).items():
        if info.is_required():
            assert said[name] == "needed"
        elif info.default:
            assert said[name].split("`")[1] in spellings(info.default), name


def spellings(default: Any) -> set[str]:
    """How the page may write a default: as it is, as a duration, as a size."""
    if not isinstance(default, int) or isinstance(default, bool):
        return {str(default)}
    return {str(default), format_duration(default), f"{default // 10**9}GB"}


def test_the_page_names_everything_that_is_refused_as_not_built() -> None:
    refused = page("configuration.md").split("## Refused by name")[1]
    names = [
        *config_streams._REFUSED,
        *("extra: keep", "redis+cluster://", "redis+sentinel://"),
    ]

    assert [name for name in names if f"`{name}`" not in refused] == []
    written = set(re.findall(r"not_built\((f?\"[^\"{]+\")\)", source("config_shapes.py")))
    assert written <= {f'"{name}"' for name in names}


def test_the_page_lists_exactly_the_aggregates_there_are() -> None:
    calls = re.findall(r"^\| `(\w+)[^`]*` \|", section("The aggregates there are"), re.MULTILINE)

    assert sorted(calls) == sorted(AGGREGATE_FUNCTIONS)


def test_the_page_gives_the_types_that_each_aggregate_takes() -> None:
    rows = re.findall(r"^\| `(\w+)[^`]*` \| ([^|]+) \|", section("The aggregates there are"), re.MULTILINE)
    taken = {name: tuple(re.findall(r"\w+", types)) for name, types in rows}

    scalars = ("string", "int", "float", "bool", "timestamp")
    expected = {name: ("scalar",) if types == scalars else types for name, types in ARGUMENT_TYPES.items()}
    assert taken == {**expected, "count": ("any",)}


def test_the_page_shows_every_kind_of_window_with_its_settings() -> None:
    shown = re.findall(r"^window: \{(.*)\}", page("configuration.md"), re.MULTILINE)
    written = {tuple(re.findall(r"(\w+):", text)) for text in shown}

    assert {kind for kind, *_ in written} == set(KINDS)
    assert set().union(*written) == set(config_shapes.WindowShape.model_fields)


def source(name: str) -> str:
    return (ROOT / "pipeline/runtime" / name).read_text("utf-8")


def test_the_page_of_commands_names_exactly_the_commands_there_are() -> None:
    table = page("cli.md").split("## Defaults")[0]
    commands: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009  # of a group, which mypy does not know

    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == commands.keys()


def test_the_page_of_commands_names_exactly_the_exit_codes_there_are() -> None:
    said = {int(code) for code in re.findall(r"^\| (\d+) \|", page("cli.md"), re.MULTILINE)}
    own = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}

    assert said == own | {0, 2}


def test_every_module_and_script_is_in_the_page_of_the_architecture() -> None:
    modules = [
        path.relative_to(ROOT).as_posix().removeprefix("pipeline/")
        for folder in ("pipeline", "api")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    ]
    scripts = [path.name for path in (ROOT / "pipeline/rim/scripts").glob("*.lua")]
    table = re.findall(r"^\| `([\w/.]+\.(?:py|lua))`", page("architecture.md"), re.MULTILINE)

    assert sorted(table) == sorted([*modules, *scripts])


def test_every_key_is_in_the_page_of_the_architecture() -> None:
    known = set(re.findall(r"^    (\{[\w.]+\}:\S+|streamgauge:\w+)", keys.__doc__ or "", re.MULTILINE))
    said = set(re.findall(r"`(\{[\w.]+\}:[\w:]+|streamgauge:\w+)`", page("architecture.md").split("## Keys")[1]))

    assert len(known) > 20
    assert known == said


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(path.name[:4]) for path in (DOCS / "decisions").glob("*.md"))

    assert numbers == list(range(len(numbers)))
