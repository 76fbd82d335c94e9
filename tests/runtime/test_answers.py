"""Answers that hold what they should in every form: JSON, CSV, DataFrames, downstream rows, steps of every width."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Cumulating,
    Field,
    Hopping,
    Stream,
    TimePolicy,
    Tumbling,
)
from pipeline.rim import keys, store
from tests.line import Line, Row
from tests.servers import RunningServer
from tests.visits import LineClient
from tests.zoo import SECOND, T0, Zoo, filled_zoo, zoo_config


@pytest.fixture
def zoo(server: RunningServer, tmp_path: Path) -> Zoo:
    return filled_zoo(server, tmp_path)


def test_a_sum_above_64_bits_is_the_same_whole_number_in_every_form(zoo: Zoo, tmp_path: Path) -> None:
    told = zoo.client.metric("tu", start=T0)
    again = pipeline.batch(zoo_config(tmp_path), zoo.client.raw("s"), stages=["tu"]).metric("tu")

    assert zoo.answer("tu")["data"][0]["sn"] == 2**63
    assert told["sn"].tolist() == again["sn"].tolist() == [2**63, 0]
    assert all(type(value) is int for value in told["sn"])
    assert told["c"].dtype == "Int64", "the other columns are as they were"
    assert zoo.client.metric("tu", start=T0 + 10 * SECOND)["sn"].dtype == "Int64", "no value there needs more"


def test_a_list_is_one_cell_of_json_in_csv(zoo: Zoo) -> None:
    told = zoo.answer("tu")["data"]

    header, *rows = csv.reader(io.StringIO(zoo.text("tu", start=T0), newline=""), strict=True)

    assert [len(row) for row in rows] == [len(header)] * 2
    for row, said in zip(rows, told, strict=True):
        for name in ("top", "h"):
            assert json.loads(row[header.index(name)]) == said[name]
    assert told[0]["top"] == [["a", 1], ["b, c", 1]]
    assert told[0]["h"][0][2] == 1, "a histogram with a bucket"


def counts(rows: list[Row], *groups: str) -> list[tuple[object, ...]]:
    """(seconds after T0, group, count) of each row."""
    return [((row["window_start"] - T0) // SECOND, *(row[name] for name in groups), row["c"]) for row in rows]


def test_groups_above_the_cap_are_called_so_whatever_their_type(zoo: Zoo, tmp_path: Path) -> None:
    told = [(0, 1, 1), (0, "__other__", 3), (10, 7, 1)]

    assert counts(zoo.answer("ov")["data"], "dev") == told
    assert counts(zoo.answer("ov", **{"where.dev": "__other__"})["data"], "dev") == [(0, "__other__", 3)]
    assert counts(zoo.answer("ov", **{"where.dev": 1})["data"], "dev") == [(0, 1, 1)]
    assert zoo.text("ov", start=T0).splitlines()[2] == f"{T0},{T0 + 10 * SECOND},final,0,__other__,3"
    downstream = [(row["window_start"], row["dev"], row["c"]) for row in zoo.line.downstream("ov")]
    assert sorted(downstream) == [(str(T0), "1", "1"), (str(T0), "__other__", "3"), (str(T0 + 10 * SECOND), "7", "1")]
    again = pipeline.batch(zoo_config(tmp_path), zoo.client.raw("s"), stages=["ov"])
    for frame in (zoo.client.metric("ov", start=T0), again.metric("ov")):
        assert frame["dev"].tolist() == [1, "__other__", 7]
    assert zoo.client.metric("ov", start=T0 + 10 * SECOND)["dev"].dtype == "Int64"


def test_no_two_rows_of_a_window_have_one_key(zoo: Zoo) -> None:
    told = zoo.answer("many")["data"]

    assert counts(told, "k", "dev", "up", "seen") == [
        (0, "__other__", "__other__", "__other__", "__other__", 3),
        (0, "a", 1, True, T0, 1),
        (10, None, 7, None, None, 1),
    ]
    for name in ("k", "dev", "up", "seen"):
        assert counts(zoo.answer("many", **{f"where.{name}": "__other__"})["data"], "c") == [(0, 3, 3)]
    frame = zoo.client.metric("many", start=T0)
    assert frame["seen"].tolist() == ["__other__", pd.Timestamp(T0, unit="ms", tz="UTC"), None]


def test_an_event_counted_above_the_cap_says_so(zoo: Zoo) -> None:
    entry = zoo.line.entry_ids("ov")[0]
    told = zoo.client.get(f"/v1/streams/s/events/{entry}/explain", {"row": "3"})

    [stage] = [each for each in told["stages"] if each["stage"] == "ov"]
    assert stage["counted"][0]["group"] == {"dev": "__other__"}


def test_steps_hold_an_event_that_is_late_for_one_of_its_windows_only(zoo: Zoo) -> None:
    assert counts(zoo.answer("ho", step="10s")["data"]) == [(0, 5), (10, 1)]
    assert counts(zoo.answer("ho", step="20s")["data"]) == [(0, 6)]
    assert [row["c"] for row in zoo.answer("ho/rolling", window="10s", at=T0 + 5 * SECOND)["data"]] == [5]


WINDOWS: dict[str, Hopping | Cumulating | Tumbling] = {
    "hopping": Hopping(30 * SECOND, 10 * SECOND, offset_ms=3 * SECOND),
    "uneven": Hopping(25 * SECOND, 10 * SECOND),
    "cumulating": Cumulating(60 * SECOND, 10 * SECOND),
    "tumbling": Tumbling(10 * SECOND),
}


@pytest.mark.parametrize("lateness_ms", [0, 15 * SECOND])
@pytest.mark.parametrize("kind", WINDOWS)
def test_the_sums_over_steps_are_what_was_accepted_and_a_step_that_is_final_stays(
    server: RunningServer, kind: str, lateness_ms: int
) -> None:
    window = WINDOWS[kind]
    count = (AggregateSpec("c", "count"),)
    stage = Aggregate("m", "s", window, ("k",), count, allowed_lateness_ms=lateness_ms)
    fields = (Field("ts", "timestamp", unit="ms"), Field("k", "int"))
    line = Line(Config({"s": Stream("s", fields, TimePolicy("ts", disorder_ms=0), partitions=2)}, {"m": stage}), server)
    chance, final = random.Random(f"{kind} {lateness_ms}"), dict[tuple[int, int, int], int]()

    for number in range(30):
        times = [
            number * 5 * SECOND - chance.choice((0, 0, 7, 20, 45)) * SECOND + chance.randrange(SECOND) for _ in "1234"
        ]
        rows = [{"ts": T0 + ms, "k": ms % 3} for ms in times]
        line.chunk("s", rows, partition=number % 2, times_ms=[T0])
        line.settle()

        accepted = sum(
            store.load_checkpoint(line.client, "s", partition, line.programs["m"].group).accepted
            for partition in (0, 1)
        )
        for step_ms in (10 * SECOND, 60 * SECOND):
            told = line.rows("m", step_ms=step_ms)
            assert sum(row["c"] for row in told) == accepted
            now = {(step_ms, row["window_start"], row["k"]): row["c"] for row in told if row["state"] == "final"}
            assert now.items() >= {key: n for key, n in final.items() if key[0] == step_ms}.items()
            final |= now
    assert len(final) > 20
    late = sum(len(line.late("m", partition)) for partition in (0, 1))
    assert late > 0


@pytest.mark.parametrize("metric", ["tu", "ho"])
def test_a_trailing_window_ends_where_it_is_asked_to(zoo: Zoo, metric: str) -> None:
    def rolling(at: int) -> list[tuple[int, int]]:
        rows = zoo.answer(f"{metric}/rolling", window="20s", at=at)["data"]
        return [((row["window_start"] - T0) // SECOND, (row["window_end"] - T0) // SECOND) for row in rows]

    assert rolling(T0 + 10 * SECOND) == [(-10, 10)]
    assert rolling(T0 + 10 * SECOND + 1) == rolling(T0 + 20 * SECOND) == [(0, 20)]
    assert zoo.answer(f"{metric}/rolling", window="10s", at=T0 + 10 * SECOND)["meta"]["end"] == T0 + 10 * SECOND


def test_the_last_value_of_a_session_holds_until_its_window_end(zoo: Zoo) -> None:
    [row] = zoo.answer("se")["data"]

    assert row["window_end"] == T0 + 21 * SECOND
    assert row["tw"] == pytest.approx(10 * 20 / 21)
    [sent] = zoo.line.downstream("se")
    assert float(sent["tw"]) == row["tw"]
    [newest] = zoo.line.client.hvals(keys.latest("se"))
    assert json.loads(newest)["tw"] == row["tw"]
    assert zoo.answer("se/latest")["data"][0]["tw"] == row["tw"]
    [total] = zoo.answer("se", step="1h")["data"]
    assert total["tw"] == row["tw"]


def test_an_order_by_a_list_is_refused_for_what_it_is(zoo: Zoo) -> None:
    answer = zoo.line.http.get("/v1/metrics/tu?order=-h")

    assert (answer.status_code, answer.get_json()["code"]) == (400, "unknown_order")
    assert (
        "'-h' is a list in tu, and lists have no order. There are: window, c, tw, sn, z." in answer.get_json()["detail"]
    )


def test_the_batch_gives_a_session_the_value_that_the_answer_has(zoo: Zoo, tmp_path: Path) -> None:
    again = pipeline.batch(zoo_config(tmp_path), zoo.client.raw("s"), stages=["se"]).metric("se")
    told = zoo.client.metric("se", start=T0)

    assert again["tw"].tolist() == told["tw"].tolist() == [pytest.approx(10 * 20 / 21)]
    explained = zoo.client.get("/v1/metrics/se/explain", {"start": str(T0)})
    assert explained["values"]["tw"] == explained["recomputed"]["tw"] == told["tw"].iloc[0]


@pytest.fixture
def capped(server: RunningServer, tmp_path: Path) -> Zoo:
    """A window of nine events, three of a group below the cap, two of them late, and one that is called __other__."""
    text = """
