"""The independent oracle: DuckDB computes a stage's answer over the same events, from the stage's definition alone.

A table of events has, beside the stream's fields, five columns: `event_ms` (event time), `arrival_ms`, `part`
(partition), `position` (in the partition's log, from 0) and `is_tick` (moves time and is no event). What could not be
decoded is no row of it. Of the pipeline only the definitions are used here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import duckdb
import polars as pl

from pipeline.core.definitions import Aggregate, Session, TimePolicy
from tests.oracle.duck_values import CELL, ORDER, asked, is_number, selected
from tests.oracle.duck_windows import floor, with_sessions, with_windows
from tests.oracle.expectations import Row, assert_same_rows, same

__all__ = ["Row", "assert_same_rows", "same"]

NEVER_MS = 2**62  # arrival of files that nobody watched arriving: later than every event


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """One database for the run, since making one takes 20 ms; each table is a cursor's own."""
    database = duckdb.connect()
    database.execute("SET threads = 1; SET preserve_insertion_order = true")
    return database


@dataclass(frozen=True, slots=True)
class Events:
    """A table of events, called `events` in the SQL that is asked of it."""

    cursor: duckdb.DuckDBPyConnection

    @classmethod
    def of(cls, select: str) -> Events:
        cursor = _database().cursor()
        cursor.execute(f"CREATE TEMP TABLE events AS {select}")
        return cls(cursor)

    def rows(self, sql: str) -> list[Row]:
        found = self.cursor.execute(sql)
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def filter(self, condition: str) -> Events:
        """As if only these had been sent: the others do not move time either."""
        return table(self.cursor.sql(f"SELECT * FROM events WHERE {condition}").pl())


def web_log(path: Path, *, part: str = "0") -> Events:
    """The lines of a web log in file order; `part` is an SQL expression over `line` that gives a line's partition."""
    columns = (
        "{ts: 'BIGINT', user: 'VARCHAR', method: 'VARCHAR', page: 'VARCHAR', "
        "status: 'BIGINT', bytes: 'BIGINT', referrer: 'VARCHAR', agent: 'VARCHAR'}"
    )
    lines = f"SELECT *, row_number() OVER () - 1 AS line FROM read_json('{path}', columns={columns})"
    return _placed(f"SELECT *, ts AS event_ms, {part} AS part FROM ({lines})")


def sensor(path: Path) -> Events:
    """The rows `timestamp,value` of a sensor's file in file order, its local times read as UTC."""
    columns = "{timestamp: 'TIMESTAMP', value: 'DOUBLE'}"
    lines = f"SELECT *, row_number() OVER () - 1 AS line FROM read_csv('{path}', header=true, columns={columns})"
    times = "* REPLACE (epoch_ms(timestamp) AS timestamp), epoch_ms(timestamp) AS event_ms"  # as JSON has them
    return _placed(f"SELECT {times}, 0 AS part FROM ({lines})")


def table(frame: pl.DataFrame) -> Events:
    """Events made by a test; `frame` has the five columns beside the stream's fields."""
    cursor = _database().cursor()
    cursor.register("_frame", frame.to_arrow())
    cursor.execute("CREATE TEMP TABLE events AS SELECT * FROM _frame")
    cursor.unregister("_frame")
    return Events(cursor)


def _placed(events: str) -> Events:
    """Number the events of each partition in the order of the file."""
    position = "row_number() OVER (PARTITION BY part ORDER BY line) - 1 AS position"
    return Events.of(f"SELECT *, {NEVER_MS}::BIGINT AS arrival_ms, {position}, false AS is_tick FROM ({events})")


@dataclass(frozen=True, slots=True)
class Account:
    """Where events went: read = accepted + filtered + late + dead; `partial`, of the accepted, late for a window."""

    read: int
    accepted: int
    filtered: int
    late: int
    dead: int
    partial: int


@dataclass(frozen=True, slots=True)
class Fate:
    """What a stage's transforms make of an event, said in SQL over its columns: dead first, then filtered, else kept.

    Time is moved by all of them. `derive` are columns a transform adds.
    """

    dead: str = "false"
    kept: str = "true"
    derive: Mapping[str, str] = field(default_factory=dict)


