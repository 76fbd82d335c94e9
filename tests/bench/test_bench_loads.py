"""The loads of the benchmarks: their bodies say what their arrays say, and a recount from the bodies agrees."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import polars as pl
import pytest

from bench.lines import Times, decimals, ndjson, texts
from bench.window_loads import crowd_load, sensor_load
from bench.yahoo_load import JITTER_MS, WINDOW_MS, TooShortError, YahooLoad, ads_table, yahoo_load

START_MS = 1_700_000_000_000


def rows_of(bodies: list[bytes]) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for body in bodies for line in body.splitlines()]


def small(late: float = 0.0, skew: float = 0.0, seed: int = 1) -> YahooLoad:
    return yahoo_load(20_000, START_MS, events_per_ms=0.1, late=late, skew=skew, seed=seed)


def test_lines_of_texts_of_any_length_are_json_and_are_cut_at_the_batch() -> None:
    numbers = np.array([0, 1, 2, 0])
    values = np.array([0.5, 12.25, 1e-7, 3.0])
    parts = (
        *(b'{"kind":"', texts(["a", "", "long\\u00e9"], numbers), b'","at":', Times(START_MS + numbers)),
        *(b',"value":', decimals(values), b"}"),
    )

    bodies = ndjson(parts, 4, batch=3)

    assert [body.count(b"\n") for body in bodies] == [3, 1]
    assert [row["kind"] for row in rows_of(bodies)] == ["a", "", "longé", "a"]
    assert [row["at"] for row in rows_of(bodies)] == [START_MS, START_MS + 1, START_MS + 2, START_MS]
    assert [row["value"] for row in rows_of(bodies)] == values.tolist()


def test_views_counted_from_the_bodies_and_the_table_are_those_counted_from_the_arrays() -> None:
    load = small()
    campaigns = dict(line.split(",") for line in ads_table(load.names).splitlines()[1:])
    counted: Counter[tuple[int, str]] = Counter()

    for row in rows_of(load.bodies(1_000)):
        assert isinstance(row["event_time"], int)
        if row["event_type"] == "view":
            counted[row["event_time"] // WINDOW_MS * WINDOW_MS, campaigns[str(row["ad_id"])]] += 1

    assert {key: answer["views"] for key, answer in load.counts().items()} == counted


def test_an_event_has_about_240_bytes() -> None:
    assert 230 < sum(map(len, small().bodies(1_000))) / 20_000 < 250


def test_the_columns_of_a_load_are_its_lines() -> None:
    load = small()

    assert load.frame().to_dicts() == rows_of(load.bodies(1_000))


def test_late_events_are_late_however_they_are_sent_and_the_others_never_are() -> None:
    load = small(late=0.1)
    before = np.maximum.accumulate(np.where(load.is_late, 0, load.times_ms))
    behind_ms = before - load.times_ms

    assert 0.08 < load.is_late.mean() < 0.12
    assert behind_ms[~load.is_late].max() <= JITTER_MS
    assert behind_ms[load.is_late].min() > 50_000
    assert 0 < load.n_late_views < load.is_late.sum()
    assert (
        sum(answer["views"] for answer in load.counts().values()) + load.n_late_views == (load.event_types == 0).sum()
    )


def test_a_load_too_short_for_late_events_says_what_to_do() -> None:
    with pytest.raises(TooShortError, match=r"late events need 180 s\. Make more events"):
        yahoo_load(1_000, START_MS, events_per_ms=10, late=0.1)


def test_skew_makes_some_ads_popular_and_a_seed_makes_the_same_events() -> None:
    even, skewed = (np.bincount(small(skew=skew).ads).max() for skew in (0.0, 1.0))

    assert skewed > 10 * even
    assert small().bodies(1_000) == small().bodies(1_000)
    assert small().bodies(1_000) != small(seed=2).bodies(1_000)


def test_every_user_of_a_crowd_comes_once_a_minute_and_the_newest_minute_is_counted() -> None:
    load = crowd_load(1_000, 3, START_MS // 60_000 * 60_000)

    minutes, users = np.unique(np.stack([load.times_ms // 60_000, load.users]), axis=1)
    assert len(minutes) == len(users) == 3_000
    assert [answer["n"] for answer in load.counts().values()] == [1] * 1_000


def test_the_hops_of_the_sensors_are_those_of_a_data_frame() -> None:
    load = sensor_load(30_000, START_MS)
    frame = pl.DataFrame({"ts": load.times_ms, "sensor": load.sensors, "value": load.values})
    start = START_MS // 10_000 * 10_000 - 20_000

    in_window = frame.filter(pl.col("ts").is_between(start, start + 60_000, closed="left"))

    expected = in_window.group_by("sensor").agg(pl.len().alias("n"), pl.col("value").min().alias("low"))
    hops = load.hops(60_000, 10_000)
    for sensor, n, low in expected.iter_rows():
        assert (hops[start, f"s{sensor:06d}"]["n"], hops[start, f"s{sensor:06d}"]["low"]) == (n, low)
