"""Replay: each row once and in order through crashes, after a look at where the file begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.definitions import DAY_MS
from pipeline.core.times import parse_time_ms
from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import SendResult, StreamView
from pipeline.runtime.replay import (
    BATCH_BYTES,
    Replay,
    ReplayOrder,
    ReplayReport,
    ReplayStoppedError,
    cut_batches,
)
from pipeline.runtime.replay_files import EventTimes, FileRow, ShiftedTimes
from pipeline.runtime.replay_state import ReplayState
from pipeline.runtime.replay_survey import survey_rows

START_MS = 1_431_857_103_000


class Killed(BaseException):
    """The process ends here."""


class FakeDoor:
    """A door that stores a row once per key, and can die after storing a batch and before the answer."""

    def __init__(self, *, time_field: str | None = "ts", watermark: int | None = None) -> None:
        self.view = StreamView("s", {"ts": "timestamp", "n": "int"}, time_field, watermark)
        self.stored: list[dict[str, int]] = []
        self.keys: dict[str, bytes] = {}
        self.sizes: list[int] = []
        self.ended = 0
        self.backfilled = 0
        self.kill_after: int | None = None

    def stream(self, name: str) -> StreamView:
        return self.view

    def post_rows(self, stream: str, body: bytes, count: int, key: str, *, backfill: bool = False) -> SendResult:
        lines = body.splitlines()
        assert len(lines) == count
        if key not in self.keys:
            self.stored += [json.loads(line) for line in lines]
            self.sizes.append(count)
            self.backfilled += count if backfill else 0
        assert self.keys.setdefault(key, body) == body, "the same key with another body"
        if self.kill_after is not None and len(self.sizes) >= self.kill_after:
            raise Killed
        return SendResult(accepted=count)

    def end(self, stream: str) -> None:
        self.ended += 1


class Naps:
    """A sleep that only moves its own clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def ndjson(folder: Path, times: list[int], name: str = "a.ndjson") -> Path:
    path = folder / name
    path.write_text("".join(f'{{"ts":{ts},"n":{n}}}\n' for n, ts in enumerate(times)))
    return path


def replay(door: FakeDoor, state: Path, order: ReplayOrder) -> ReplayReport:
    run = Replay(order, door, state)
    run.survey()
    return run.send()


