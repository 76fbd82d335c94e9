"""Replay: each row once and in order through crashes, after a look at where the file begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.definitions import DAY_MS
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
from pipeline.runtime.replay_files import EventTimes, FileRow
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
        self.kill_after: int | None = None

    def stream(self, name: str) -> StreamView:
        return self.view

    def post_rows(self, stream: str, body: bytes, count: int, key: str) -> SendResult:
        lines = body.splitlines()
        assert len(lines) == count
        if key not in self.keys:
            self.stored += [json.loads(line) for line in lines]
            self.sizes.append(count)
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
        ReplayStoppedError, match=r"begins at 2015-05-17T10:05:03\.000.*behind stream s.*another stream"
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
