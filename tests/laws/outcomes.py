"""Everything a line has produced, as one value to compare two runs by; nothing in it depends on who did the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.core.definitions import Transform
from pipeline.rim import keys, store
from pipeline.runtime.stage_groups import stage_groups
from tests.line import Line, Row

LEDGER = ("entries", "ticks", "read", "accepted", "filtered", "late", "dead", "max_seen_ms", "max_ts_ms", "cursor")


@dataclass(frozen=True, slots=True)
class Outcome:
    """`results` by (metric, start, end): revision, state, groups, packed cells. The others by (group, partition)."""

    results: Mapping[tuple[str, int, int], tuple[int, str, list[bytes], list[bytes]]]
    late: Mapping[tuple[str, int], list[Row]]
    dead: Mapping[tuple[str, int], list[Row]]
    published: Mapping[tuple[str, int], list[Row]]
    ledger: Mapping[tuple[str, int], tuple[Any, ...]]


def outcome(line: Line) -> Outcome:
    places = [
        (name, group, line.config.stream_of(line.config.stages[name]).name, partition)
        for name, group in stage_groups(line.config).items()
        for partition in range(line.config.stream_of(line.config.stages[name]).partitions)
    ]
    return Outcome(
        results=results(line),
        late={(g, p): line.stream(keys.late(s, p, g)) for _, g, s, p in places},
        dead={(g, p): by_place(line.stream(keys.dead(s, p, g))) for _, g, s, p in places},
        published={
            (name, p): line.stream(keys.published_transform(s, p, name))
            for name, _, s, p in places
            if isinstance(line.config.stages[name], Transform)
        },
        ledger={(g, p): ledger(line, s, p, g) for _, g, s, p in places},
    )


def results(line: Line) -> dict[tuple[str, int, int], tuple[int, str, list[bytes], list[bytes]]]:
    found = {}
    for metric, program in line.programs.items():
        windows = store.published_windows(line.client, metric, program.version, -(2**61), 2**61)
        for result in store.load_results(line.client, metric, program.version, windows):
            about = (result.revision, result.state, result.groups, result.cells(program.layout))
            found[metric, result.start_ms, result.end_ms] = about
    return found


def ledger(line: Line, stream: str, partition: int, group: str) -> tuple[Any, ...]:
    checkpoint = store.load_checkpoint(line.client, stream, partition, group)
    assert checkpoint.read == checkpoint.accepted + checkpoint.filtered + checkpoint.late + checkpoint.dead
    return tuple(getattr(checkpoint, name) for name in LEDGER)


def by_place(letters: Sequence[Row]) -> list[Row]:
    """One commit writes undecodable entries before rows that could not be computed, so only the set is promised."""
    return sorted(letters, key=lambda letter: (letter["entry"], int(letter["row"])))


def assert_downstream_equals_results(line: Line) -> None:
    """Every result row went out once in its one revision, and says what the read side says."""
    for metric, program in line.programs.items():
        expected = [as_texts(row) | {"version": program.version} for row in line.closed(metric)]
        assert sorted(line.downstream(metric), key=repr_of) == sorted(expected, key=repr_of)
        assert all(row["revision"] == 0 for row in line.closed(metric))


def as_texts(row: Row) -> Row:
    texts = {n: v if isinstance(v, str) else msgspec.json.encode(v).decode() for n, v in row.items()}
    return {name: text for name, text in texts.items() if row[name] is not None}


def repr_of(row: Row) -> str:
    return repr(sorted(row.items()))
