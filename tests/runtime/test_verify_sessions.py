"""`verify` of session metrics: all equal when all is, and what somebody changed by hand is found, wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.core.definitions import DAY_MS, Aggregate, Config
from pipeline.core.session_form import parse_session
from pipeline.rim import keys, session_store, store
from pipeline.rim.expiry import Kept, expire_results
from pipeline.rim.scripts import Scripts
from pipeline.rim.session_store import PublishedSession
from pipeline.rim.trim import trim_stream
from pipeline.runtime.closer import Pass
from pipeline.runtime.stage_groups import groups_of
from pipeline.runtime.verify import verify
from pipeline.runtime.verify_report import Difference, MetricReport, report_json, report_lines
from pipeline.runtime.worker import Worker
from tests.clicks import CONFIG, METRICS, PARTITIONS, STREAM, USERS, clicks, filled_with_sessions, partition, send
from tests.line import Line, chunk_fields
from tests.servers import RunningServer, wait_for
from tests.visits import BASE_MS

METRIC = "stays"


def reports(line: Line, *names: str, config: Config = CONFIG) -> dict[str, MetricReport]:
    return {report.metric: report for report in verify(line.client, config, names)}


def differences(line: Line, metric: str = METRIC) -> list[Difference]:
    [report] = reports(line, metric).values()
    assert report.n_differences == len(report.differences)
    return report.differences


def rows(line: Line, state: str, metric: str = METRIC) -> list[PublishedSession]:
    """The published rows in a state."""
    version = line.programs[metric].version
    buckets = session_store.buckets(line.client, metric, version)
    found = session_store.published_sessions(line.client, metric, version, buckets)
    return [row for row in found if row.state == state]


def place(line: Line, row: PublishedSession, metric: str = METRIC) -> tuple[str, bytes]:
    """The key and field of a published row."""
    program = line.programs[metric]
    bucket = session_store.bucket_of(program.window, row.first)  # type: ignore[arg-type]
    field = session_store.session_field(row.first, row.last, row.group)
    return keys.session_rows(metric, program.version, bucket), field


def value(row: PublishedSession, **changed: Any) -> bytes:
    row = replace(row, **changed)
    head = f"{row.state} {row.revision} {row.published_ms} {row.partition} "
    return head.encode() + row.cell


def count_up(cell: bytes) -> bytes:
    """The first 8 bytes behind the format byte are the count."""
    return cell[:1] + (int.from_bytes(cell[1:9], "little") + 1).to_bytes(8, "little") + cell[9:]


def span(row: PublishedSession, gap_ms: int = 1_500) -> tuple[int, int]:
    return row.first, row.last + gap_ms


def live_key(line: Line, number: int) -> str:
    return keys.live_sessions("clicks", number, line.programs[METRIC].group)


def live(line: Line) -> Iterator[tuple[int, bytes, bytes]]:
    """(partition, field, value) of the live sessions."""
    for number in range(PARTITIONS):
        stored = session_store.live_sessions(line.client, "clicks", number, line.programs[METRIC].group)
        yield from ((number, name, value) for name, value in sorted(stored.items()))


def test_everything_that_is_kept_of_sessions_is_equal(server: RunningServer) -> None:
    line = filled_with_sessions(server)

    found = reports(line)

    assert list(found) == list(METRICS)
    for metric, report in found.items():
        assert report.differences == []
        assert (report.unchecked, report.pending, report.expired, report.moved, report.not_checkable) == (None,) + (
            0,
        ) * 4
        assert report.events == 602
        assert report.windows == report.groups == len(line.rows(metric, state="final")) > 30
        assert report.live_sessions == sum(
            len(session_store.live_sessions(line.client, "clicks", n, line.programs[metric].group))
            for n in range(PARTITIONS)
        )
    assert found[METRIC].live_sessions > 5
    assert len(rows(line, "retracted")) > 10, "late events merged and extended what was published"
    assert len(line.late(METRIC)) > 3
    said = next(report_lines(list(found.values())))
    assert said.startswith("all equal: ")
    assert f"{sum(each.live_sessions for each in found.values())} live sessions, " in said
    assert json.loads(json.dumps(report_json(list(found.values()))))["total"]["live_sessions"] > 5


def test_when_all_is_final_every_session_is_compared_and_none_is_live(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    line.end("clicks", BASE_MS + 300_000)
    line.settle()

    for metric, report in reports(line).items():
        assert (report.differences, report.live_sessions, report.pending) == ([], 0, 0)
        assert report.windows == len(line.rows(metric)) == len(rows(line, "closed", metric))


def test_a_value_of_a_published_session_that_was_changed_by_hand_is_found_and_named(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    row = next(row for row in rows(line, "closed") if row.last < BASE_MS + 60_000)
    line.client.execute_command("HSET", *place(line, row), value(row, cell=count_up(row.cell)))

    [found] = differences(line)

    assert (found.metric, found.where, found.window, found.group, found.field, found.partition) == (
        METRIC,
        "result",
        span(row),
        row.group.decode(),
        "views",
        row.partition,
    )
    assert found.stored == found.recomputed + 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda line, key, field, row: line.client.execute_command("HDEL", key, field),
            [("window", None, "published")],
        ),
        (
            lambda line, key, field, row: line.client.execute_command(
                "HSET", key, field, value(row, state="retracted")
            ),
            [("state", "retracted", "closed")],
        ),
        (
            lambda line, key, field, row: line.client.execute_command("HSET", key, field, value(row, state="close")),
            [("state", "close", "closed")],
        ),
        (
            lambda line, key, field, row: line.client.execute_command("HSET", key, field, value(row, partition=7)),
            [("window", "closed", None), ("window", None, "published")],
        ),
    ],
)
def test_a_result_that_is_gone_or_stands_otherwise_is_found(
    server: RunningServer, change: Callable[..., object], said: list[tuple[Any, ...]]
) -> None:
    line = filled_with_sessions(server)
    row = next(row for row in rows(line, "closed") if row.last < BASE_MS + 60_000)
    change(line, *place(line, row), row)

    found = differences(line)

    assert {(each.where, each.window, each.group) for each in found} == {("result", span(row), row.group.decode())}
    assert [(each.field, each.stored, each.recomputed) for each in found] == said


def test_a_bucket_of_results_that_is_gone_is_found_session_by_session(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    row = next(row for row in rows(line, "closed") if row.last < BASE_MS + 60_000)
    key, _ = place(line, row)
    gone = [each for each in rows(line, "closed") if place(line, each)[0] == key]
    line.client.execute_command("DEL", key)

    found = differences(line)

    assert {(each.window, each.group) for each in found} == {(span(row), row.group.decode()) for row in gone}


@pytest.mark.parametrize("state", ["closed", "retracted"])
def test_a_result_that_the_log_does_not_have_is_found(server: RunningServer, state: str) -> None:
    line = filled_with_sessions(server)
    row = next(row for row in rows(line, "closed") if row.last < BASE_MS + 60_000)
    more = replace(row, first=row.first + 1, state=state)
    line.client.execute_command("HSET", *place(line, more), value(more))

    [found] = differences(line)

    assert (found.where, found.window, found.group) == ("result", span(more), row.group.decode())
    assert (found.field, found.stored, found.recomputed) == ("window", state, None)


def test_a_result_in_the_hash_of_another_time_and_one_that_cannot_be_read_are_found(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    row, *_, other = [row for row in rows(line, "closed") if row.last < BASE_MS + 60_000]
    key, _ = place(line, other)
    line.client.execute_command("HSET", key, place(line, row)[1], value(row))
    line.client.execute_command("HSET", key, "nonsense", "nothing")

    found = differences(line)

    assert {(each.where, each.field, each.window) for each in found} == {
        ("result", "window", span(row)),
        ("result", "row", None),
    }


def test_a_retracted_session_that_stands_as_a_result_again_is_found(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    final = BASE_MS + 60_000
    row = next(row for row in rows(line, "retracted") if row.last < final)
    line.client.execute_command("HSET", *place(line, row), value(row, state="closed"))

    [found] = differences(line)

    assert (found.where, found.window, found.group) == ("result", span(row), row.group.decode())
    assert (found.field, found.stored, found.recomputed) == ("state", "closed", "retracted")


def set_live(line: Line, change: Callable[[bytes], bytes]) -> tuple[int, bytes]:
    """Change one live session as redis-cli does; return its partition and field."""
    number, name, stored = next(live(line))
    line.client.execute_command("HSET", live_key(line, number), name, change(stored))
    return number, name


def header_apart(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change the cell of a live session, which stands behind its last event and earlier forms."""

    def changed(stored: bytes) -> bytes:
        at = len(stored) - len(parse_session(b"0 []", stored).cell)
        return stored[:at] + change(stored[at:])

    return changed