KEPT = Fate()


def windows(events: Events, stage: Aggregate, time: TimePolicy, fate: Fate = KEPT) -> list[Row]:
    """The rows of a metric over these events: window_start, window_end, groups, values; by window, then group.

    A session has first, last and closes_at instead of window_start and window_end.
    """
    values = {spec.name: asked(spec) for spec in stage.aggregates}
    groups = tuple(f'"{name}"' for name in stage.group_by)
    keys = ", ".join(["window_start", "window_end", *groups])
    helpers = [f"{text} AS {name}" for value in values.values() for name, text in value.helpers.items()]
    steps = [
        _judging(stage, time, fate),
        f"_counted AS ({_counted(stage, groups)})",
        f"_helped AS (SELECT {', '.join(['*', *helpers])} FROM _counted "
        f"WINDOW {CELL} AS (PARTITION BY {keys} ORDER BY {ORDER}))",
        f"_rows AS (SELECT {keys}, "
        + ", ".join(f'{value.aggregate} AS "{name}"' for name, value in values.items())
        + f" FROM _helped GROUP BY {keys})",
    ]
    order = ", ".join(f"{key} NULLS LAST" for key in ("window_start", "window_end", *groups))
    found = events.rows(f"{', '.join(steps)} SELECT * FROM {_with_select(stage)} ORDER BY {order}")
    finished = [
        {name: values[name].finish(value) if name in values else value for name, value in row.items()} for row in found
    ]
    return [_session_row(row, stage.window) for row in finished] if isinstance(stage.window, Session) else finished


def _session_row(row: Row, window: Session) -> Row:
    first, closes_at = row.pop("window_start"), row.pop("window_end")
    return {"first": first, "last": closes_at - window.gap_ms, "closes_at": closes_at} | row


def _counted(stage: Aggregate, groups: tuple[str, ...]) -> str:
    """The rows that count, with the window they count in: for sessions, made of all that are not late."""
    if not isinstance(stage.window, Session):
        return "SELECT * FROM _judged WHERE NOT late"
    in_time = "(SELECT * EXCLUDE (window_start, window_end) FROM _judged WHERE NOT late)"
    return with_sessions(in_time, stage.window, groups)


