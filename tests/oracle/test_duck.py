"""The oracle itself, against numbers worked out by hand: an oracle that is wrong in the same way proves nothing."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from pipeline.core.definitions import (
    DAY_MS,
    HOUR_MS,
    Aggregate,
    AggregateSpec,
    Calendar,
    Cumulating,
    Hopping,
    PaneWindow,
    Session,
    TimePolicy,
    Tumbling,
    Window,
)
from tests.oracle import duck
from tests.oracle.duck import Account, Fate
from tests.oracle.expectations import Buckets, Distinct, Expected, Near, Top

SCHEMA = {
    "event_ms": pl.Int64,
    "arrival_ms": pl.Int64,
    "part": pl.Int64,
    "is_tick": pl.Boolean,
    "key": pl.String,
    "v": pl.Float64,
}
COUNT = (AggregateSpec("n", "count"),)


def events(*rows: dict[str, Any]) -> duck.Events:
    """Events in stream order; each row says only what differs: `t` is its time."""
    plain = {"arrival_ms": duck.NEVER_MS, "part": 0, "is_tick": False, "key": None, "v": None}
    frame = pl.DataFrame([plain | {"event_ms": row["t"]} | row for row in rows], schema=SCHEMA)
    return duck.table(frame.with_columns(position=pl.int_range(pl.len()).over("part")))


def at(*times_ms: int) -> duck.Events:
    return events(*({"t": time_ms} for time_ms in times_ms))


def stage(
    window: Window, *aggregates: AggregateSpec, group_by: tuple[str, ...] = (), lateness_ms: int = 0, **select: str
) -> Aggregate:
    return Aggregate("m", "s", window, group_by, aggregates or COUNT, allowed_lateness_ms=lateness_ms, select=select)


def counts(found: list[duck.Row]) -> list[tuple[int, int, int]]:
    return [(row["window_start"], row["window_end"], row["n"]) for row in found]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (Tumbling(10), [(-10, 0, 1), (0, 10, 1), (10, 20, 2)]),
        (Tumbling(10, 3), [(-7, 3, 2), (3, 13, 1), (13, 23, 1)]),
        (Hopping(10, 5), [(-10, 0, 1), (-5, 5, 2), (0, 10, 1), (5, 15, 1), (10, 20, 2), (15, 25, 1)]),
        (
            Hopping(10, 4),  # size is no multiple of the step: 2 or 3 windows a time
            [(-8, 2, 2), (-4, 6, 2), (0, 10, 1), (4, 14, 1), (8, 18, 1), (12, 22, 1), (16, 26, 1)],
        ),
        (Hopping(10, 5, 2), [(-8, 2, 2), (-3, 7, 2), (2, 12, 1), (7, 17, 1), (12, 22, 1), (17, 27, 1)]),
        (Cumulating(20, 10), [(-20, 0, 1), (0, 10, 1), (0, 20, 3)]),
        (Cumulating(12, 4, 2), [(-10, 2, 2), (2, 10, 0), (2, 14, 1), (14, 22, 1), (14, 26, 1)]),
    ],
)
def test_windows_of_an_event_by_hand(window: PaneWindow, expected: list[tuple[int, int, int]]) -> None:
    found = duck.windows(at(-1, 0, 10, 19), stage(window), TimePolicy(disorder_ms=1_000))

    assert counts(found) == [row for row in expected if row[2]]


@pytest.mark.parametrize(
    ("window", "first", "second"),
    [
        # clocks go forward on Sunday 31 March 2024 and back on 27 October in Paris: days of 23 and 25 hours
        (Calendar("day", "Europe/Paris"), ("2024-03-30T23:00Z", "2024-03-31T22:00Z"), ("2024-03-31T22:00Z", 24)),
        (Calendar("day", "Europe/Paris"), ("2024-10-26T22:00Z", "2024-10-27T23:00Z"), ("2024-10-27T23:00Z", 24)),
        (Calendar("week", "Europe/Paris"), ("2024-03-24T23:00Z", "2024-03-31T22:00Z"), ("2024-03-31T22:00Z", 168)),
        (Calendar("month", "Europe/Paris"), ("2024-02-29T23:00Z", "2024-03-31T22:00Z"), ("2024-03-31T22:00Z", 720)),
        (Calendar("month", "UTC"), ("1969-12-01T00:00Z", "1970-01-01T00:00Z"), ("1970-01-01T00:00Z", 744)),
        # the clocks of Santiago skip midnight: 8 September 2024 begins at 01:00 local time
        (Calendar("day", "America/Santiago"), ("2024-09-07T04:00Z", "2024-09-08T04:00Z"), ("2024-09-08T04:00Z", 23)),
    ],
)
def test_calendar_windows_by_hand(window: Calendar, first: tuple[str, str], second: tuple[str, int]) -> None:
    start, end = (instant(text) for text in first)
    next_start, hours = instant(second[0]), second[1]

    found = duck.windows(at(start, end - 1, next_start), stage(window), TimePolicy(disorder_ms=400 * DAY_MS))

    assert counts(found) == [(start, end, 2), (next_start, next_start + hours * HOUR_MS, 1)]


def instant(text: str) -> int:
    return int(pl.Series([text]).str.to_datetime("%Y-%m-%dT%H:%MZ", time_unit="ms").cast(pl.Int64)[0])


def test_an_event_is_late_for_a_window_whose_end_the_watermark_before_it_has_reached() -> None:
    # watermark before each: none, 25, 25, 25, 25; windows end at 10, 15, 20, 25, 30, 35
    found = at(30, 24, 14, 4, 16)
    time, hopping = TimePolicy(disorder_ms=5), stage(Hopping(10, 5))

    assert duck.account(found, hopping, time) == Account(read=5, accepted=2, filtered=0, late=3, dead=0, partial=1)
    assert counts(duck.windows(found, hopping, time)) == [(20, 30, 1), (25, 35, 1), (30, 40, 1)]
    late = duck.late_rows(found, hopping, time)
    assert [(row["event_ms"], row["late_by_ms"], row["window_end"]) for row in late] == [
        (14, 11, 20),
        (4, 21, 10),
        (16, 9, 25),  # the end of its last window is the watermark itself
    ]


def test_allowed_lateness_is_added_to_every_window_s_end() -> None:
    found, time = at(30, 24, 14, 4, 16), TimePolicy(disorder_ms=5)

    assert duck.account(found, stage(Hopping(10, 5), lateness_ms=5), time).late == 2  # 16 counts in [15, 25)
    assert duck.account(found, stage(Hopping(10, 5), lateness_ms=15), time).late == 1  # 4, by one millisecond
    assert duck.account(found, stage(Hopping(10, 5), lateness_ms=16), time) == Account(5, 5, 0, 0, 0, partial=1)
    assert duck.account(found, stage(Hopping(10, 5), lateness_ms=21), time).partial == 0


def test_time_is_moved_by_ticks_and_filtered_events_never_past_the_arrival_and_in_each_partition_alone() -> None:
    found = events(
        {"t": 50, "part": 1},
        {"t": 90, "arrival_ms": 12},  # from the future: moves time to 12
        {"t": 3, "key": "kept"},  # 12 - 0 < 20: in time
        {"t": 20, "is_tick": True},
        {"t": 19, "key": "late"},
        {"t": 40, "key": "bot"},  # filtered, and moves time
        {"t": 39, "key": "late too"},
    )
    twenty, time, fate = stage(Tumbling(20)), TimePolicy(disorder_ms=0), Fate(kept="key IS NULL OR key <> 'bot'")

    assert duck.account(found, twenty, time, fate) == Account(read=6, accepted=3, filtered=1, late=2, dead=0, partial=0)
    assert counts(duck.windows(found, twenty, time, fate)) == [(0, 20, 1), (40, 60, 1), (80, 100, 1)]


def test_a_dead_event_moves_time_and_is_neither_filtered_nor_late() -> None:
    found, time = events({"t": 30, "key": "x"}, {"t": 1, "key": "x"}, {"t": 2}), TimePolicy(disorder_ms=0)

    fate = Fate(dead="key = 'x'", kept="key IS NULL")
    assert duck.account(found, stage(Tumbling(10)), time, fate) == Account(3, 0, 0, late=1, dead=2, partial=0)


def test_sessions_by_hand() -> None:
    """Exactly the gap joins; one unit more does not; an event between two bridges them; groups are apart."""
    found = events(
        *({"t": t, "key": "a"} for t in (0, 20, 10, 31, -10)), {"t": 5, "key": "b"}, {"t": 17, "key": "b"}, {"t": 6}
    )

    rows = duck.windows(found, stage(Session(10), group_by=("key",)), TimePolicy(disorder_ms=1_000))

    assert [tuple(row.values()) for row in rows] == [
        # first, last, closes_at, key, n
        (-10, 20, 30, "a", 4),
        (5, 5, 15, "b", 1),
        (6, 6, 16, None, 1),
        (17, 17, 27, "b", 1),
        (31, 31, 41, "a", 1),
    ]


def test_a_session_never_crosses_a_multiple_of_its_max() -> None:
    rows = duck.windows(at(5, 15, 20, 25, 39, 41), stage(Session(10, max_ms=20)), TimePolicy(disorder_ms=1_000))

    assert [tuple(row.values()) for row in rows] == [(5, 15, 25, 2), (20, 25, 35, 2), (39, 39, 49, 1), (41, 41, 51, 1)]


def test_an_event_is_late_for_sessions_by_itself() -> None:
    """30 would join the session of 40, and is late all the same: 30 + 5 + 3 <= 38, the watermark before it."""
    found, time = at(40, 30, 31), TimePolicy(disorder_ms=2)
    sessions = stage(Session(5), lateness_ms=3)

    assert duck.account(found, sessions, time) == Account(3, 2, 0, late=1, dead=0, partial=0)
    assert [row["first"] for row in duck.windows(found, sessions, time)] == [31, 40]


def test_a_session_s_time_weighted_mean_ends_a_gap_after_its_last_event() -> None:
    found = events(
        {"t": 0, "v": 1.0}, {"t": 4, "v": 3.0}, {"t": 10, "v": 9.0}, {"t": 12}, {"t": 90, "v": 5.0}, {"t": 90, "v": 7.0}
    )

    rows = duck.windows(
        found, stage(Session(10), AggregateSpec("x", "time_weighted_mean", "v")), TimePolicy(disorder_ms=1_000)
    )

    assert [row["x"].value for row in rows] == pytest.approx([(4 * 1 + 6 * 3 + 12 * 9) / 22, 7])


ONE_WINDOW = Tumbling(100)
SAMPLES = ((10, 4.0), (40, 7.0), (20, 6.0), (30, None), (50, 2.0), (50, 3.0))  # by time: 4 6 - 7 2 3


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (AggregateSpec("x", "count"), 6),
        (AggregateSpec("x", "count", "v"), 5),
        (AggregateSpec("x", "count", where="v > 3"), 3),
        (AggregateSpec("x", "sum", "v"), 22.0),
        (AggregateSpec("x", "sum", "v", where="v > 100"), 0.0),
        (AggregateSpec("x", "mean", "v"), 4.4),
        (AggregateSpec("x", "mean", "v", where="v < 4"), 2.5),
        (AggregateSpec("x", "mean", "v", where="v > 100"), None),
        (AggregateSpec("x", "min", "v"), 2.0),
        (AggregateSpec("x", "max", "v", where="v < 7"), 6.0),
        (AggregateSpec("x", "first", "v"), 4.0),
        (AggregateSpec("x", "last", "v"), 3.0),  # of two at 50 the later position
        (AggregateSpec("x", "last", "v", where="v > 3"), 7.0),
        (AggregateSpec("x", "var", "v"), Near(4.3, absolute=1e-9)),  # of the sample: 17.2 / 4
        (AggregateSpec("x", "stddev", "v", where="v < 4"), Near(0.5**0.5, absolute=1e-9)),
        (AggregateSpec("x", "var", "v", where="v > 6.5"), None),  # of one value
        (AggregateSpec("x", "quantile", "v", 0.5), Near(4.0, 0.01)),
        (AggregateSpec("x", "quantile", "v", 0.99), Near(6.0, 0.01)),  # the lower rank: 3 of 0 … 4
        (AggregateSpec("x", "quantile", "v", 1), Near(7.0, 0.01)),
        (AggregateSpec("x", "quantile", "v", 0, where="v > 100"), None),
        (AggregateSpec("x", "histogram", "v", where="v < 4"), Buckets((2.0, 3.0))),
        (AggregateSpec("x", "distinct", "v"), Distinct(5)),
        (AggregateSpec("x", "distinct_exact", "v", where="v > 3"), 3),
        (AggregateSpec("x", "topk", "v", 2), Top({4.0: 1, 7.0: 1, 6.0: 1, 2.0: 1, 3.0: 1}, 2)),
        (AggregateSpec("x", "increase", "v"), Near(6.0, absolute=1e-9)),  # 2 + 1 + (reset) 2 + 1
        (AggregateSpec("x", "increase", "v", where="v > 3"), Near(3.0, absolute=1e-9)),
        (AggregateSpec("x", "increase", "v", where="v > 6.5"), None),  # of one sample
        (AggregateSpec("x", "increase", "v", where="v > 100"), None),
        (AggregateSpec("x", "rate", "v"), Near(150.0, absolute=1e-9)),  # 6 in 40 ms
        (AggregateSpec("x", "rate", "v", where="v > 6.5"), None),  # of one sample
        (AggregateSpec("x", "rate", "v", where="v < 4"), None),  # no time between them
        # 4 for 10 ms, 6 for 20, 7 for 10, 2 for 0, 3 until the window's end
        (AggregateSpec("x", "time_weighted_mean", "v"), Near(380 / 90, absolute=1e-9)),
        (
            AggregateSpec("x", "time_weighted_mean", "v", where="v > 3"),
            Near((4 * 10 + 6 * 20 + 7 * 60) / 90, absolute=1e-9),
        ),
    ],
    ids=str,
)
def test_values_by_hand(spec: AggregateSpec, expected: Any) -> None:
    found = events(*({"t": t, "v": v} for t, v in SAMPLES))

    [row] = duck.windows(found, stage(ONE_WINDOW, spec), TimePolicy(disorder_ms=1_000))

    assert (row["x"], type(row["x"])) == (
        (pytest.approx(expected), float) if isinstance(expected, float) else (expected, type(expected))
    )


def test_neighbours_are_of_one_window_and_group() -> None:
    """The counter's step from 9 to 20 lies between two windows, that from 1 to 2 in another group."""
    found = events(
        {"t": 1, "v": 1.0}, {"t": 2, "v": 9.0}, {"t": 3, "v": 1.0, "key": "b"}, {"t": 4, "v": 2.0, "key": "b"},
        {"t": 12, "v": 20.0}, {"t": 13, "v": 21.0},
    )  # fmt: skip
    both = (AggregateSpec("up", "increase", "v"), AggregateSpec("mean", "time_weighted_mean", "v"))

    rows = duck.windows(found, stage(Tumbling(10), *both, group_by=("key",)), TimePolicy(disorder_ms=1_000))

    assert [(row["window_start"], row["key"], row["up"].value) for row in rows] == [
        (0, "b", 1),
        (0, None, 8),
        (10, None, 1),
    ]
    assert [row["mean"].value for row in rows] == pytest.approx([(1 + 2 * 6) / 7, (1 + 9 * 8) / 9, (20 + 21 * 7) / 8])


