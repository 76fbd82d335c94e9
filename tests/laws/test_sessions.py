"""Sessions fold as if each event came alone, however the log is cut into batches and wherever the table is reloaded.

The model below is plain Python, one event after the other; floats are added in its order, so sums are compared bit for
bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import sessions
from pipeline.core.accumulators import Count, Edge, FloatSum, Int64, Slots, Values
from pipeline.core.cell_fields import cell_field
from pipeline.core.cell_layout import Layout
from pipeline.core.definitions import Session
from pipeline.core.names import Int32
from pipeline.core.session_form import parse_session
from pipeline.core.session_keys import NONE
from pipeline.core.session_runs import Mask
from pipeline.core.session_walk import Walk
from pipeline.core.sessions import Arrivals, Changed, SessionTable
from tests.examples import examples
from tests.laws.logs import law
from tests.laws.session_model import Event, Lateness, in_time, sessions_of

LAYOUT = Layout.of([Count(None), FloatSum("v"), Edge("v", "first", "<f8"), Edge("word", "last", "O")])
VALUES = [0.1, 0.2, 0.3, 1e16, -1e16, -0.0, 1.0]
many = settings(law, max_examples=examples(70, whole=400))


@pytest.fixture(autouse=True)
def few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys without a session are forgotten often."""
    monkeypatch.setattr(sessions, "_FEW_KEYS", 1)
    monkeypatch.setattr(sessions, "_MOST_KEYS", 1)


def modelled(log: Sequence[Event], window: Session) -> dict[tuple[bytes, int], Any]:
    return {
        (cell_field([key])[2:], s.first): (
            s.last,
            sorted(s.forebears),
            s.n,
            np.float64(s.total).tobytes(),
            min(s.events, key=lambda e: (e.time_ms, e.position)).v,
            max(s.events, key=lambda e: (e.time_ms, e.position)).word,
        )
        for key, found in sessions_of(log, window).items()
        for s in found
    }


@dataclass(slots=True)
class Stored:
    """What the commits wrote, and a table that is as of the last one."""

    window: Session
    table: SessionTable = field(init=False)
    fields: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = SessionTable(LAYOUT, self.window)

    def fold(self, batch: Sequence[Event]) -> Changed:
        changed = fold(self.table, batch)
        assert len(set(changed.slots.tolist())) == len(changed.slots)
        fields = self.table.fields(changed.slots)
        assert not set(fields) & set(changed.gone)
        for gone in changed.gone:
            self.fields.pop(gone, None)
        self.fields |= dict(zip(fields, self.table.packed(changed.slots), strict=True))
        return changed

    def reload(self) -> None:
        self.table = SessionTable(LAYOUT, self.window)
        self.table.load(self.fields)

    def sessions(self) -> dict[tuple[bytes, int], Any]:
        return {
            (each.group, each.first): (each.last, sorted(each.forebears), *values(each.cell))
            for each in (parse_session(name, value) for name, value in self.fields.items())
        }


def values(cell: bytes) -> tuple[Any, ...]:
    columns = LAYOUT.unpack([cell])
    return (
        int(columns["n(*)"][0]),
        columns["sum(v)"][:1].tobytes(),
        float(columns["first(v).value"][0]),
        columns["last(word).value"][0],
    )


def fold(table: SessionTable, batch: Sequence[Event]) -> Changed:
    window_ms = [table.slice_of(event.time_ms) for event in batch]
    keys = [(pane, cell_field([event.key])) for pane, event in zip(window_ms, batch, strict=True)]
    distinct = list(dict.fromkeys(keys))
    key_of = np.array([distinct.index(key) for key in keys], dtype=np.intp)
    times_ms = int64(event.time_ms for event in batch)
    positions = int64(event.position for event in batch)
    v = np.array([event.v for event in batch], dtype=np.float64)
    words = np.array([event.word for event in batch], dtype=object)

    def fold_values(rows: Slots | None, slots: Slots) -> None:
        among: Any = slice(None) if rows is None else rows
        for part in LAYOUT.accumulators:
            column = words if part.field == "word" else v
            new = Values(slots, column[among], times_ms[among], np.zeros_like(times_ms)[among], positions[among])
            part.fold(table.columns, new)

    watermarks_ms = int64(event.watermark_ms for event in batch)
    return table.fold(Arrivals.of(distinct, key_of, times_ms, watermarks_ms, table.window), fold_values)


def int64(numbers: Iterator[int]) -> Int64:
    return np.fromiter(numbers, dtype=np.int64)


