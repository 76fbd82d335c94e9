"""Live sessions in blocks: whatever changes, merges, is settled and is loaded again, each is there once, as it is now.

The sizes are small here, so that a few sessions fill, outdate, rewrite and delete many blocks.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import blocks, session_blocks
from pipeline.core.accumulators import Count, Slots
from pipeline.core.cell_fields import cell_field
from pipeline.core.cell_layout import Layout
from pipeline.core.cells import PaneChange
from pipeline.core.definitions import Session
from pipeline.core.session_blocks import SessionBlocks, StoredSessions, live_sessions
from pipeline.core.session_form import parse_session
from pipeline.core.sessions import Arrivals, SessionTable
from tests.laws.logs import law

LAYOUT, WINDOW = Layout.of([Count(None)]), Session(10)
Batch = list[tuple[int, int]]  # user, time
Step = tuple[
    Batch, int, bool
]  # events, how many of the oldest sessions are settled, and whether another worker goes on


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_CELLS", 3)
    monkeypatch.setattr(session_blocks, "BLOCK_FROM", 3)
    monkeypatch.setattr(session_blocks, "MAX_SINGLES", 4)
    monkeypatch.setattr(session_blocks, "MAX_REWRITTEN", 5)


def arrived(batch: Batch) -> Arrivals:
    keys = [(0, cell_field([f"u{user}"])) for user, _ in batch]
    distinct = list(dict.fromkeys(keys))
    key_of = np.array([distinct.index(key) for key in keys], dtype=np.intp)
    times = np.array([time for _, time in batch], dtype=np.int64)
    return Arrivals.of(distinct, key_of, times, np.zeros_like(times), WINDOW)


def written(stored: dict[bytes, bytes], change: PaneChange) -> None:
    assert change.gone <= stored.keys(), "what is deleted is there"
    assert not change.gone & change.cells.keys()
    stored |= change.cells
    for name in change.gone:
        del stored[name]


def present(table: SessionTable) -> dict[bytes, bytes]:
    slots = np.flatnonzero(table.live)
    return dict(zip(table.fields(slots), table.packed(slots), strict=True))


events = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 200)), max_size=12)


@law
@given(steps=st.lists(st.tuples(events, st.integers(0, 4), st.booleans()), max_size=12))
def test_the_hash_is_the_table_after_every_commit_and_every_settling(steps: list[Step]) -> None:
    table, homes, stored = SessionTable(LAYOUT, WINDOW), SessionBlocks(), dict[bytes, bytes]()
    for batch, n_settled, restarts in steps:

        def count(rows: Slots | None, slots: Slots, table: SessionTable = table) -> None:
            np.add.at(table.columns["n(*)"], slots, 1)

        changed = table.fold(arrived(batch), count)
        if len(changed.slots):
            written(stored, homes.change(table, changed.slots, changed.released))
        assert live_sessions(stored) == present(table)
        settled = np.flatnonzero(table.live)[:n_settled]
        if len(settled):
            written(stored, homes.forget(settled, len(table) - len(settled)))
            table.drop(settled)
        assert live_sessions(stored) == present(table)
        assert int(stored.get(b"n", b"0")) == len(table)
        assert bool(stored) == bool(len(table)), "without a session there is no key"
        if restarts:
            table, again = SessionTable(LAYOUT, WINDOW), StoredSessions.read(stored)
            homes = SessionBlocks.of(again, table.load(again.pairs()))


@law
@given(batches=st.lists(events.filter(bool), min_size=1, max_size=12))
def test_what_is_out_of_date_does_not_pile_up(batches: list[Batch]) -> None:
    table, homes, stored = SessionTable(LAYOUT, WINDOW), SessionBlocks(), dict[bytes, bytes]()
    for batch in batches:
        changed = table.fold(arrived(batch), lambda rows, slots: None)
        written(stored, homes.change(table, changed.slots, changed.released))
    everyone = [(user, 1_000) for user in range(10)]
    for _ in range(8):  # each commit rewrites some of what is left in sparse blocks
        changed = table.fold(arrived(everyone), lambda rows, slots: None)
        written(stored, homes.change(table, changed.slots, changed.released))

    held = sum(len(homes._dead[number]) for number in homes._dead)
    assert held <= blocks.LEAST_LIVE * len(table) + blocks.BLOCK_CELLS


def test_damage_is_said() -> None:
    table, homes = SessionTable(LAYOUT, WINDOW), SessionBlocks()
    changed = table.fold(arrived([(user, 0) for user in range(7)]), lambda rows, slots: None)
    stored = homes.change(table, changed.slots, changed.released).cells
    block = stored[b"#0"]

    with pytest.raises(ValueError, match="a live session is there twice"):
        live_sessions(stored | {b"#9": block})
    with pytest.raises(ValueError, match=r"starts with b'\{', not with format"):
        live_sessions(stored | {b"#0": b"{}"})
    with pytest.raises(ValueError, match="bytes are not a block of live sessions"):
        live_sessions(stored | {b"#0": block[:-1]})
    with pytest.raises(ValueError, match="0 bytes do not say of 3 sessions"):
        live_sessions(stored | {b"!0": b""})
    assert {parse_session(*pair).first for pair in live_sessions(stored).items()} == {0}
