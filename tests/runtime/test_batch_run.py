"""`pipeline.batch`: any number of the API again from a DataFrame or a file, and what is said of a wrong frame."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import pipeline
from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Lookup,
    Stage,
    Transform,
    Tumbling,
)
from pipeline.errors import FrameError, StreamgaugeError
from pipeline.rim import keys, store
from pipeline.rim.scripts import Scripts
from pipeline.rim.table_cache import MAX_CACHED
from pipeline.rim.trim import trim_stream
from pipeline.runtime.stage_groups import groups_of
from tests.clicks import CONFIG as SESSIONS
from tests.clicks import METRICS as SESSION_METRICS
from tests.clicks import clicks, filled_with_sessions, send
from tests.line import Line, chunk_fields
from tests.servers import RunningServer
from tests.visits import BASE_MS, CONFIG, METRICS, STREAM, LineClient, filled, visits


def test_a_frame_of_the_raw_log_gives_every_final_number_of_the_api_again(server: RunningServer) -> None:
    line = filled(server)
    client = LineClient(line)

    again = pipeline.batch(CONFIG, client.raw("visits"))

    for name in METRICS:
        told = client.metric(name, start="1970-01-01", limit=100_000)
        told = told[told["state"] == "final"]
        found = again.metric(name)
        found = found[found["state"] == "final"]
        assert len(told) > 3
        pd.testing.assert_frame_equal(
            found.drop(columns="revision"), told.drop(columns="revision"), check_exact=True, obj=name
        )
        ledger = again.ledger(name)
        stage = client.get(f"/v1/stages/{name}")["ledger"]
        assert {n: getattr(ledger, n) for n in ("read", "accepted", "filtered", "late", "dead")} == {
            n: stage[n] for n in ("read", "accepted", "filtered", "late", "dead")
        }
        assert again.late(name)["time"].astype("int64").tolist() == [
            int(row["time"]) for partition in (0, 1) for row in line.late(name, partition)
        ]
    assert len(again.late("by_page")) > 10
    assert again.dead("by_page")["events"].tolist() == [1, 3]


def test_old_data_in_the_log_is_counted_as_the_pipeline_did(server: RunningServer) -> None:
    line, old = filled(server), visits(80, seed=5)
    fields = chunk_fields(old, [row["ts"] for row in old], position=0, at_ms=store.redis_time_ms(line.client))
    line.entry("visits", fields | {"mode": "backfill"})
    line.entry("visits", fields | {"mode": "backfill", "only": line.programs["hops"].group})
    line.settle()
    client = LineClient(line)

    again = pipeline.batch(CONFIG, client.raw("visits"))

    for name in METRICS:
        told = client.metric(name, start="1970-01-01", limit=100_000)
        pd.testing.assert_frame_equal(
            again.metric(name).drop(columns="revision"), told.drop(columns="revision"), check_exact=True, obj=name
        )
    assert (again.ledger("by_page").read, again.ledger("hops").read) == (685, 765)


def test_sessions_of_a_frame_of_the_raw_log_are_those_of_the_api(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    client = LineClient(line)

    again = pipeline.batch(SESSIONS, client.raw("clicks"))

    assert again.metrics == SESSION_METRICS
    for name in SESSION_METRICS:
        told = client.metric(name, start="1970-01-01", limit=100_000)
        found = again.metric(name)
        assert {"open", "closed", "final"} >= set(told["state"]) > {"final"}
        pd.testing.assert_frame_equal(
            found.drop(columns="revision"), told.drop(columns="revision"), check_exact=True, obj=name
        )
        assert again.late(name)["time"].astype("int64").tolist() == [
            int(row["time"]) for partition in (0, 1) for row in line.late(name, partition)
        ]
    assert len(again.late("stays")) > 3


def test_sessions_that_may_have_lost_their_beginning_are_left_out_of_a_frame_too(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    stream = replace(SESSIONS.streams["clicks"], retention_ms=1)
    trim_stream(server.client, Scripts(server.client), stream, groups_of(SESSIONS, "clicks"), 2**61)
    more = [row | {"ts": row["ts"] + 200_000} for row in clicks(200, seed=2)]
    send(line, more)
    for partition in (0, 1):
        line.tick("clicks", BASE_MS + 600_000, partition=partition)
    line.settle()
    client = LineClient(line)

    again = pipeline.batch(SESSIONS, client.raw("clicks"))

    for name in SESSION_METRICS:
        told = client.metric(name, start="1970-01-01", limit=100_000)
        found = again.metric(name)
        assert 0 < len(found) < len(told)
        behind = told[told.index >= found.index.min()]
        pd.testing.assert_frame_equal(found.drop(columns="revision"), behind.drop(columns="revision"), check_exact=True)


def test_rows_without_a_place_end_with_every_session_final() -> None:
    rows = [row | {"user": "ada"} for row in clicks(50)]

    done = pipeline.batch(SESSIONS, pd.DataFrame(rows), stages=["counted"])

    assert set(done.metric("counted")["state"]) == {"final"}
    assert done.metric("counted")["n"].sum() == done.ledger("counted").accepted


def test_a_damaged_chunk_replayed_for_one_stage_is_dead_in_that_one_alone(server: RunningServer) -> None:
    line, old = filled(server), visits(3, seed=5)
    fields = chunk_fields(old, [row["ts"] for row in old], position=0, at_ms=store.redis_time_ms(line.client))
    line.entry("visits", fields | {"mode": "backfill", "only": line.programs["hops"].group, "crc": 1})
    line.settle()
    client = LineClient(line)

    again = pipeline.batch(CONFIG, client.raw("visits"))

    for name in METRICS:
        stage = client.get(f"/v1/stages/{name}")
        ledger = again.ledger(name)
        assert (ledger.dead, ledger.replayed) == (stage["ledger"]["dead"], stage["replayed"])
        assert again.dead(name)["events"].sum() == ledger.dead
    assert [again.ledger(name).dead for name in ("by_page", "hops")] == [4, 7]


def test_the_frame_may_be_polars_shuffled_or_of_one_part_of_the_columns(server: RunningServer) -> None:
    raw = LineClient(filled(server)).raw("visits")
    wanted = pipeline.batch(CONFIG, raw).metric("dated")
    shuffled = raw.sample(frac=1.0, random_state=3)

    in_polars = {
        name: shuffled[name].astype(object).where(shuffled[name].notna(), None).tolist()
        for name in raw.columns
        if name not in ("tags", "seen", "page")
    }

    pd.testing.assert_frame_equal(pipeline.batch(CONFIG, shuffled, stages=["dated"]).metric("dated"), wanted)
    assert pipeline.batch(CONFIG, pl.DataFrame(in_polars), stages=["dated"]).metrics == ("dated",)
    pd.testing.assert_frame_equal(
        pipeline.batch(CONFIG, pl.DataFrame(in_polars), stages=["dated"]).metric("dated"), wanted
    )


def test_the_raw_log_comes_in_pages_and_by_arrival(server: RunningServer) -> None:
    line = filled(server)
    whole = LineClient(line).raw("visits")
    first = line.http.get("/v1/streams/visits/raw?limit=7").get_json()
    assert len(first["rows"]) == 50, "an entry is given whole"
    second = line.http.get(f"/v1/streams/visits/raw?limit=7&after={first['next']}").get_json()
    assert [row["position"] for row in first["rows"] + second["rows"]] == whole["_position"].tolist()[:100]

    end_ms = int(whole["_position"][0].partition("-")[0])
    assert len(LineClient(line).raw("visits", end=end_ms)) == 0
    assert len(LineClient(line).raw("visits", start=end_ms)) == len(whole)


def test_after_a_trim_the_windows_behind_it_are_the_same_and_those_before_are_left_out(server: RunningServer) -> None:
    line = filled(server)
    stream = replace(STREAM, retention_ms=1)
    scripts, groups = Scripts(server.client), groups_of(CONFIG, "visits")
    client = LineClient(line)
    whole = pipeline.batch(CONFIG, client.raw("visits"))
    trim_stream(server.client, scripts, stream, groups, 2**61)
    more = [row | {"ts": row["ts"] + 400_000} for row in visits(200, seed=2)]
    for partition in (0, 1):
        line.chunk("visits", more, partition=partition, times_ms=[row["ts"] for row in more])
        line.tick("visits", BASE_MS + 600_000, partition=partition)
    line.settle()

    raw = client.raw("visits")
    again = pipeline.batch(CONFIG, raw)

    assert raw["_kind"].tolist().count("cut") == 2
    for name in METRICS:
        told = client.metric(name, start="1970-01-01", limit=100_000)
        found = again.metric(name)
        assert 0 < len(found) < len(told)
        behind = told[told.index >= found.index.min()]
        pd.testing.assert_frame_equal(found.drop(columns="revision"), behind.drop(columns="revision"), check_exact=True)
    assert len(whole.late("by_page")) > 0


def test_a_page_after_a_trimmed_entry_is_gone(server: RunningServer) -> None:
    line = filled(server)
    server.client.execute_command("HSET", keys.cut("visits", 0), "cursor", "9999999999999-0", "max_seen_ms", 1)

    answer = line.http.get("/v1/streams/visits/raw?after=1-0")

    assert (answer.status_code, answer.get_json()["code"]) == (410, "trimmed")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("after=x", "bad_id"),
        ("partition=2", "bad_partition"),
        ("partition=-1", "bad_partition"),
        ("limit=0", "bad_limit"),
        ("start=soon", "bad_time"),
        ("frm=1", "unknown_parameter"),
    ],
)
def test_a_page_of_the_raw_log_is_asked_for_exactly(server: RunningServer, query: str, code: str) -> None:
    answer = Line(CONFIG, server).http.get(f"/v1/streams/visits/raw?{query}")

    assert (answer.status_code, answer.get_json()["code"]) == (400, code)


# --- frames without the columns of the log


def test_any_number_of_tables_is_joined(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(MAX_CACHED + 2)]
    stages: dict[str, Stage] = {}
    for name in names:
        (tmp_path / f"{name}.csv").write_text(f"page,site\n/1,{name}\n")
        lookup = {"site": Lookup(f"{name}.csv", "page", "page", "site", "string", "string")}
        stages[f"with_{name}"] = Transform(f"with_{name}", "visits", lookup=lookup)
        count = (AggregateSpec("n", "count"),)
        stages[name] = Aggregate(name, f"with_{name}", Tumbling(10_000), ("site",), count)

    done = pipeline.batch(Config({"visits": STREAM}, stages, folder=str(tmp_path)), pd.DataFrame(visits(20)))

    assert [set(done.metric(name)["site"].dropna()) for name in names] == [{name} for name in names]


def test_rows_without_a_place_count_in_their_order_and_end_with_every_window_final() -> None:
    frame = pd.DataFrame({"ts": [BASE_MS, BASE_MS + 30_000, BASE_MS + 1_000], "page": ["a", None, "late"]})

    done = pipeline.batch(CONFIG, frame, stages=["by_page"])

    assert done.metric("by_page")["views"].tolist() == [1, 1]
    assert set(done.metric("by_page")["state"]) == {"final"}
    assert done.late("by_page")[["row", "late_by_ms"]].values.tolist() == [[2, 27_000]]
    assert (done.ledger("by_page").read, done.ledger("by_page").late) == (3, 1)


@pytest.mark.parametrize("kind", ["ndjson", "ndjson.gz", "csv", "parquet"])
def test_a_file_gives_what_its_rows_give(tmp_path: Path, kind: str) -> None:
    rows = [{name: value for name, value in row.items() if name != "tags"} for row in visits(200)]
    path = tmp_path / f"visits.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    match kind:
        case "csv":
            pd.DataFrame(rows).convert_dtypes().to_csv(path, index=False)
        case "parquet":
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
        case _:
            path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)

    from_file = pipeline.batch(CONFIG, path)
    from_rows = pipeline.batch(CONFIG, pd.DataFrame(rows))

    for name in METRICS:
        pd.testing.assert_frame_equal(from_file.metric(name), from_rows.metric(name), check_exact=True)
    assert from_file.ledger("by_page").read == 200


@pytest.mark.parametrize(
    "times",
    [
        pd.Series([BASE_MS / 1_000.0, BASE_MS]),
        pd.to_datetime(pd.Series([BASE_MS, BASE_MS]), unit="ms"),
        pd.to_datetime(pd.Series([BASE_MS, BASE_MS]), unit="ms", utc=True).dt.tz_convert("Asia/Tokyo"),
        pd.Series([datetime.fromtimestamp(BASE_MS // 1_000, UTC), "2023-11-14T22:14:00Z"], dtype=object),
        pl.Series([BASE_MS * 1_000] * 2).cast(pl.Datetime("us", "Asia/Tokyo")),
        pl.Series([BASE_MS * 1_000] * 2).cast(pl.Datetime("us")),
    ],
)
def test_times_may_be_written_in_any_way(times: Any) -> None:
    frame = pl.DataFrame({"ts": times}) if isinstance(times, pl.Series) else pd.DataFrame({"ts": times})

    done = pipeline.batch(CONFIG, frame, stages=["by_page"])

    assert done.metric("by_page").index.astype("int64").tolist() == [BASE_MS]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"ts": [1, 2], "n": [1, "x"]}, "column 'n', row 1: 'x' (str) is not of type int"),
        ({"ts": [1, 2], "n": [1.0, 2.5]}, "column 'n', row 1: 2.5 (float) is not of type int"),
        ({"ts": [1, 2], "bot": [0, 1]}, "column 'bot', row 0: 0 (int) is not of type bool"),
        ({"ts": [1, 2], "ms": [1.0, float("inf")]}, "column 'ms', row 1: inf is out of range"),
        ({"ts": [1, 2], "page": [1, 2]}, "column 'page', row 0: 1 (int) is not of type string"),
        ({"ts": [1, 2], "tags": [["a"], "b"]}, "column 'tags', row 1: 'b' (str) is not of type list[string]"),
        ({"ts": [1, 2], "tags": [["a"], [3]]}, "column 'tags', row 1: 3 (int) is not of type list[string]"),
        ({"ts": [1, None]}, "column 'ts', row 1: null"),
        ({"ts": [1, "yesterday"]}, "column 'ts', row 1"),
        ({"page": ["a"]}, "no column 'ts'"),
        ({"ts": [1], "_partition": [0]}, "has _partition and not _position, _arrival_ms, _kind"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_with_the_column_the_row_and_the_value(
    columns: dict[str, Any], said: str
) -> None:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})

    with pytest.raises(FrameError) as caught:
        pipeline.batch(CONFIG, frame)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"_partition": [0, 2]}, "column '_partition', row 1: 2"),
        ({"_partition": [0, None]}, "column '_partition', row 1: None is not a whole number"),
        ({"_position": ["1-0/0", "here"]}, "column '_position', row 1: 'here'"),
        ({"_kind": ["row", "event"]}, "column '_kind', row 1: 'event'"),
        ({"_kind": ["row", "tick"]}, "no column '_tick_ms'"),
    ],
)
def test_columns_of_the_log_that_cannot_be_are_refused(changed: dict[str, Any], said: str) -> None:
    placed = {"_partition": [0, 1], "_position": ["1-0/0", "2-0/0"], "_arrival_ms": [9, 9], "_kind": ["row", "row"]}

    with pytest.raises(FrameError) as caught:
        pipeline.batch(CONFIG, pl.DataFrame(placed | changed | {"ts": [1_000_000_000_000, 1_000_000_000_001]}))

    assert said in str(caught.value)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused_as_the_door_refuses_it(bad: float) -> None:
    listed = replace(STREAM, fields=(*STREAM.fields, Field("loads", "list", item="float", nullable=True)))
    stage = Aggregate("sums", "all", Tumbling(10_000), (), (AggregateSpec("n", "sum", "loads"),))
    stages: dict[str, Stage] = {"all": Transform("all", "visits", explode="loads"), "sums": stage}
    config = Config({"visits": listed}, stages)
    given = {"ts": [BASE_MS, BASE_MS], "ms": [1.0, bad]}
    frames = (pd.DataFrame(given), pl.DataFrame(given), pl.DataFrame(given, schema_overrides={"ms": pl.Float32}))

    for frame in frames:
        with pytest.raises(FrameError, match=r"column 'ms', row 1: -?inf is out of range"):
            pipeline.batch(CONFIG, frame, stages=["by_page"])
    lists = pl.DataFrame({"ts": [BASE_MS, BASE_MS], "loads": [[1.0, None], [bad]]})
    with pytest.raises(FrameError, match="column 'loads', row"):
        pipeline.batch(config, lists, stages=["sums"])


def test_names_that_are_not_there_are_refused_with_the_nearest(tmp_path: Path) -> None:
    frame = pl.DataFrame({"ts": [BASE_MS]})
    other = Aggregate("other", "quiet", Tumbling(1_000), (), (AggregateSpec("n", "count"),))
    two = Config(
        streams={**CONFIG.streams, "quiet": replace(STREAM, name="quiet")},
        stages={**CONFIG.stages, "other": other},
    )
    path = tmp_path / "visits.ndjson"
    path.write_text('{"ts": 1}\n\n{"ts": 1, "n": "x"}\n')

    for said, asked in (
        ("Did you mean 'by_page'?", lambda: pipeline.batch(CONFIG, frame, stages=["by_pag"])),
        ("Did you mean 'visits'?", lambda: pipeline.batch(CONFIG, frame, stream="visit")),
        ("say whose events these are", lambda: pipeline.batch(two, frame)),
        ("Did you mean 'dated'?", lambda: pipeline.batch(two, frame, stream="visits").metric("datd")),
        ("line 3", lambda: pipeline.batch(CONFIG, path)),
        ("a pandas or polars DataFrame is needed, not a list", lambda: pipeline.batch(CONFIG, [{"ts": 1}])),
        ("No such file", lambda: pipeline.batch(CONFIG, tmp_path / "nothing.csv")),
    ):
        with pytest.raises(StreamgaugeError) as caught:
            asked()
        assert said in str(caught.value)
