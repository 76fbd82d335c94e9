"""The steps of transforms: their order, what lookups, explodes and functions make of rows, and whom a failure hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from pipeline import transform
from pipeline.core.batches import ROW, Batch, Reload, read_batch
from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Lookup,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
)
from pipeline.core.entries import Control, parse_entry
from pipeline.core.events import Reader
from pipeline.core.process import TimeState, ledger_of, prepare
from pipeline.core.programs import compile_program, program_of_definition
from pipeline.core.registered_transforms import TRANSFORMS
from pipeline.core.steps import POISON_ATTEMPTS, DeadRow, Joins, apply_steps, compile_steps
from pipeline.core.tables import Table
from pipeline.core.tracebacks import MAX_TRACEBACK_LENGTH
from pipeline.core.versions import encode_definition, version_of
from pipeline.errors import MissingTableError
from tests.line import chunk_fields

STREAM = Stream(
    "s",
    (
        Field("ts", "timestamp", unit="ms"),
        Field("page", "string"),
        Field("n", "int", nullable=True),
        Field("tags", "list", nullable=True, item="string"),
    ),
    TimePolicy("ts", disorder_ms=0),
)
SECTIONS = Lookup("pages.csv", "page", "page", "section", "string", "string")
CONTENTS = {
    "old": Table(pl.DataFrame({"page": ["/a", "/b"], "section": ["first", "second"]})),
    "new": Table(pl.DataFrame({"page": ["/a", "/c"], "section": ["changed", "third"]})),
}
calls: list[int] = []


@transform("half", returns={"half": "float"})
def half(frame: pl.DataFrame) -> pl.DataFrame:
    calls.append(len(frame))
    if (frame["n"] == 13).any():
        raise RuntimeError(f"unlucky, {len(frame)} rows")
    return frame.filter(pl.col("n").ne_missing(0)).with_columns((pl.col("n") / 2).alias("half"))


@transform("shout", returns={"loud": "string", "at": "timestamp", "twice": "int"}, engine="pandas")
def shout(frame: pd.DataFrame) -> pd.DataFrame:
    assert str(frame["ts"].dtype) == "datetime64[ms, UTC]"
    assert str(frame["n"].dtype) == "Int64"
    frame["loud"] = frame["page"].str.upper()
    frame["at"] = frame["ts"] + pd.Timedelta(seconds=1)
    frame["twice"] = frame["n"] * 2
    return frame[frame["page"] != "/gone"].iloc[::-1]


def config(*transforms: Transform) -> Config:
    last = transforms[-1].name
    counts = Aggregate("m", last, Tumbling(10_000), (), (AggregateSpec("n", "count"),))
    return Config({"s": STREAM}, {**{each.name: each for each in transforms}, "m": counts})


def rows(*events: Mapping[str, Any]) -> pl.DataFrame:
    blank = {"ts": 0, "page": "/a", "n": None, "tags": None}
    schema = {"ts": pl.Datetime("ms"), "page": pl.String(), "n": pl.Int64(), "tags": pl.List(pl.String())}
    frame = pl.DataFrame([{**blank, **event} for event in events], schema=schema)
    return pl.DataFrame({ROW: np.arange(len(events))}).hstack(frame)


def run(stage: Transform, frame: pl.DataFrame, joins: Joins | None = None) -> tuple[pl.DataFrame, tuple[DeadRow, ...]]:
    steps, _, _ = compile_steps(config(stage), stage, None)
    return apply_steps(steps, frame, joins)


def test_a_transform_filters_derives_looks_up_explodes_and_calls_in_this_order() -> None:
    stage = Transform(
        "t",
        "s",
        filter="n >= 0",
        derive={"path": "LOWER(page)"},
        lookup={"section": replace(SECTIONS, on="path")},
        explode="tags",
        python=TRANSFORMS["half"].definition,
    )
    frame = rows({"page": "/A", "n": 4, "tags": ["x", "y"]}, {"n": -1, "tags": ["z"]}, {"n": 2, "tags": ["w"]})

    done, dead = run(stage, frame, Joins({"pages.csv": "old"}, (), CONTENTS))

    assert dead == ()
    assert done.select(ROW, "section", "tags", "half").rows() == [
        (0, "first", "x", 2.0),
        (0, "first", "y", 2.0),
        (2, "first", "w", 1.0),
    ]


def test_a_key_that_is_not_in_the_table_or_null_gives_null() -> None:
    stage = Transform("t", "s", derive={"key": "NULLIF(page, '/b')"}, lookup={"section": replace(SECTIONS, on="key")})

    done, _ = run(stage, rows({}, {"page": "/b"}, {"page": "/nowhere"}), Joins({"pages.csv": "old"}, (), CONTENTS))

    assert done["section"].to_list() == ["first", None, None]


@pytest.mark.parametrize(
    ("reloads", "sections"),
    [
        ((), ["first", None, "first"]),
        (((1, "pages.csv", "new"),), ["first", "third", "changed"]),
        (((0, "pages.csv", "new"),), ["changed", "third", "changed"]),
        (((3, "pages.csv", "new"),), ["first", None, "first"]),
        (((1, "pages.csv", "new"), (2, "pages.csv", "old")), ["first", "third", "first"]),
        (((1, "other.csv", "new"),), ["first", None, "first"]),
    ],
)
def test_rows_before_a_reload_join_with_the_old_content_and_rows_after_it_with_the_new(
    reloads: Sequence[Reload], sections: list[str | None]
) -> None:
    stage = Transform("t", "s", lookup={"section": SECTIONS})

    done, _ = run(stage, rows({}, {"page": "/c"}, {}), Joins({"pages.csv": "old"}, reloads, CONTENTS))

    assert done["section"].to_list() == sections
    assert done[ROW].to_list() == [0, 1, 2]


def test_rows_of_which_no_table_is_known_are_not_joined_with_nothing() -> None:
    stage = Transform("t", "s", lookup={"section": SECTIONS})

    with pytest.raises(MissingTableError, match=r"pages\.csv"):
        run(stage, rows({}))


def test_an_empty_list_and_a_null_leave_no_row_and_a_null_item_leaves_one() -> None:
    stage = Transform("t", "s", explode="tags")

    done, dead = run(stage, rows({"tags": ["x", None]}, {"tags": []}, {"tags": None}, {"tags": ["y"]}))

    assert done.select(ROW, "tags").rows() == [(0, "x"), (0, None), (3, "y")]
    assert dead == ()


def test_one_row_that_fails_kills_all_rows_of_its_event_and_no_other() -> None:
    exploding = Transform("e", "s", explode="tags")
    casting = Transform("t", "e", derive={"number": "CAST(tags AS BIGINT)"})
    steps, _, _ = compile_steps(config(exploding, casting), casting, None)

    done, dead = apply_steps(steps, rows({"tags": ["1", "2"]}, {"tags": ["3", "x", "y"]}, {"tags": ["4"]}))

    assert done.select(ROW, "number").rows() == [(0, 1), (0, 2), (2, 4)]
    assert dead == (DeadRow(1, "expression_failed", "derive `number` of stage `t`: cannot read 'x' as BIGINT"),)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Transform("t", "s", filter="CAST(page AS INT) > 0"), "filter of stage `t`: cannot read '/a' as BIGINT"),
        (
            Transform("t", "s", derive={"x": "n", "y": "CAST(page AS DOUBLE)"}),
            "derive `y` of stage `t`: cannot read '/a' as DOUBLE",
        ),
        (
            Transform("t", "s", derive={"at": "STRPTIME(page, '%Y-%m-%d')"}),
            "derive `at` of stage `t`: cannot read '/a' as TIMESTAMP by the format '%Y-%m-%d'",
        ),
        (
            Transform("t", "s", derive={"at": "DATE(page)"}),
            "derive `at` of stage `t`: could not find an appropriate format to parse dates, please define a format",
        ),
        (
            Transform("t", "s", derive={"low": "CAST(n * 1000 AS SMALLINT)"}),
            "derive `low` of stage `t`: cannot read 77000 as SMALLINT",
        ),
    ],
)
def test_a_dead_letter_of_an_expression_says_in_one_line_where_and_which_value(stage: Transform, message: str) -> None:
    done, dead = run(stage, rows({"n": 77}))

    assert len(done) == 0
    assert [each.message for each in dead] == [message]


def test_a_value_in_a_message_is_cut() -> None:
    _, [dead] = run(Transform("t", "s", derive={"x": "CAST(page AS INT)"}), rows({"page": "/" + "a" * 10_000}))

    assert dead.message.endswith("aaa…' as BIGINT")
    assert len(dead.message) < 120


def test_a_dead_letter_of_an_aggregates_condition_names_it() -> None:
    counts = Aggregate("m", "s", Tumbling(10_000), (), (AggregateSpec("n", "count", where="CAST(page AS INT) > 1"),))
    program = compile_program(Config({"s": STREAM}, {"m": counts}), counts)

    _, [dead] = apply_steps(program.steps, rows({}))

    assert dead.message == "condition `CAST(page AS INT) > 1` of stage `m`: cannot read '/a' as BIGINT"


def test_a_function_that_raises_makes_dead_letters_with_its_traceback_and_the_others_go_on() -> None:
    stage = Transform("t", "s", python=TRANSFORMS["half"].definition)
    calls.clear()

    done, dead = run(stage, rows({"n": 2}, {"n": 13}, {"n": 0}, {"n": None}))

    assert done.select(ROW, "half").rows() == [(0, 1.0), (3, None)]
    [only] = dead
    assert (only.row, only.code) == (1, "function_failed")
    assert "the function 'half' failed" in only.message
    assert 'raise RuntimeError(f"unlucky' in only.message
    assert only.message.endswith("RuntimeError: unlucky, 1 rows")
    assert calls == [4, 2, 1, *[1] * POISON_ATTEMPTS, 2]


def test_a_long_traceback_is_cut_at_its_beginning() -> None:
    @transform("verbose", returns={})
    def verbose(frame: pl.DataFrame) -> pl.DataFrame:
        raise RuntimeError("x" * 10_000 + " the end")

    _, [dead] = run(Transform("t", "s", python=TRANSFORMS["verbose"].definition), rows({}))

    assert len(dead.message) < MAX_TRACEBACK_LENGTH + 100
    assert dead.message.endswith("the end")


def test_a_function_over_pandas_gets_pandas_types_and_its_rows_come_back_in_stream_order() -> None:
    stage = Transform("t", "s", python=TRANSFORMS["shout"].definition)

    done, dead = run(stage, rows({"n": 3}, {"page": "/gone"}, {"page": "/b", "tags": ["x"]}))

    assert dead == ()
    assert done.select(ROW, "loud", "twice", "tags").rows() == [(0, "/A", 6, None), (2, "/B", None, ["x"])]
    assert done["at"].cast(pl.Int64).to_list() == [1_000, 1_000]
    assert done.schema["n"] == pl.Int64
    assert done.schema["at"] == pl.Datetime("ms")


def test_a_function_is_not_called_without_rows() -> None:
    calls.clear()

    done, _ = run(Transform("t", "s", python=TRANSFORMS["half"].definition), rows({}).clear())

    assert calls == []
    assert done.schema["half"] == pl.Float64


def test_only_what_is_read_below_is_looked_up_and_decoded() -> None:
    stage = Transform("t", "s", derive={"other": "n + 1"}, lookup={"section": SECTIONS, "unread": SECTIONS})

    steps, needs, columns = compile_steps(config(stage), stage, frozenset(["section"]))

    assert len(steps) == 1
    assert needs == {"page"}
    assert set(columns) == {"ts", "page", "n", "tags", "other", "section", "unread"}


def test_a_list_is_exploded_and_a_function_sees_every_field_whatever_is_read_below() -> None:
    exploding = Transform("t", "s", explode="tags")
    calling = Transform("t", "s", python=TRANSFORMS["half"].definition)

    assert compile_steps(config(exploding), exploding, frozenset(["page"]))[1] == {"page", "tags"}
    assert compile_steps(config(calling), calling, frozenset())[1] == {"ts", "page", "n", "tags"}


def batch_of(*events: Mapping[str, Any]) -> Batch:
    times_ms = [event["ts"] for event in events]
    fields = chunk_fields(events, times_ms, position=0, at_ms=10**9)
    encoded = {n.encode(): v if isinstance(v, bytes) else str(v).encode() for n, v in fields.items()}
    reader = Reader(STREAM, ["page", "n", "tags"])
    return read_batch([parse_entry(b"1000000000-0", encoded)], reader, partition=0, max_future_ms=0)


def event(ts: int, *tags: str) -> dict[str, Any]:
    return {"ts": ts, "page": "/a", "tags": list(tags)}


def test_an_exploded_event_is_counted_once_dead_first_then_filtered_then_late() -> None:
    exploding = Transform("e", "s", filter="n IS NULL", explode="tags")
    casting = Transform("t", "e", derive={"number": "CAST(tags AS BIGINT)"}, filter="tags <> 'no'")
    counts = Aggregate("m", "t", Tumbling(10_000), (), (AggregateSpec("sum_n", "sum", "number"),))
    program = compile_program(Config({"s": STREAM}, {"e": exploding, "t": casting, "m": counts}), counts)
    batch = batch_of(
        event(50_000, "1", "2", "no"),  # accepted, two rows
        event(1_000, "1", "2"),  # late, once
        event(2_000, "1", "x"),  # dead: one of its rows fails
        event(50_000, "no", "no"),  # filtered
        event(50_000),  # filtered: there is no row
        event(51_000, "3"),  # accepted
    )

    prepared = prepare(program, batch, TimeState())

    ledger = prepared.ledger
    assert (ledger.read, ledger.accepted, ledger.filtered, ledger.late, ledger.dead) == (6, 2, 2, 1, 1)
    assert prepared.late.rows.tolist() == [1]
    assert [dead.row for dead in prepared.dead] == [2]
    assert prepared.rows.tolist() == [0, 0, 5]
    assert prepared.frame["number"].to_list() == [1, 2, 3]


def test_an_event_with_a_row_in_time_and_a_late_one_is_accepted() -> None:
    batch = batch_of(event(1_000), event(2_000), event(3_000))
    rows_ = np.array([0, 0, 1, 1], dtype=np.intp)

    ledger = ledger_of(batch, rows_, np.array([True, False, True, True]), dead=1)

    assert (ledger.read, ledger.accepted, ledger.filtered, ledger.late, ledger.dead) == (3, 1, 0, 1, 1)


def test_a_control_entry_names_a_table_and_its_content_and_any_other_says_nothing() -> None:
    full = {b"_k": b"control", b"kind": b"table", b"table": b"a b.csv", b"hash": b"00ff"}

    assert parse_entry(b"1-0", full) == Control(b"1-0", "table", "a b.csv", "00ff")
    assert parse_entry(b"1-0", {b"_k": b"control"}) == Control(b"1-0")
    assert parse_entry(b"1-0", {name: value for name, value in full.items() if name != b"hash"}) == Control(b"1-0")


def test_a_reload_stands_before_the_row_that_follows_it_also_when_rows_are_left_out() -> None:
    def row(number: int, ts: int) -> Any:
        return parse_entry(b"1000-%d" % number, {b"ts": b"%d" % ts, b"page": b"/a"})

    control = {b"_k": b"control", b"kind": b"table", b"table": b"t.csv", b"hash": b"aa"}
    entries = [row(0, 10), row(1, 9_000), parse_entry(b"1000-2", control), row(3, 20)]

    batch = read_batch(entries, Reader(STREAM, ["page"]), partition=0, max_future_ms=0)

    assert len(batch.times_ms) == 2  # one was ahead of its arrival
    assert batch.reloads == ((1, "t.csv", "aa"),)


def test_how_a_table_is_joined_and_the_text_of_a_function_are_part_of_the_version_and_contents_are_not() -> None:
    looking = Transform("t", "s", lookup={"section": SECTIONS})
    other = Transform("t", "s", lookup={"section": replace(SECTIONS, column="title")})
    calling = Transform("t", "s", python=TRANSFORMS["half"].definition)
    changed = Transform("t", "s", python=replace(TRANSFORMS["half"].definition, source_hash="another"))

    versions = {version_of(config(each), "m") for each in (looking, other, calling, changed, Transform("t", "s"))}

    assert len(versions) == 5


def test_the_definition_of_an_older_version_is_read_without_its_function() -> None:
    function = replace(TRANSFORMS["half"].definition, name="gone", returns={"half": "float"})
    stage = Transform("t", "s", lookup={"section": SECTIONS}, explode="tags", python=function)
    old = config(stage)
    metric = old.stages["m"]
    assert isinstance(metric, Aggregate)

    program = program_of_definition(encode_definition(old, metric), version_of(old, metric.name))

    assert program.version == version_of(old, "m")
    assert program.columns["half"] == pl.Float64
    assert program.columns["tags"] == pl.String