def test_rows_go_in_file_order_and_the_end_tick_last(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor()
    file = ndjson(tmp_path, [START_MS + n for n in range(11)])
    report = replay(door, folder, ReplayOrder(file, "s", "u", batch_rows=4))
    assert [row["n"] for row in door.stored] == list(range(11))
    assert door.sizes == [4, 4, 3]
    assert door.ended == 1
    assert report.result.accepted == 11


def test_an_open_replay_writes_no_end_tick(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor()
    replay(door, folder, ReplayOrder(ndjson(tmp_path, [START_MS]), "s", "u", end=False))
    assert (len(door.stored), door.ended) == (1, 0)


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
@pytest.mark.parametrize("speed", [None, 1e9])
def test_killed_anywhere_and_resumed_every_row_is_stored_once(
    tmp_path: Path, folder: Path, killed_after: int, speed: float | None
) -> None:
    door = FakeDoor()
    file = ndjson(tmp_path, [START_MS + n for n in range(10)])
    door.kill_after = killed_after
    with pytest.raises(Killed):
        replay(door, folder, ReplayOrder(file, "s", "u", batch_rows=3, speed=speed))

    door.kill_after = None
    door.view = StreamView("s", door.view.fields, "ts", START_MS + 100)  # a resumed replay skips the look
    report = replay(door, folder, ReplayOrder(file, "s", "u", batch_rows=5, resume=True))

    assert [row["n"] for row in door.stored] == list(range(10))
    assert report.resumed_at == 3 * (killed_after - 1)
    assert door.ended == 1


def test_resuming_a_finished_replay_sends_nothing(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor()
    order = ReplayOrder(ndjson(tmp_path, [START_MS]), "s", "u")
    replay(door, folder, order)
    report = replay(door, folder, ReplayOrder(order.file, "s", "u", resume=True))
    assert report.result.rows == 0
    assert len(door.keys) == 1


def test_progress_belongs_to_the_content_of_the_file_the_stream_and_the_url(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor()
    file = ndjson(tmp_path, [START_MS])
    replay(door, folder, ReplayOrder(file, "s", "u"))
    ndjson(tmp_path, [START_MS, START_MS + 1])
    assert replay(door, folder, ReplayOrder(file, "s", "u", resume=True)).resumed_at == 0
    assert replay(door, folder, ReplayOrder(file, "s", "other", resume=True)).resumed_at == 0


def test_a_file_that_begins_behind_the_watermark_is_not_sent(tmp_path: Path, folder: Path) -> None:
    file = ndjson(tmp_path, [START_MS, START_MS + 5])
    behind = FakeDoor(watermark=START_MS + 1)
    with pytest.raises(
        ReplayStoppedError,
        match=r"begins at 2015-05-17T10:05:03\.000.*behind stream s.*--backfill.*--shift-to-now.*another stream",
    ):
        replay(behind, folder, ReplayOrder(file, "s", "u"))
    assert (behind.stored, behind.ended) == ([], 0)

    level = FakeDoor(watermark=START_MS)
    replay(level, folder, ReplayOrder(file, "s", "u"))
    assert len(level.stored) == 2


def test_a_clock_typo_is_named_and_nothing_is_sent(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor()
    file = ndjson(tmp_path, [START_MS, START_MS + 366 * DAY_MS, START_MS + 1])
    with pytest.raises(ReplayStoppedError, match=r"line 2: 366d ahead.*\n.*line 3: .* back"):
        replay(door, folder, ReplayOrder(file, "s", "u"))
    assert door.stored == []

    replay(door, folder, ReplayOrder(file, "s", "u", send_anyway=True))
    assert len(door.stored) == 3


def test_a_pause_of_days_is_named_and_sent(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor()
    file = ndjson(tmp_path, [START_MS, START_MS + 3 * DAY_MS])
    run = Replay(ReplayOrder(file, "s", "u"), door, folder)
    assert [str(jump).split(",")[0] for jump in run.survey().jumps] == ["line 2: 3d ahead"]
    run.send()
    assert len(door.stored) == 2


def test_a_survey_names_the_first_few_jumps_of_many() -> None:
    rows = [FileRow(n, b'{"ts":%d}' % (START_MS - n * 2 * DAY_MS)) for n in range(1, 1000)]
    survey = survey_rows(rows, EventTimes("ts").of, 0)
    assert survey.rows == 999
    assert [step.line for step in survey.falls] == [2, 3, 4, 5, 6]


def test_speed_paces_by_event_time(tmp_path: Path, folder: Path) -> None:
    door, naps = FakeDoor(), Naps()
    file = ndjson(tmp_path, [START_MS + n * 1000 for n in range(61)])
    run = Replay(ReplayOrder(file, "s", "u", speed=10), door, folder, sleep=naps.sleep, clock=naps.clock)
    run.survey()
    run.send()
    assert 5.5 <= naps.now <= 6.0, "a minute at ten times the speed"
    assert max(door.sizes) <= 3, "rows of 200 ms of real time go together"
    assert [row["n"] for row in door.stored] == list(range(61))


def test_pacing_needs_a_time_field(tmp_path: Path, folder: Path) -> None:
    file = ndjson(tmp_path, [START_MS])
    with pytest.raises(ReplayStoppedError, match="no time field to pace by"):
        Replay(ReplayOrder(file, "s", "u", speed=1), FakeDoor(time_field=None), folder)


def test_a_stream_of_arrival_time_takes_any_file(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor(time_field=None, watermark=START_MS + 10 * DAY_MS)
    replay(door, folder, ReplayOrder(ndjson(tmp_path, [START_MS]), "s", "u"))
    assert len(door.stored) == 1


def test_a_missing_file_says_so(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(StreamgaugeError, match="no such file"):
        Replay(ReplayOrder(tmp_path / "nope", "s", "u"), FakeDoor(), folder)


def test_batches_are_cut_by_bytes_as_well() -> None:
    def rows() -> Iterator[FileRow]:
        yield from (FileRow(n, b"x" * (BATCH_BYTES // 2 - 1)) for n in range(5))

    batches = list(cut_batches(rows(), 0, 100, lambda row: None, None))
    assert [len(batch.rows) for batch in batches] == [2, 2, 1]
    assert all(len(batch.body) <= BATCH_BYTES for batch in batches)
    assert [batch.first for batch in batches] == [0, 2, 4]


def test_a_row_that_is_an_array_does_not_make_its_batch_one() -> None:
    (batch,) = cut_batches([FileRow(1, b"[1]"), FileRow(2, b"[2]"), FileRow(3, b"{}")], 0, 9, lambda row: None, None)
    assert batch.body == b'"[1]"\n[2]\n{}\n'


def test_a_backfill_goes_in_behind_the_watermark_and_closes_nothing(tmp_path: Path, folder: Path) -> None:
    file = ndjson(tmp_path, [START_MS, START_MS - 3 * DAY_MS, START_MS + 5])
    live = FakeDoor(watermark=START_MS + DAY_MS)
    run = Replay(ReplayOrder(file, "s", "u", backfill=True), live, folder)

    assert run.note(run.survey()) is None
    run.send()

    assert (len(live.stored), live.backfilled, live.ended) == (3, 3, 0)


@pytest.mark.parametrize(("watermark", "said"), [(START_MS, "have reached 2015"), (None, "have reached no time yet")])
def test_a_backfill_that_reaches_ahead_of_the_stream_is_noted(
    tmp_path: Path, folder: Path, watermark: int | None, said: str
) -> None:
    run = Replay(
        ReplayOrder(ndjson(tmp_path, [START_MS + 5]), "s", "u", backfill=True), FakeDoor(watermark=watermark), folder
    )

    assert said in str(run.note(run.survey()))


def test_a_shifted_file_ends_now_and_keeps_its_distances(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor()
    file = ndjson(tmp_path, [START_MS, START_MS + 9_000, START_MS + 2_000])
    now_ms = START_MS + 400 * DAY_MS
    run = Replay(ReplayOrder(file, "s", "u", shift_to_now=True), door, folder, now_ms=lambda: now_ms)

    run.survey()
    run.send()

    assert run.shift_ms == 400 * DAY_MS - 9_000
    times = [parse_time_ms(str(row["ts"]), 0) for row in door.stored]
    assert times == [now_ms - 9_000, now_ms, now_ms - 7_000]
    assert [row["n"] for row in door.stored] == [0, 1, 2]


def test_a_shifted_file_that_still_begins_behind_is_not_sent(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor(watermark=START_MS - 1_000)
    file = ndjson(tmp_path, [START_MS - 5_000, START_MS - 3_000])
    run = Replay(ReplayOrder(file, "s", "u", shift_to_now=True), door, folder, now_ms=lambda: START_MS)

    with pytest.raises(ReplayStoppedError, match="behind stream s"):
        run.survey()


def test_a_resumed_shift_is_the_one_it_began_with(tmp_path: Path, folder: Path) -> None:
    door, order = (
        FakeDoor(),
        ReplayOrder(ndjson(tmp_path, [START_MS + n for n in range(5)]), "s", "u", batch_rows=2, shift_to_now=True),
    )
    door.kill_after = 1
    run = Replay(order, door, folder, now_ms=lambda: START_MS + DAY_MS)
    run.survey()
    with pytest.raises(Killed):
        run.send()
    door.kill_after = None

    again = Replay(replace(order, resume=True), door, folder, now_ms=lambda: START_MS + 9 * DAY_MS)
    again.survey()
    again.send()

    assert [row["n"] for row in door.stored] == list(range(5))
    assert {parse_time_ms(str(row["ts"]), 0) - row["n"] for row in door.stored} == {START_MS + DAY_MS - 4}


def test_a_resumed_backfill_stays_one(tmp_path: Path, folder: Path) -> None:
    door = FakeDoor(watermark=START_MS + DAY_MS)
    order = ReplayOrder(ndjson(tmp_path, [START_MS, START_MS]), "s", "u", batch_rows=1, backfill=True)
    door.kill_after = 1
    with pytest.raises(Killed):
        replay(door, folder, order)
    door.kill_after = None

    replay(door, folder, replace(order, resume=True, backfill=False))

    assert (door.backfilled, door.ended) == (2, 0)


def test_a_shift_rewrites_the_time_alone(tmp_path: Path) -> None:
    shifted = ShiftedTimes("ts", 1_000)
    rows = [
        (b'{"a": 1.50,"ts":"2024-01-01T00:00:00+01:00","b":{"x":[1, 2]}}', b'"2023-12-31T23:00:01.000+00:00"'),
        (b'{"ts":1431857103,"a":18446744073709551616}', b'"2015-05-17T10:05:04.000+00:00"'),
    ]
    for body, time in rows:
        found = shifted.of(FileRow(3, body)).body
        assert b'"ts":' + time in found
    assert b'"a":1.50' in shifted.of(FileRow(3, rows[0][0])).body
    assert b'{"x":[1, 2]}' in shifted.of(FileRow(3, rows[0][0])).body
    assert b"18446744073709551616" in shifted.of(FileRow(3, rows[1][0])).body
    for body in (b'{"a":1}', b"not json", b'{"ts":null}', b'{"ts":"soon"}'):
        assert shifted.of(FileRow(3, body)).body == body


def test_rows_without_an_event_time_are_neither_old_nor_shifted(tmp_path: Path, folder: Path) -> None:
    order = ReplayOrder(ndjson(tmp_path, [START_MS]), "s", "u")
    with pytest.raises(ReplayStoppedError, match="leave --backfill out"):
        Replay(replace(order, backfill=True), FakeDoor(time_field=None), folder)
    with pytest.raises(ReplayStoppedError, match="leave --shift-to-now out"):
        Replay(replace(order, shift_to_now=True), FakeDoor(time_field=None), folder)


def test_rows_read_in_another_style_are_another_replay(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ts\n01.03.2026\n")
    plain, styled = (
        ReplayState.of(tmp_path / "a.csv", "s", "u", tmp_path, how) for how in ((), ("--time-format", "%d.%m.%Y"))
    )
    assert plain.path != styled.path
    assert plain.content != styled.content  # the door would answer the second with what it said to the first
