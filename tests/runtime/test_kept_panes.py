"""Panes kept between passes of the closer: not read again while nothing changed them, and never used once it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.core.merging import Piece
from pipeline.core.names import Names
from pipeline.rim import store
from pipeline.rim.commit import Mark
from pipeline.rim.scripts import Scripts
from pipeline.runtime.closer import CACHED_CELLS, Closer, PieceCache
from pipeline.runtime.worker import Worker
from tests.runtime.test_revisions import HOPPING, SECOND, hit, line_of
from tests.servers import RunningServer


def test_a_pane_is_read_once_for_all_its_windows_and_again_when_it_changed(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line_of(server, HOPPING)
    closer = Closer(line.programs["views"], line.client, Scripts(line.client), PieceCache())
    read: list[int] = []
    load = store.load_panes

    def noted(client: Any, stream: str, partition: int, group: str, starts: Sequence[int]) -> Any:
        read.extend(starts)
        return load(client, stream, partition, group, starts)

    monkeypatch.setattr(Worker, "_close", lambda worker: 0)
    monkeypatch.setattr(type(line), "close", lambda line: iter(()))
    monkeypatch.setattr(store, "load_panes", noted)

    def close_after(ts: int) -> list[int]:
        hit(line, ts)
        read.clear()
        closer.close_once()
        return list(read)

    assert close_after(5 * SECOND) == []
    assert close_after(15 * SECOND) == [0]  # [-20, 10)
    assert close_after(25 * SECOND) == [10 * SECOND]  # [-10, 20) has pane 0 as well
    assert close_after(8 * SECOND) == [0]  # late, and revises both
    assert close_after(35 * SECOND) == [20 * SECOND]  # [0, 30)

    found = [(row["window_end"], row["revision"], row["n"]) for row in line.closed("views")]
    assert found == [(10 * SECOND, 1, 2), (20 * SECOND, 1, 3), (30 * SECOND, 0, 4)]


def test_no_more_cells_are_kept_than_fit() -> None:
    cache = PieceCache()
    half = [Piece(0, 0, 0, Names.of([b"[]"] * (CACHED_CELLS // 2)), {})]

    cache.keep({(0, start): (Mark(1, start), half) for start in (10, 20, 30)})

    assert sorted(cache.marks.items()) == [((0, 20), Mark(1, 20)), ((0, 30), Mark(1, 30))]