def _with_select(stage: Aggregate) -> str:
    if not stage.select:
        return "_rows"
    numbers = [spec.name for spec in stage.aggregates if is_number(spec)]
    return f"_rows AS _row, LATERAL ({selected(stage.select, numbers)})"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The account of a stage, and its `late` rows: the events late for all their windows, in the order of the log.

    Columns of those: position, event_ms, late_by_ms (behind the watermark before them), window_start and window_end of
    the last window.
    """

    account: Account
    late: list[Row]


def judge(events: Events, stage: Aggregate, time: TimePolicy, fate: Fate = KEPT) -> Judgement:
    """Judge every event: dead, filtered, late for all of its windows, or accepted."""
    sql = """, _events AS (
        SELECT part, position, bool_and(late) AS is_late, bool_or(late) AND NOT bool_and(late) AS is_partial,
            max(window_start) AS window_start, max(window_end) AS window_end
        FROM _judged GROUP BY part, position
    ) SELECT position, event_ms, watermark_ms - event_ms AS late_by_ms, window_start, window_end,
        CASE WHEN is_dead THEN 'dead' WHEN NOT is_kept THEN 'filtered' WHEN is_late THEN 'late' ELSE 'accepted' END
            AS fate, coalesce(is_partial, false) AS is_partial
    FROM _fated LEFT JOIN _events USING (part, position) WHERE NOT is_tick ORDER BY part, position"""
    found = events.rows(_judging(stage, time, fate) + sql)
    fates = Counter(row["fate"] for row in found)
    columns = ("position", "event_ms", "late_by_ms", "window_start", "window_end")
    return Judgement(
        Account(
            read=len(found),
            accepted=fates["accepted"],
            filtered=fates["filtered"],
            late=fates["late"],
            dead=fates["dead"],
            partial=sum(row["is_partial"] for row in found),
        ),
        [{name: row[name] for name in columns} for row in found if row["fate"] == "late"],
    )


def account(events: Events, stage: Aggregate, time: TimePolicy, fate: Fate = KEPT) -> Account:
    return judge(events, stage, time, fate).account


def late_rows(events: Events, stage: Aggregate, time: TimePolicy, fate: Fate = KEPT) -> list[Row]:
    return judge(events, stage, time, fate).late


def window_accounts(events: Events, stage: Aggregate, time: TimePolicy, fate: Fate = KEPT) -> list[Row]:
    """The account of every window and group that an event belongs to, whatever became of the event there.

    Columns: window_start, window_end, groups, accepted, late, filtered, dead; by window, then group. An event of
    several windows is in the account of each, and late in some of them where it is `partial`. A session is made by the
    events that count; in its account are those of its group whose time lies in it, before its end.
    """
    keys = ["window_start", "window_end", *(f'"{name}"' for name in stage.group_by)]
    counts = {
        "accepted": "is_kept AND NOT is_dead AND NOT late",
        "late": "is_kept AND NOT is_dead AND late",
        "filtered": "NOT is_kept AND NOT is_dead",
        "dead": "is_dead",
    }
    columns = ", ".join(f"count(*) FILTER (WHERE {which}) AS {name}" for name, which in counts.items())
    sql = f""", {_in_windows(stage)}, _each AS (SELECT *, {_late(stage)} AS late FROM _all)
        SELECT {", ".join(keys)}, {columns} FROM _each GROUP BY {", ".join(keys)}
        ORDER BY {", ".join(f"{key} NULLS LAST" for key in keys)}"""
    return events.rows(_judging(stage, time, fate) + sql)


def _in_windows(stage: Aggregate) -> str:
    """The table `_all`: every event once for each window whose time it lies in, whatever becomes of it there."""
    events = "(SELECT * FROM _fated WHERE NOT is_tick)"
    if not isinstance(stage.window, Session):
        return f"_all AS ({with_windows(events, stage.window)})"
    groups = tuple(f'"{name}"' for name in stage.group_by)
    mine = ", ".join(["part", *groups, "window_start", "window_end"])
    same = "".join(f" AND e.{name} IS NOT DISTINCT FROM s.{name}" for name in groups)
    return f"""_sessions AS (SELECT DISTINCT {mine} FROM ({_counted(stage, groups)})),
        _all AS (SELECT e.*, s.window_start, s.window_end FROM {events} AS e JOIN _sessions AS s
            ON e.part = s.part{same} AND e.event_ms >= s.window_start AND e.event_ms < {_before(stage.window)})"""


def _before(window: Session) -> str:
    """Where a session's time ends: `max` cuts it."""
    if window.max_ms is None:
        return "s.window_end"
    return f"least(s.window_end, {floor('s.window_start', window.max_ms, 0)} + {window.max_ms})"


def _judging(stage: Aggregate, time: TimePolicy, fate: Fate) -> str:
    """The common table expressions up to `_judged`."""
    before = "PARTITION BY part ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
    derived = "".join(f', {text} AS "{name}"' for name, text in fate.derive.items())
    if isinstance(stage.window, Session):
        alone = f"SELECT *, event_ms AS window_start, event_ms + {stage.window.gap_ms} AS window_end FROM _kept"
    else:
        alone = with_windows("_kept", stage.window)
    return f"""WITH
        _timed AS (SELECT *, max(least(event_ms, arrival_ms)) OVER ({before}) - {time.disorder_ms} AS watermark_ms
            FROM events),
        _fated AS (SELECT *{derived}, coalesce({fate.dead}, false) AS is_dead, coalesce({fate.kept}, false) AS is_kept
            FROM _timed),
        _kept AS (SELECT * FROM _fated WHERE is_kept AND NOT is_dead AND NOT is_tick),
        _windowed AS ({alone}),
        _judged AS (SELECT *, {_late(stage)} AS late FROM _windowed)"""


def _late(stage: Aggregate) -> str:
    """An event is late for a window by the window's end; for sessions as if it were one of its own."""
    end = f"event_ms + {stage.window.gap_ms}" if isinstance(stage.window, Session) else "window_end"
    return f"coalesce({end} + {stage.allowed_lateness_ms} <= watermark_ms, false)"
