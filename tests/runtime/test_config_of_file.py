"""Configs drafted from the rows of files: what is found in them, and that it passes the check of any config."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipeline.core.definitions import Aggregate, Config, Tumbling
from pipeline.errors import StreamgaugeError
from pipeline.runtime.config import load_config
from pipeline.runtime.config_of_file import draft_for

ROOMS = """Date Time,Room ID,temp (°C),on,state,rows,温度
2026-03-01 08:00:00,kitchen,19.4,true,a,1,1
2026-03-01 08:00:20,cellar,,false,b,2,1
2026-03-01 08:00:50,kitchen,19.9,true,a,3,1
2026-03-01 08:00:40,cellar,12,true,b,4,1
"""


def drafted(tmp_path: Path, name: str, text: str) -> Config:
    (tmp_path / name).write_text(text, "utf-8")
    draft = draft_for(tmp_path / name)
    (tmp_path / "config.yaml").write_text(draft.text(), "utf-8")
    return load_config(tmp_path / "config.yaml", {})


def test_columns_become_fields_and_what_can_be_computed_from_them(tmp_path: Path) -> None:
    config = drafted(tmp_path, "rooms.csv", ROOMS)
    stream = config.streams["rooms"]
    assert [(field.name, field.type, field.nullable) for field in stream.fields] == [
        ("date_time", "timestamp", False),
        ("room_id", "string", False),
        ("temp_c", "float", True),
        ("on", "bool", False),
        ("state_", "string", False),  # every result has a column `state` of its own
        ("rows", "int", False),
    ]
    assert (stream.time.field, stream.time.disorder_ms, stream.partition_by) == ("date_time", 10_000, "room_id")
    stage = config.stages["rooms_by_room_id"]
    assert isinstance(stage, Aggregate)
    assert (stage.group_by, stage.window) == (("room_id",), Tumbling(60_000))
    assert "mean_temp_c" in {aggregate.name for aggregate in stage.aggregates}


def test_a_group_called_as_a_value_would_be_goes_before_it(tmp_path: Path) -> None:
    rows = "".join(f"2026-03-01 08:00:0{second},{'ab'[second % 2]},1\n" for second in range(6))
    config = drafted(tmp_path, "x.csv", f"ts,rows,v\n{rows}")
    stage = config.stages["x_by_rows"]
    assert isinstance(stage, Aggregate)
    assert [aggregate.name for aggregate in stage.aggregates] == ["row_count", "mean_v", "min_v", "max_v"]


@pytest.mark.parametrize("name", ["late.csv", "2026-03 Küche.csv", "温度.csv", f"{'x' * 70}.csv"])
def test_any_file_name_gives_a_name_that_streams_can_have(tmp_path: Path, name: str) -> None:
    drafted(tmp_path, name, ROOMS)


def test_numbers_that_are_called_a_time_are_one(tmp_path: Path) -> None:
    config = drafted(tmp_path, "x.ndjson", '{"v":1,"ts":1764531931}\n{"v":2.5,"ts":1764531941}\n')
    assert {field.name: field.type for field in config.streams["x"].fields} == {"v": "float", "ts": "timestamp"}


def test_a_parquet_file_has_its_types(tmp_path: Path) -> None:
    times = pl.Series([0, 86_400_000 * 30]).cast(pl.Datetime("ms", "UTC"))
    pl.DataFrame({"At": times, "n": [1, 2], "tags": [["a"], ["b"]]}).write_parquet(tmp_path / "x.parquet")
    draft = draft_for(tmp_path / "x.parquet")
    assert (draft.stream, draft.metric, draft.shown_ms) == ("x", "x_windows", 32 * 86_400_000)
    assert 'at: timestamp   # the column "At"' in draft.text()
    assert '# not a field: "tags"' in draft.text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,x\n", r"no column has a time in every row. Columns: 'a' \(int\), 'b' \(string\)"),
        ("time,b\n", "there are no rows to look at"),
        ("time,b\n2026-03-01 08:00:00,x,7\n", "x.csv:2: the row has not as many cells as there are columns"),
        ("", "x.csv:1: there are no columns"),
    ],
)
def test_a_file_nothing_can_be_made_of_says_why(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(StreamgaugeError, match=said):
        draft_for(tmp_path / "x.csv")