streams:
  s: {schema: {ts: timestamp, k: "string?"}, time: {field: ts, disorder: 0s}, partitions: 1}
stages:
  m: {from: s, window: {tumbling: 10s}, group_by: [k], max_groups: 2, aggregates: {c: count}}
"""
    line = Line(zoo_config(tmp_path, text), server)
    for keys_sent, at_ms in (("ab", 1), ("eead", 2), ("a", 3), ("f", 11_000), ("ea", 4)):
        line.post("s", [{"ts": T0 + at_ms, "k": key} for key in keys_sent])
        line.settle()
    line.post("s", [{"ts": T0 + 12_000, "k": "__other__"}])
    line.settle()
    return Zoo(line, LineClient(line))


def test_the_account_of_a_group_is_of_the_events_that_its_row_has(capped: Zoo) -> None:
    def explained(group: str, start: int = T0) -> tuple[object, ...]:
        told = capped.client.get("/v1/metrics/m/explain", {"start": str(start), "k": group})
        assert told["values"] == told["recomputed"]
        values = None if told["values"] is None else told["values"]["c"]
        return values, told["groups"], told["accounts"]["accepted"], told["accounts"]["late"]

    rows = counts(capped.answer("m", start=T0, end=T0 + 10 * SECOND)["data"], "k")

    assert rows == [(0, "__other__", 3), (0, "a", 3), (0, "b", 1)]
    assert explained("__other__") == (3, 1, 3, 0)
    assert explained("a") == (3, 1, 3, 1)
    assert explained("b") == (1, 1, 1, 0)
    assert explained("e") == (None, 0, 0, 1), "its events are in __other__, but for the late one"
    assert explained("__other__", T0 + 10 * SECOND) == (1, 1, 1, 0)
    told = capped.client.get("/v1/metrics/m/explain", {"start": str(T0)})
    assert (told["accounts"]["accepted"], told["accounts"]["late"]) == (7, 2)