def a_day_later(stored: bytes) -> bytes:
    return (int.from_bytes(stored[:8], "little") + DAY_MS).to_bytes(8, "little") + stored[8:]


def with_a_form(stored: bytes) -> bytes:
    number = int.from_bytes(stored[8:12], "little") + 1
    return stored[:8] + number.to_bytes(4, "little") + (7).to_bytes(8, "little") * 2 + stored[12:]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (header_apart(count_up), "views"),
        (a_day_later, "last"),
        (with_a_form, "earlier forms"),
        (lambda stored: b"nonsense", "session"),
        (header_apart(lambda cell: b"nonsense"), "cell"),
    ],
)
def test_a_live_session_that_was_changed_by_hand_is_found_and_named(
    server: RunningServer, change: Callable[[bytes], bytes], field: str
) -> None:
    line = filled_with_sessions(server)
    number, name = set_live(line, change)

    [found] = differences(line)

    assert (found.where, found.field, found.partition) == ("session", field, number)
    if field != "session":
        assert found.window is not None
        assert f"{found.window[0]} {found.group}".encode() == name


def test_a_live_session_that_is_gone_or_too_many_is_found(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    (number, name, stored), *_ = live(line)
    line.client.execute_command("HDEL", live_key(line, number), name)
    line.client.execute_command("HSET", live_key(line, number), b'%d ["eve"]' % (BASE_MS + 170_000), stored)

    found = differences(line)

    assert [(each.where, each.field, each.partition) for each in found] == [("session", "group", number)] * 2
    gone, more = sorted(found, key=lambda each: each.stored is not None)
    assert gone.stored is None
    assert gone.recomputed["views"] > 0
    assert (more.group, more.recomputed) == ('["eve"]', None)


def test_books_time_late_rows_and_dead_letters_of_sessions_are_compared(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    number = partition(USERS[0])
    group = line.programs[METRIC].group
    checkpoint = keys.checkpoint("clicks", number, group)
    line.client.execute_command("HINCRBY", checkpoint, "accepted", 1)
    late, dead = keys.late("clicks", number, group), keys.dead("clicks", number, group)
    line.client.execute_command("XDEL", late, line.client.xrange(late, count=1)[0][0])  # type: ignore[index]
    line.client.execute_command("DEL", dead)

    found = [(each.where, each.field) for each in differences(line)]

    assert ("ledger", "accepted") in found
    assert [where for where, _ in found] == ["ledger", "late", "dead"]


Call = Callable[..., Any]


def interrupted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, meanwhile: Callable[[], object]) -> None:
    """Before each call of a module's function, and before its answer is looked at, something else happens."""
    own: Call = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        with monkeypatch.context() as undisturbed:
            undisturbed.setattr(module, name, own)
            meanwhile()
            found = own(*arguments, **named)
            meanwhile()
        return found

    monkeypatch.setattr(module, name, call)


LOOKS = [
    (store, "load_checkpoints"),
    (session_store, "accounts"),
    (session_store, "buckets"),
    (session_store, "live_sessions"),
]


@pytest.mark.parametrize(("module", "name"), LOOKS)
def test_verify_is_safe_while_the_pipeline_goes_on_between_any_two_of_its_looks(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    line = filled_with_sessions(server)
    worker = line.worker()
    later = iter(row | {"ts": row["ts"] + 150_000} for row in clicks(900, seed=9))

    def goes_on() -> None:
        send(line, [next(later) for _ in range(25)])
        line.settle(worker)

    interrupted(monkeypatch, module, name, goes_on)
    for _ in range(3):
        [report] = reports(line, METRIC).values()
        assert (report.differences, report.not_checkable) == ([], 0)
        assert report.windows > 50
    assert report.moved > 0
    assert report.live_sessions > 0


def test_a_live_session_that_commits_do_not_touch_is_compared_while_others_change(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = filled_with_sessions(server)
    number, name = set_live(line, header_apart(count_up))
    user = json.loads(name.partition(b" ")[2])[0]
    other = next(each for each in USERS if partition(each) == number and each != user)
    worker = line.worker()

    def goes_on() -> None:
        send(line, [{"ts": BASE_MS + 164_000, "user": other}])
        line.settle(worker)

    interrupted(monkeypatch, session_store, "live_sessions", goes_on)
    [report] = reports(line, METRIC).values()

    assert report.moved > 0
    assert [(each.where, each.field) for each in report.differences] == [("session", "views")]


def test_a_session_that_came_and_became_another_between_two_looks_is_no_difference(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen in the hash, and is neither where the twin was nor where it goes on to, however it cuts the log."""
    line = filled_with_sessions(server)
    worker = line.worker()
    times = iter(BASE_MS + 168_000 + number * 4_000 - back for number in range(9) for back in (0, 1_000))

    def goes_on() -> None:
        send(line, [{"ts": next(times), "user": USERS[0]}])
        line.settle(worker)

    interrupted(monkeypatch, session_store, "live_sessions", goes_on)
    [report] = reports(line, METRIC).values()

    assert report.differences == []
    assert report.moved > 1


def final_and_not_published(line: Line, worker: Worker, monkeypatch: pytest.MonkeyPatch, *, after_ms: int = 0) -> None:
    """The worker commits sessions that are final, and does not come to publishing them."""
    send(line, [row | {"ts": row["ts"] + after_ms} for row in clicks(100)])
    for number in range(PARTITIONS):
        line.tick("clicks", BASE_MS + after_ms + 300_000, partition=number)
    with monkeypatch.context() as busy:
        busy.setattr(Worker, "close_sessions", lambda *arguments: Pass(0, more=False))
        line.settle(worker)


def test_final_sessions_still_to_be_published_are_counted_and_are_no_difference(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(CONFIG, server)
    worker, published = line.worker(), 0
    for after_ms in (0, 400_000):  # when the closer has said nothing yet, and when it said how far it was
        final_and_not_published(line, worker, monkeypatch, after_ms=after_ms)
        [report] = reports(line, METRIC).values()
        assert (report.differences, report.windows) == ([], published)
        assert report.pending > 5

        line.settle(worker)
        [again] = reports(line, METRIC).values()
        assert (again.differences, again.pending, again.windows) == ([], 0, published + report.pending)
        published = again.windows


@pytest.mark.parametrize(("module", "name"), LOOKS)
def test_sessions_that_are_published_between_any_two_looks_are_no_difference(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    line = Line(CONFIG, server)
    worker = line.worker()
    final_and_not_published(line, worker, monkeypatch)

    interrupted(monkeypatch, module, name, lambda: line.settle(worker))
    [report] = reports(line, METRIC).values()

    assert report.differences == []
    assert len(rows(line, "closed")) > 20


def test_sessions_wait_for_the_slowest_partition_and_are_not_missing_meanwhile(server: RunningServer) -> None:
    line = Line(CONFIG, server)
    fast = [row for row in clicks(300) if partition(row["user"]) == 0]
    line.chunk("clicks", fast, times_ms=[row["ts"] for row in fast])
    line.tick("clicks", BASE_MS + 300_000)
    line.settle()

    [report] = reports(line, METRIC).values()

    assert (report.differences, report.pending, report.windows) == ([], 0, 0)
    assert report.live_sessions == len(list(live(line))) > 5


def test_sessions_that_another_partition_let_go_meanwhile_are_no_difference(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(CONFIG, server)
    fast = [row for row in clicks(300) if partition(row["user"]) == 0]
    line.chunk("clicks", fast, times_ms=[row["ts"] for row in fast])
    line.tick("clicks", BASE_MS + 300_000)
    line.tick("clicks", BASE_MS - 100_000, partition=1)
    worker = line.worker()
    line.settle(worker)
    assert rows(line, "closed") == []

    def goes_on() -> None:
        line.tick("clicks", BASE_MS + 300_000, partition=1)
        line.settle(worker)

    interrupted(monkeypatch, session_store, "accounts", goes_on)
    [report] = reports(line, METRIC).values()

    assert (report.differences, report.pending, report.windows) == ([], 0, 0)
    assert len(rows(line, "closed")) > 5


def test_after_a_trim_whole_sessions_are_compared_and_the_others_are_counted(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    stream = replace(STREAM, retention_ms=1)
    trim_stream(server.client, Scripts(server.client), stream, groups_of(CONFIG, "clicks"), 2**61)
    more = [row | {"ts": row["ts"] + 200_000} for row in clicks(300, seed=2)]
    for at in range(0, len(more), 50):
        send(line, more[at : at + 50])
        line.settle()
    for number in range(PARTITIONS):
        line.tick("clicks", BASE_MS + 600_000, partition=number)
    line.settle()

    for report in reports(line).values():
        assert (report.differences, report.pending, report.events) == ([], 0, 300)
        assert report.not_checkable > 20
        assert report.windows > 20

    newest = max(rows(line, "closed"), key=lambda row: row.first)
    line.client.execute_command("HDEL", *place(line, newest))
    assert [each.window for each in differences(line)] == [span(newest)]
    said = list(report_lines(list(reports(line).values())))
    assert any("lost events to a trim of the log" in line for line in said)


def test_sessions_that_a_trim_cut_in_two_are_not_compared_live_or_published(server: RunningServer) -> None:
    line, events = Line(CONFIG, server), clicks(600)
    stream = replace(STREAM, retention_ms=1)
    for at in range(0, len(events), 40):
        send(line, events[at : at + 40])
        line.settle()
        if at in (200, 400):
            trim_stream(server.client, Scripts(server.client), stream, groups_of(CONFIG, "clicks"), 2**61)
            for metric, report in reports(line).items():
                assert (report.differences, report.pending, report.windows) == ([], 0, 0), metric
                assert report.not_checkable > 10
    assert {report.n_differences for report in reports(line).values()} == {0}
    line.end("clicks", BASE_MS + 300_000)
    line.settle()

    for metric, report in reports(line).items():
        assert (report.differences, report.pending) == ([], 0), metric
        assert report.not_checkable > 20
        assert report.windows > 10
        assert report.windows + report.not_checkable == len(rows(line, "closed", metric))


def test_expired_sessions_are_counted_and_are_no_difference(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    line.end("clicks", BASE_MS + 300_000)
    line.settle()
    whole = len(rows(line, "closed"))
    stage = CONFIG.stages[METRIC]
    assert isinstance(stage, Aggregate)
    kept = Kept(STREAM, stage, line.programs[METRIC].version)
    expire_results(line.client, Scripts(line.client), kept, 0, store.redis_time_ms(line.client) + 1)
    assert rows(line, "closed") == []
    short = Config(CONFIG.streams, {**CONFIG.stages, METRIC: replace(stage, retention_ms=0)})

    [gone] = reports(line, METRIC, config=short).values()
    [early] = reports(line, METRIC).values()

    assert (gone.n_differences, gone.windows, gone.expired) == (0, 0, whole)
    assert early.n_differences == whole, "with a day of retention nothing can have expired"


def test_old_data_joins_live_sessions_and_is_late_for_the_others_here_too(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    late = sum(len(line.late(METRIC, number)) for number in range(PARTITIONS))
    old = [row for row in clicks(120, seed=5) if partition(row["user"]) == 0]
    old += [row | {"ts": row["ts"] + 150_000} for row in old]
    fields = chunk_fields(old, [row["ts"] for row in old], position=1_000, at_ms=store.redis_time_ms(line.client))
    line.entry("clicks", fields | {"mode": "backfill"})
    line.entry("clicks", fields | {"mode": "backfill", "only": line.programs[METRIC].group})
    line.settle()
    assert sum(len(line.late(METRIC, number)) for number in range(PARTITIONS)) > late
    checkpoint = store.load_checkpoint(line.client, "clicks", 0, line.programs[METRIC].group)
    assert checkpoint.backfilled > 0
    assert checkpoint.replayed > 0

    for report in reports(line).values():
        assert (report.differences, report.pending, report.old_data) == ([], 0, 0)


def test_a_torn_partition_is_said_not_to_be_checked_and_a_rebuilt_one_is_equal(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    program = line.programs[METRIC]
    line.client.execute_command("HSET", keys.checkpoint("clicks", 1, program.group), "torn", "1")
    [report] = reports(line, METRIC).values()
    assert report.unchecked is not None
    assert "partition 1 waits to be rebuilt" in report.unchecked

    worker = line.worker("another")
    checkpoint = keys.checkpoint("clicks", 1, program.group)
    send(line, clicks(1))

    def rebuilt() -> bool:
        worker.poll_once()
        return line.client.execute_command("HGET", checkpoint, "torn") is None

    wait_for(rebuilt, "the torn partition to be rebuilt")
    line.settle(worker)

    [report] = reports(line, METRIC).values()
    assert (report.unchecked, report.differences, report.pending) == (None, [], 0)
    assert report.windows > 30
