"""Configs drafted from the rows of files: what is found in them, and that it passes the check of any config."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.core.definitions import Aggregate, Config, Tumbling
from pipeline.errors import StreamgaugeError
from pipeline.runtime.config import load_config
from pipeline.runtime.config_of_file import draft_for
from pipeline.runtime.csv_files import CsvStyle
from pipeline.runtime.replay_files import read_rows

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


def messy(n_rows: int = 400, *, odd: bool = True) -> str:
    """What a German spreadsheet exports: semicolons, days first, decimal commas, quotes; and rows that are wrong."""
    lines = ['"Zeit";"Messstelle Nr.";"Temp °C";"Bemerkung; frei"']
    for n in range(n_rows):
        at = f"{1 + n // 100:02d}.03.2026 {n // 10 % 24:02d}:{n % 60:02d}:00"
        lines.append(f'{at};"Halle {n % 3}";{n % 30 - 5},5;"Tür ""offen"""')
    if odd:
        lines[50] = 'kaputt;"Halle 1";1,5;""'
        lines[70] = "nur;drei;Zellen"
        lines[90] = '01.03.2026 01:02:03;"Halle 1";?;""'
    return "\n".join(lines) + "\n"


def test_a_spreadsheets_csv_is_drafted_and_replayed_in_the_style_that_was_found(tmp_path: Path) -> None:
    stream = drafted(tmp_path, "halle.csv", messy()).streams["halle"]
    assert [(each.name, each.type, each.nullable) for each in stream.fields] == [
        ("zeit", "timestamp", False),
        ("messstelle_nr", "string", False),
        ("temp_c", "float", False),
        ("bemerkung_frei", "string", False),
    ]
    draft = draft_for(tmp_path / "halle.csv")
    assert draft.looked.style == CsvStyle("%d.%m.%Y %H:%M:%S", decimal_comma=True)
    notes = list(draft.notes())
    assert notes[:2] == [
        "times are read as %d.%m.%Y %H:%M:%S, in UTC unless the field names its `zone`",
        "numbers are read with a decimal comma",
    ]
    assert notes[2].startswith("3 of 400 rows do not fit and will be refused: line 51: Zeit is 'kaputt', not a time; ")
    assert "; line 71: the row has not as many cells" in notes[2]
    assert notes[2].endswith("; line 91: Temp °C is '?', not a number")
    # What the draft says is what replay sends: all rows but those, typed as the schema has them.
    fields = {each.name: each.type for each in stream.fields}
    rows = {row.line: json.loads(row.body) for row in read_rows(tmp_path / "halle.csv", fields, draft.looked.style)}
    assert rows[2] == {
        "zeit": "2026-03-01T00:00:00", "messstelle_nr": "Halle 0", "temp_c": -5.5, "bemerkung_frei": 'Tür "offen"'
    }  # fmt: skip
    refused = [n for n, row in rows.items() if not (isinstance(row, dict) and isinstance(row["temp_c"], float))]
    assert (refused, rows[51]["zeit"], rows[71]) == ([71, 91], "kaputt", "nur;drei;Zellen")


def test_too_many_rows_that_do_not_fit_are_no_mistakes(tmp_path: Path) -> None:
    lines = messy(200, odd=False).splitlines()
    lines[10] = lines[20] = lines[30] = "nur;drei;Zellen"
    (tmp_path / "x.csv").write_text("\n".join(lines), "utf-8")
    with pytest.raises(
        StreamgaugeError, match=r"x.csv:11: the row has not .* \(3 of 200 rows are none; one in 100 may"
    ):
        draft_for(tmp_path / "x.csv")


def test_one_row_of_a_short_file_may_be_a_mistake(tmp_path: Path) -> None:
    lines = messy(6, odd=False).splitlines()
    (tmp_path / "x.csv").write_text("\n".join([*lines, "nur;drei;Zellen"]), "utf-8")
    draft = draft_for(tmp_path / "x.csv")
    assert any("line 8: the row has not as many cells" in note for note in draft.notes())

    (tmp_path / "x.csv").write_text("\n".join([*lines[:1], "nur;drei;Zellen"]), "utf-8")
    with pytest.raises(StreamgaugeError, match=r"\(1 of 1 rows are none; .*\)\. Mend those rows, or take them out\."):
        draft_for(tmp_path / "x.csv")


