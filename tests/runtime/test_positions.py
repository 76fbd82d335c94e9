"""A group's place in the door's count: rows past the door, a log that begins late, events that never came."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from pipeline.core.entries import Chunk, Entry, Row, Tick
from pipeline.rim.commit import Checkpoint
from pipeline.runtime.positions import position_after


def chunk(seq: int, n: int) -> Chunk:
    return Chunk(b"1-0", n, seq + n, 0, 5_000, b"ndjson", b"")


GROUP = "m@1"
ROW = Row(b"2-0", 6_000, {})
TICK = Tick(b"3-0", 7_000, 7_000)


def after(before: Checkpoint, *entries: Entry) -> Checkpoint:
    """The checkpoint after one commit, as the runner writes it."""
    where = position_after(before, entries, GROUP)
    read = sum(e.n if isinstance(e, Chunk) else isinstance(e, Row) for e in entries)
    return replace(
        before,
        cursor=b"9-0",
        commit=before.commit + 1,
        position=where.position,
        arrival_ms=where.arrival_ms,
        offset=where.offset,
        missing=where.missing,
        read=before.read + read,
    )


def test_the_drawing_of_the_module() -> None:
    end = after(Checkpoint(), chunk(0, 3), ROW, ROW, chunk(4, 2), chunk(9, 1))
    assert (end.position, end.read, end.offset, end.missing) == (10, 8, 2, 3)


def test_what_passed_the_door_leaves_no_offset() -> None:
    end = after(Checkpoint(), chunk(0, 3), ROW, TICK, chunk(4, 2))
    assert (end.position, end.read, end.offset, end.missing) == (6, 6, 0, 0)
    assert end.arrival_ms == 5_000


def test_a_group_that_begins_after_a_trim_takes_its_place_from_the_first_chunk() -> None:
    begun = Checkpoint(cursor=b"0-7")
    first = after(begun, ROW)
    assert (first.position, first.read, first.offset, first.missing) == (1, 1, None, 0)
    second = after(first, chunk(101, 4))
    assert (second.position, second.read, second.offset, second.missing) == (105, 5, 100, 0)


def test_a_checkpoint_of_a_version_without_offsets_takes_its_place_from_the_next_chunk() -> None:
    old = Checkpoint(cursor=b"5-0", commit=9, position=50, read=53)
    assert after(old, ROW).offset is None
    end = after(old, chunk(50, 2))
    assert (end.position, end.read, end.offset, end.missing) == (52, 55, -3, 0)


def test_position_is_read_plus_offset_however_the_log_is_cut() -> None:
    """300 random logs with rows past the door and lost chunks, in batches of random sizes."""
    for seed in range(300):
        random = Random(seed)
        entries: list[Entry] = []
        stored = lost = 0
        for _ in range(random.randrange(1, 20)):
            match random.choice(("chunk", "row", "foreign", "lost", "tick")):
                case "chunk":
                    n = random.randrange(1, 5)
                    entries.append(chunk(stored, n))
                    stored += n
                case "row":
                    entries.append(ROW)
                    stored += 1
                case "foreign":
                    entries.append(ROW)
                case "lost":
                    stored, lost = stored + 2, lost + 2
                case "tick":
                    entries.append(TICK)
        whole = after(Checkpoint(), *entries)
        state, rest = Checkpoint(), entries
        while rest:
            size = random.randrange(1, 4)
            state, rest = after(state, *rest[:size]), rest[size:]
            assert state.offset is not None
            assert state.position == state.read + state.offset
        assert (whole.position, whole.offset, whole.missing) == (
            state.position if entries else 0,
            state.offset if entries else 0,
            state.missing,
        )
        assert state.missing <= lost, "a row past the door may hide a lost event, never the other way round"


def test_what_was_replayed_for_another_group_is_stored_and_not_read_and_not_missing() -> None:
    foreign = replace(chunk(3, 4), only="other@1", backfill=True)
    where = position_after(Checkpoint(), [chunk(0, 3), foreign, chunk(7, 1)], GROUP)

    assert (where.position, where.offset, where.missing) == (8, 4, 0)


def test_old_data_is_no_sign_of_life() -> None:
    old = replace(chunk(3, 4), arrival_ms=9_000, backfill=True)

    assert position_after(Checkpoint(), [chunk(0, 3), old], GROUP).arrival_ms == 5_000