def test_a_select_is_float64_and_null_where_it_is_no_number() -> None:
    found = events({"t": 1, "v": 3.0}, {"t": 2}, {"t": 3}, {"t": 11})
    values = (AggregateSpec("n", "count"), AggregateSpec("n_v", "count", "v"), AggregateSpec("top", "topk", "v", 1))

    rows = duck.windows(
        found, stage(Tumbling(10), *values, share="n_v / n", each="n / n_v"), TimePolicy(disorder_ms=1_000)
    )

    assert [(row["n"], row["n_v"], row["share"], row["each"]) for row in rows] == [
        (3, 1, 1 / 3, 3.0),
        (1, 0, 0.0, None),
    ]


def test_the_account_of_each_window_and_group_adds_up_to_the_events_in_it() -> None:
    found = events({"t": 30}, {"t": 16}, {"t": 14}, {"t": 24, "key": "bot"}, {"t": 24, "key": "x"}, {"t": 26})
    fate = Fate(dead="key = 'x'", kept="key IS NULL OR key <> 'bot'")

    rows = duck.window_accounts(found, stage(Hopping(20, 10)), TimePolicy(disorder_ms=0), fate)

    assert [tuple(row.values()) for row in rows] == [
        # start, end, accepted, late, filtered, dead
        (0, 20, 0, 2, 0, 0),
        (10, 30, 0, 3, 1, 1),
        (20, 40, 2, 0, 1, 1),
        (30, 50, 1, 0, 0, 0),
    ]