def test_a_column_that_is_mostly_something_else_stays_text(tmp_path: Path) -> None:
    rows = "".join(f"2026-03-01 08:00:{n % 60:02d},{'A3' if n % 50 == 0 else n}\n" for n in range(300))
    config = drafted(tmp_path, "x.csv", f"ts,room\n{rows}")
    assert [each.type for each in config.streams["x"].fields] == ["timestamp", "string"]


def test_days_and_months_that_can_be_either_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Date,n\n03/04/2026 08:00,1\n03/05/2026 09:00,2\n")
    either = (
        r"'Date', such as '03/04/2026 08:00', can be read in two ways. Say which: --time-format '%d/%m/%Y %H:%M' or"
    )
    with pytest.raises(StreamgaugeError, match=either):
        draft_for(tmp_path / "x.csv")
    draft = draft_for(tmp_path / "x.csv", CsvStyle("%m/%d/%Y %H:%M"))
    assert list(draft.time.values) == ["2026-03-04T08:00:00", "2026-03-05T09:00:00"]
    (tmp_path / "x.csv").write_text("Date,n\n03/04/2026 8:00 AM,1\n03/15/2026 9:00 PM,2\n")
    assert draft_for(tmp_path / "x.csv").looked.style == CsvStyle("%m/%d/%Y %I:%M %p")


@pytest.mark.parametrize(
    ("cells", "kind"),
    [("1,5 12,25", "float"), ("1.234,5 2,0", "float"), ("1,234 5,678", "string"), ("1,5 1.5", "string")],
)
def test_decimal_commas_are_taken_where_they_can_be_nothing_else(tmp_path: Path, cells: str, kind: str) -> None:
    rows = "".join(f"2026-03-01 08:00:0{n};{cell}\n" for n, cell in enumerate(cells.split()))
    config = drafted(tmp_path, "x.csv", f"ts;v\n{rows}")
    assert [each.type for each in config.streams["x"].fields] == ["timestamp", kind]


def test_a_row_without_a_time_among_a_hundred_is_named(tmp_path: Path) -> None:
    rows = [f'{{"at":"2026-03-01T08:{n // 60:02d}:{n % 60:02d}Z","v":{n}}}' for n in range(200)]
    rows[7], rows[9] = '{"v":7}', "{broken"
    config = drafted(tmp_path, "x.ndjson", "\n".join(rows))
    assert [(each.name, each.nullable) for each in config.streams["x"].fields] == [("at", False), ("v", False)]
    (note,) = draft_for(tmp_path / "x.ndjson").notes()
    assert note.startswith("2 of 200 rows do not fit and will be refused: line 8: at is empty; line 10: not a row: ")


def test_words_that_make_a_column_of_numbers_a_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rooms.csv"
    cells = ["n/a" if number % 20 == 5 else f"2{number % 10},5" for number in range(100)]
    rows = [
        f"2026-05-17T10:{number // 60:02}:{number % 60:02}Z;R{number % 3};{cell}" for number, cell in enumerate(cells)
    ]
    path.write_text("\n".join(["ts;room;temp", *rows]) + "\n")
    assert list(draft_for(path).notes()) == [
        "temp is a text: 5 values, such as 'n/a' in line 7, are not numbers. If numbers are meant, leave those cells "
        "empty and draft again"
    ]
    path.write_text(path.read_text().replace("n/a", ""))
    assert "temp: float?" in draft_for(path).text()


def test_what_is_no_field_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.ndjson").write_text('{"time": "2026-03-01T08:00:00Z", "v": 1, "where": {"room": "a"}}\n')
    assert list(draft_for(tmp_path / "x.ndjson").notes()) == [
        'not a field: "where" (no value, an object, several kinds of values, or a name used before)'
    ]


def test_times_that_name_their_zone_are_not_said_to_be_in_utc(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("at,v\n17/May/2015:10:05:03 +0200,1\n17/May/2015:10:05:13 +0200,2\n")
    assert list(draft_for(tmp_path / "x.csv").notes()) == ["times are read as %d/%b/%Y:%H:%M:%S %z"]


def test_a_web_servers_log_is_told_how_it_becomes_a_file_of_rows(tmp_path: Path) -> None:
    (tmp_path / "access.log").write_text('::1 - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 7 "-" "curl"\n')
    with pytest.raises(StreamgaugeError, match=r"docs/send\.md has a script that makes NDJSON of it"):
        draft_for(tmp_path / "access.log")
