"""A stage that joins, explodes and calls a function: the same bits however its log is cut, and what plain Python says.

The log reloads its table in the middle, so a cut may fall before, at or after a reload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import msgspec
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pipeline import transform
from pipeline.core.cell_fields import split_field
from pipeline.core.cells import CellTable
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Lookup, Transform, Tumbling
from pipeline.core.process import TimeState
from pipeline.core.programs import Program, compile_program
from pipeline.core.registered_transforms import TRANSFORMS
from pipeline.core.table_names import content_hash
from pipeline.core.tables import encode
from pipeline.rim.table_cache import TableCache
from pipeline.runtime.finishing import finished_rows
from tests.laws import naive
from tests.laws.logs import DISORDER_MS, STREAM, Logged, config, events, law, logs
from tests.laws.replaying import Committed, Fate, replay

TABLE = "labels.csv"
OLD = encode(pl.DataFrame({"key": ["1", "-7"], "label": ["one", "minus"]}))
NEW = encode(pl.DataFrame({"key": ["1", "nine"], "label": ["uno", "nove"]}))
LABELS = {
    content_hash(OLD): {"1": "one", "-7": "minus"},
    content_hash(NEW): {"1": "uno", "nine": "nove"},
}
RELOADS = [{"_k": "control", "kind": "table", "table": TABLE, "hash": content} for content in LABELS]
TIME = TimeState(tables={TABLE: content_hash(OLD)})

tags = st.lists(st.sampled_from(["a", "b", "bad", "out"]), max_size=3) | st.none()
tagged = st.builds(lambda event, more: {**event, "tags": more}, events, tags)
reloading = logs(of=tagged, controls=[{"_k": "control"}, *RELOADS])


@transform("law_lengths", returns={"length": "int"})
def lengths(frame: pl.DataFrame) -> pl.DataFrame:
    """Leave rows tagged `out` out, fail on those tagged `bad`, and measure the label."""
    if (frame["tags"] == "bad").any():
        raise RuntimeError("a bad tag")
    return frame.filter(pl.col("tags").ne_missing("out")).with_columns(pl.col("label").str.len_chars().alias("length"))


def transforming(disorder_ms: int = DISORDER_MS) -> Program:
    known = config().streams[STREAM]
    time = replace(known.time, disorder_ms=disorder_ms)
    stream = replace(known, fields=(*known.fields, Field("tags", "list", nullable=True, item="string")), time=time)
    function = TRANSFORMS["law_lengths"].definition
    labels = {"label": Lookup(TABLE, "key", "key", "label", "string", "string")}
    values = (
        AggregateSpec("n", "count"),
        AggregateSpec("sum_v", "sum", "v"),
        AggregateSpec("sum_length", "sum", "length"),
        AggregateSpec("first_tag", "first", "tags"),
        AggregateSpec("last_tag", "last", "tags"),
    )
    stage = Aggregate("labels", "whole", Tumbling(10_000), ("label", "tags"), values)
    whole = Transform("whole", STREAM, "k IS NULL OR k <> 13", lookup=labels, explode="tags", python=function)
    return compile_program(Config({STREAM: stream}, {"whole": whole, "labels": stage}), stage)


PROGRAM = transforming()


def cache() -> TableCache:
    tables = TableCache()
    for content in (OLD, NEW):
        tables.put(content)
    return tables


def run(program: Program, log: Sequence[Logged], batches: Sequence[tuple[int, Fate]] = ()) -> Committed:
    return replay(program, log, batches, tables=cache(), time=TIME)


@law
@given(log=reloading, batches=st.lists(st.tuples(st.integers(1, 5), st.sampled_from(get_args(Fate))), max_size=14))
def test_any_cut_and_any_crash_gives_the_same_bits(log: list[Logged], batches: list[tuple[int, Fate]]) -> None:
    assert run(PROGRAM, log, batches) == run(PROGRAM, log)


@law
@given(log=reloading)
def test_every_event_is_counted_once_however_many_rows_are_made_of_it(log: list[Logged]) -> None:
    done = run(PROGRAM, log)

    assert done.ledger.balances
    assert done.ledger.late == len(done.late)
    assert done.ledger.dead == sum(int(letter["n"]) for letter in done.dead)


@law
@given(log=reloading)
def test_rows_are_joined_exploded_and_measured_as_plain_python_does_it(log: list[Logged]) -> None:
    program = transforming(disorder_ms=10**9)  # nothing is late

    done = run(program, log)

    expected = list(plainly(log))
    assert done.ledger.accepted == len({number for number, _ in expected})
    cells = finished(program, done)
    counted: Counter[tuple[Any, ...]] = Counter()
    for group, row in cells:
        counted[group] += row["n"]
    assert counted == Counter((row["label"], row["tags"]) for _, row in expected)
    assert sum(row["sum_length"] for _, row in cells) == sum(len(row["label"] or "") for _, row in expected)


def plainly(log: Sequence[Logged]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number of the event, row) of every row that is accepted."""
    labels = LABELS[TIME.tables[TABLE]]
    number = 0
    for entry in log:
        labels = LABELS.get(entry.fields.get(b"hash", b"").decode(), labels)
        arrival_ms = int(entry.id.partition("-")[0])
        for event in naive.events_of(entry):
            number += 1
            if event is None or event["ts"] > arrival_ms + 20_000 or event["k"] == 13:
                continue
            items = event.get("tags") or []
            if "bad" in items:
                continue
            yield from ((number, {"label": labels.get(event["key"]), "tags": item}) for item in items if item != "out")


def finished(program: Program, done: Committed) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """(group, finished values) of every cell."""
    table = CellTable(program.layout)
    for start_ms, cells in done.panes.items():
        table.load(start_ms, cells)
    found = [(start_ms, cell) for start_ms, cells in done.panes.items() for cell in cells]
    rows = finished_rows(program, table.columns, table.slots(found), [0] * len(found))
    groups = [tuple(msgspec.json.decode(split_field(cell)[1])) for _, cell in found]
    return list(zip(groups, rows, strict=True))