@pytest.mark.parametrize(
    ("expected", "allowed", "refused"),
    [
        (Near(100.0, 0.01), [99.0, 101.0, 100], [98.9, 101.1, None, "100", True]),
        (Near(0.0, 0.01), [0.0, 0], [1e-300]),
        (Near(0.0, absolute=1e-9), [1e-10], [1e-8]),
        (Distinct(0), [0], [1, None, 0.0]),
        (Distinct(1), [1], [0, 2]),
        (Distinct(512), [512], [511, 513]),
        (Distinct(1_000), [967, 1_033], [966, 1_034]),
        (
            Top({"b": 2, "a": 2, "c": 1, "d": 3}, 3),
            [[["d", 3], ["a", 2], ["b", 2]]],
            [[["d", 3], ["b", 2], ["a", 2]], []],
        ),
        (Top({}, 3), [[]], [None, [["a", 0]]]),
        (
            Buckets((1.0, 1.005, -1.0, 0.0)),
            [[[-1.01, -0.995, 1], [0.0, 0.0, 1], [0.995, 1.01, 2]]],
            [
                [[-1.01, -0.995, 1], [0.0, 0.0, 1], [0.995, 1.01, 1]],  # one is missing
                [[-1.01, -0.995, 1], [0.0, 0.0, 1], [0.9, 1.01, 2]],  # wider than its error
                [[-1.01, -0.995, 1], [0.0, 0.0, 2], [0.995, 1.01, 1]],  # one in the wrong place
                [[0.0, 0.0, 1], [-1.01, -0.995, 1], [0.995, 1.01, 2]],  # not in order
            ],
        ),
        (Buckets((1.0,)), [[[0.99, 1.0, 1]], [[1.0, 1.01, 1]]], [[[1.0001, 1.01, 1]]]),  # an edge is in either
    ],
    ids=str,
)
def test_what_a_bound_allows(expected: Expected, allowed: list[Any], refused: list[Any]) -> None:
    assert all(expected.allows(found) for found in allowed)
    assert not any(expected.allows(found) for found in refused)