keys_of_events = st.sampled_from(["a", "a", "b", "c", None])
floats = st.sampled_from(VALUES)
any_time = st.builds(Event, keys_of_events, st.integers(-60, 60), floats)
close_by = st.builds(Event, keys_of_events, st.integers(-12, 12), floats)
logs = st.lists(any_time, max_size=40) | st.lists(close_by, max_size=25)


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Many events of few keys while time goes on, some of them behind: every way for sessions to meet."""
    random = Random(draw(st.integers(0, 2**40)))  # hypothesis' own choices are too tame to meet every case
    n, pace, behind = random.randrange(5, 60), random.choice([1, 3, 8]), random.choice([4, 12, 30])
    weird, now, log = random.choice([0.0, 0.2, 0.6]), -70, []
    for _ in range(n):
        now += random.randrange(pace + 1)
        time_ms = now - (random.randrange(behind) if random.random() < weird else 0)
        log.append(Event(random.choice(["a", "b"]), time_ms, random.choice(VALUES)))
    return log


windows = st.builds(Session, st.integers(1, 8), st.sampled_from([None, None, 10, 16, 50]))
cuts = st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=20)
lateness = st.builds(Lateness, st.sampled_from([0, 2, 12]), st.sampled_from([0, 0, 5, 1_000]))


def batches(log: Sequence[Event], cuts: Sequence[tuple[int, bool]]) -> Iterator[tuple[Sequence[Event], bool]]:
    at = 0
    for size, reload in cuts:
        yield log[at : at + size], reload
        at += size
    yield log[at:], False


@many
@given(log=logs | streams(), window=windows, cuts=cuts, late=lateness)
def test_any_cut_and_any_reload_gives_what_events_alone_give(
    log: list[Event], window: Session, cuts: list[tuple[int, bool]], late: Lateness
) -> None:
    log = in_time(log, window, late)
    stored = Stored(window)

    for batch, reload in batches(log, cuts):
        stored.fold(batch)
        if reload:
            stored.reload()

    assert stored.sessions() == modelled(log, window)
    assert len(stored.table) == len(stored.fields)


@many
@given(log=logs | streams(), window=windows, cuts=cuts, late=lateness)
def test_column_wise_and_event_by_event_give_the_same_bytes(
    log: list[Event], window: Session, cuts: list[tuple[int, bool]], late: Lateness
) -> None:
    log = in_time(log, window, late)
    both, walked = Stored(window), Stored(window)
    walked.table._is_plain = lambda runs, *_: np.zeros(len(runs.heads), dtype=np.bool_)  # type: ignore[method-assign]

    for batch, _ in batches(log, cuts):
        both.fold(batch)
        walked.fold(batch)

    assert both.fields == walked.fields


@many
@given(log=streams(), window=windows, cuts=cuts, late=lateness)
def test_final_sessions_may_be_forgotten_at_any_time(
    log: list[Event], window: Session, cuts: list[tuple[int, bool]], late: Lateness
) -> None:
    log = in_time(log, window, late)
    stored, forgotten = Stored(window), {}

    for batch, reload in batches(log, cuts):
        stored.fold(batch)
        if not reload or not batch:
            continue
        final = stored.table.final(batch[-1].watermark_ms, late.allowed_ms)
        for name in stored.table.fields(final):
            forgotten[name] = stored.fields.pop(name)
        stored.table.drop(final)

    assert not forgotten.keys() & stored.fields.keys()
    assert len(stored.table) == len(stored.fields)
    stored.table.drop(np.flatnonzero(stored.table.live))
    assert (stored.table._keys.heads == NONE).all()
    stored.fields |= forgotten
    assert stored.sessions() == modelled(log, window)


@many
@given(log=logs | streams(), window=windows, cuts=cuts, late=lateness)
def test_what_is_closed_is_what_ended_and_is_not_published(
    log: list[Event], window: Session, cuts: list[tuple[int, bool]], late: Lateness
) -> None:
    log = in_time(log, window, late)
    stored = Stored(window)
    published: dict[bytes, bytes] = {}

    for batch, _ in batches(log, cuts):
        changed = stored.fold(batch)
        names = stored.table.fields(changed.slots)
        published = {n: v for n, v in published.items() if n not in names and n not in changed.gone}
        if not batch:
            continue
        watermark_ms = batch[-1].watermark_ms
        found = stored.table.closed(watermark_ms)
        ended = {
            name
            for name, value in stored.fields.items()
            if parse_session(name, value).last + window.gap_ms <= watermark_ms
        }
        assert set(stored.table.fields(found)) == ended - published.keys()
        stored.table.published[found] = True
        published |= {name: stored.fields[name] for name in ended}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_merge_keeps_the_forebears_of_both(reverse: bool) -> None:
    stored = Stored(Session(10))
    early = [Event("a", 0, 1.0), Event("a", 30, 1.0, 1)]
    late = [Event("a", 5, 1.0, 2, 20), Event("a", 35, 1.0, 3, 50)]
    bridge = [Event("a", 15, 1.0, 4, 50), Event("a", 25, 1.0, 5, 50)]

    for batch in (early, late[::-1] if reverse else late, bridge):
        stored.fold(batch)

    [value] = stored.fields.values()
    spans = {(0, 0), (30, 30), (0, 5), (30, 35), (0, 15)}
    assert set(parse_session(b'0 ["a"]', value).forebears) == spans


def test_most_keys_are_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The column-wise way must take what streams look like, or nothing would notice that it never does."""
    walked: list[int] = []
    walk = SessionTable._walk

    def counting(
        self: SessionTable, new: Arrivals, numbers: Int32, mask: Mask, slots: Slots, into: Walk
    ) -> tuple[Slots, list[bytes]]:
        walked.append(int(mask.sum()))
        return walk(self, new, numbers, mask, slots, into)

    monkeypatch.setattr(sessions.SessionTable, "_walk", counting)
    stored = Stored(Session(30_000))
    generator = np.random.default_rng(7)
    n = 3_000
    times = np.sort(generator.integers(0, 3_600_000, n)) - generator.integers(0, 12, n)  # disordered by 12 ms
    log = [Event(f"u{generator.integers(200)}", int(time_ms), 1.0) for time_ms in times]
    for at in range(0, n, 500):
        stored.fold(in_time(log, Session(30_000), Lateness(12, 0))[at : at + 500])

    assert stored.sessions() == modelled(in_time(log, Session(30_000), Lateness(12, 0)), Session(30_000))
    assert sum(walked) == 0


@pytest.mark.parametrize(("name", "value"), [(b'5 ["a"]', b"short"), (b'5 ["a"]', b"\0" * 8 + b"\1\0\0\0" + b"\0" * 9)])
def test_a_damaged_session_is_refused(name: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match=r"has 5 bytes|cut off after 21 bytes"):
        parse_session(name, value)
