"""Old data in a live log: it moves no time, is never late, and counts in the windows that are still there.

The oracle is plain Python over the decoded entries, one event after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.accumulators import Count
from pipeline.core.cell_fields import from_end_order, split_field
from pipeline.core.definitions import Aggregate, AggregateSpec, Hopping, Session
from pipeline.core.programs import Program, compile_programs
from pipeline.core.windows import panes_of
from tests.laws.logs import DISORDER_MS, METRIC, TOTAL, Logged, config, law, logs
from tests.laws.replaying import Committed, Fate, replay

OVER = "over"  # a hopping metric: several windows a pane
VISITS = "visits"  # sessions: there until they are final
HOPPING = Hopping(20_000, 8_000, offset_ms=1_000)  # panes of 4 s
CONFIG = replace(
    config(),
    stages={
        **config().stages,
        VISITS: Aggregate(VISITS, "s", Session(5_000), ("key",), (AggregateSpec("n", "count"),)),
        OVER: Aggregate(OVER, "s", HOPPING, (), (AggregateSpec("n", "count"), AggregateSpec("v", "sum", "v"))),
    },
)
PROGRAMS = compile_programs(CONFIG)
COUNT = Count(None).columns[0][0]
sizes = st.integers(1, 5)
expiries = st.none() | st.integers(-30_000, 70_000)


def backfill(entry: Logged, only: str = "") -> Logged:
    """A chunk as old data; any other entry as it is."""
    if entry.fields.get(b"_k") != b"chunk":
        return entry
    fields = {**entry.fields, b"mode": b"backfill"} | ({b"only": only.encode()} if only else {})
    return Logged(entry.id, fields)


def is_backfill(entry: Logged) -> bool:
    return b"mode" in entry.fields


@st.composite
def mixed_logs(draw: st.DrawFn) -> list[Logged]:
    """A log in which about half of the chunks are old data."""
    return [backfill(entry) if draw(st.booleans()) else entry for entry in draw(logs())]


@law
@given(log=mixed_logs(), expired_ms=expiries)
@pytest.mark.parametrize("metric", [METRIC, TOTAL, OVER, VISITS])
def test_backfill_moves_no_time_and_makes_nothing_late(metric: str, log: list[Logged], expired_ms: int | None) -> None:
    program = PROGRAMS[metric]

    both = replay(program, log, expired_ms=expired_ms)
    live = replay(program, [entry for entry in log if not is_backfill(entry)])

    assert both.time.max_seen_ms == live.time.max_seen_ms
    assert both.time.max_event_ms == live.time.max_event_ms
    assert of_live(both.late, log) == live.late
    assert both.ledger.accepted - both.ledger.backfilled == live.ledger.accepted
    assert {row["reason"] for row in both.late} <= {"late", "expired"}


def of_live(rows: Sequence[Any], log: Sequence[Logged]) -> list[Any]:
    old = {entry.id.encode() for entry in log if is_backfill(entry)}
    return [row for row in rows if row["entry"] not in old]


@law
@given(log=mixed_logs(), expired_ms=expiries)
def test_old_data_counts_in_the_windows_that_are_there(log: list[Logged], expired_ms: int | None) -> None:
    program = PROGRAMS[OVER]

    done = replay(program, log, expired_ms=expired_ms)

    windows, expired = by_hand(log, expired_ms)
    assert counted(program, done) == windows
    assert [(row["entry"].decode(), row["row"]) for row in done.late if row["reason"] == "expired"] == expired


def by_hand(log: Sequence[Logged], expired_ms: int | None) -> tuple[dict[tuple[int, int], int], list[tuple[str, int]]]:
    """Events in each hopping window, by reading the rules aloud; and the places of what had expired."""
    windows: dict[tuple[int, int], int] = {}
    expired: list[tuple[str, int]] = []
    seen_ms: int | None = None
    for entry in log:
        arrival_ms = int(entry.id.partition("-")[0])
        if entry.fields.get(b"_k") == b"tick":
            moved_ms = min(int(entry.fields[b"t"]), arrival_ms)
            seen_ms = moved_ms if seen_ms is None else max(seen_ms, moved_ms)
        for number, event in enumerate(events(entry)):
            ts = event["ts"]
            if ts > arrival_ms + 20_000:
                continue  # too far ahead: dead
            old = is_backfill(entry)
            gone_ms = expired_ms if old else None if seen_ms is None else seen_ms - DISORDER_MS
            spans = [span for span in spans_of(ts) if gone_ms is None or span[1] > gone_ms]
            for span in spans:
                windows[span] = windows.get(span, 0) + 1
            if old and not spans:
                expired.append((entry.id, number))
            if not old:
                moved_ms = min(ts, arrival_ms)
                seen_ms = moved_ms if seen_ms is None else max(seen_ms, moved_ms)
    return windows, expired


def spans_of(ts: int) -> list[tuple[int, int]]:
    last = (ts - 1_000) // 8_000 * 8_000 + 1_000
    return [(start, start + 20_000) for start in range(last - 16_000, last + 1, 8_000) if start <= ts < start + 20_000]


def events(entry: Logged) -> list[Mapping[str, Any]]:
    """The readable events of an entry."""
    if entry.fields.get(b"_k") == b"chunk":
        if entry.fields[b"crc"] == b"1":
            return []
        return [msgspec.json.decode(line) for line in entry.fields[b"body"].split(b"\n")]
    if b"_k" in entry.fields or b"ts" not in entry.fields or entry.fields.get(b"v") == b"x":
        return []
    return [] if entry.fields.get(b"k") == b"1.5" else [{"ts": int(entry.fields[b"ts"])}]


def counted(program: Program, done: Committed) -> dict[tuple[int, int], int]:
    """Events in each window, merged from the cells."""
    found: dict[tuple[int, int], int] = {}
    for start, stored in done.panes.items():
        names, columns = program.layout.gather(stored)
        for number, name in enumerate(names):
            first = from_end_order(split_field(name)[0])
            for span in panes_of(HOPPING).windows_of(start, first, 2**60):
                found[span] = found.get(span, 0) + int(columns[COUNT][number])
    return found


@law
@given(
    log=mixed_logs(),
    batches=st.lists(st.tuples(sizes, st.sampled_from(get_args(Fate))), max_size=14),
    expired_ms=expiries,
)
@pytest.mark.parametrize("metric", [METRIC, OVER, VISITS])
def test_any_cut_and_any_crash_gives_the_same_bits(
    metric: str, log: list[Logged], batches: list[tuple[int, Fate]], expired_ms: int | None
) -> None:
    program = PROGRAMS[metric]

    assert replay(program, log, batches, expired_ms=expired_ms) == replay(program, log, expired_ms=expired_ms)


@law
@given(log=logs(), places=st.sets(st.integers(0, 13)))
def test_what_is_replayed_for_another_group_counts_nothing(log: list[Logged], places: set[int]) -> None:
    program = PROGRAMS[METRIC]
    foreign = [backfill(entry, "other@1") if number in places else entry for number, entry in enumerate(log)]

    done = replay(program, foreign)
    without = replay(program, [entry for entry in foreign if not is_backfill(entry)])

    assert replace(done.time, max_ts_ms=None) == replace(without.time, max_ts_ms=None)
    assert (done.panes, done.late, done.dead, done.ledger) == (
        without.panes,
        without.late,
        without.dead,
        without.ledger,
    )


@law
@given(log=logs(), places=st.sets(st.integers(0, 13)))
def test_the_largest_time_is_the_same_for_every_group(log: list[Logged], places: set[int]) -> None:
    """A trim notes it of one group, and all begin there."""
    for_metric, for_total = PROGRAMS[METRIC], PROGRAMS[TOTAL]
    marked = [backfill(entry, for_metric.group) if n in places else entry for n, entry in enumerate(log)]

    done = [replay(program, marked, [(3, "go on")]).time for program in (for_metric, for_total)]

    assert done[0] == done[1]


@law
@given(log=logs(), places=st.sets(st.integers(0, 13)))
def test_what_a_group_reads_again_is_counted_as_replayed(log: list[Logged], places: set[int]) -> None:
    program = PROGRAMS[METRIC]
    marked = [backfill(entry, program.group) if n in places else entry for n, entry in enumerate(log)]

    done = replay(program, marked, [(2, "go on"), (3, "crash before the commit")])

    assert done.ledger.replayed == sum(int(entry.fields[b"n"]) for entry in marked if b"only" in entry.fields)
    assert done.ledger.balances
