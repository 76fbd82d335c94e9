"""Which windows an event is in, said in SQL: one row per event and window, from the window's definition alone.

    hopping 60 s every 20 s          the window that began last, and those that began one, two … steps earlier
    cumulating 60 s every 20 s       from the origin to each step after the event
    calendar                         DuckDB's own time zones (ICU): not the pipeline's zoneinfo

Windows are half-open; floors are floors before 1970 too. All times are epoch milliseconds.
"""

from __future__ import annotations

from typing import assert_never

from pipeline.core.definitions import Calendar, Cumulating, Hopping, PaneWindow, Session, Tumbling


def floor(time: str, size_ms: int, offset_ms: int) -> str:
    """SQL of the last multiple of `size` plus `offset` at or before a time; DuckDB's % truncates."""
    return f"({time} - ((({time} - {offset_ms}) % {size_ms}) + {size_ms}) % {size_ms})"


def with_windows(source: str, window: PaneWindow) -> str:
    """SELECT the rows of `source` once for each window they are in, with `window_start` and `window_end`."""
    match window:
        case Tumbling():
            return _sliding(source, window.size_ms, window.size_ms, window.offset_ms)
        case Hopping():
            return _sliding(source, window.size_ms, window.every_ms, window.offset_ms)
        case Cumulating():
            return _growing(source, window)
        case Calendar():
            return _local(source, window)
        case _ as unreachable:
            assert_never(unreachable)


def _sliding(source: str, size_ms: int, every_ms: int, offset_ms: int) -> str:
    steps = -(-size_ms // every_ms)
    begun = (
        f"SELECT *, {floor('event_ms', every_ms, offset_ms)} - step * {every_ms} AS window_start FROM {source}, _steps"
    )
    return (
        f"WITH _steps AS (SELECT unnest(range({steps})) AS step), _begun AS ({begun}) "
        f"SELECT * EXCLUDE (step), window_start + {size_ms} AS window_end FROM _begun "
        f"WHERE event_ms < window_start + {size_ms}"
    )


def _growing(source: str, window: Cumulating) -> str:
    steps = window.size_ms // window.every_ms
    origin = floor("event_ms", window.size_ms, window.offset_ms)
    grown = (
        f"SELECT *, {origin} AS window_start, {origin} + (step + 1) * {window.every_ms} AS window_end "
        f"FROM {source}, _steps"
    )
    return (
        f"WITH _steps AS (SELECT unnest(range({steps})) AS step), _grown AS ({grown}) "
        "SELECT * EXCLUDE (step) FROM _grown WHERE event_ms < window_end"
    )


def _local(source: str, window: Calendar) -> str:
    local = f"date_trunc('{window.unit}', timezone('{window.zone}', make_timestamptz(event_ms * 1000)))"

    def instant(local_time: str) -> str:
        return f"epoch_ms(timezone('{window.zone}', {local_time}))"

    return (
        f"WITH _local AS (SELECT *, {local}::TIMESTAMP AS _begin FROM {source}) "
        f"SELECT * EXCLUDE (_begin), {instant('_begin')} AS window_start, "
        f"{instant(f'_begin + INTERVAL 1 {window.unit}')} AS window_end FROM _local"
    )


def with_sessions(source: str, window: Session, keys: tuple[str, ...]) -> str:
    """SELECT the rows of `source` with the session each is in: islands between gaps, in each partition and group.

    `window_start` is the first event's time, `window_end` the last one's plus the gap. With `max` no session crosses a
    multiple of it. Rows that are late must not be among them: what is not late joins all it touches, whenever it comes.
    """
    of_key = ", ".join(["part", *keys])
    block = "0" if window.max_ms is None else floor("event_ms", window.max_ms, 0)
    begins = (
        f"SELECT *, coalesce(event_ms - lag(event_ms) OVER _key > {window.gap_ms} "
        f"OR {block} <> lag({block}) OVER _key, true) AS _begins FROM {source} "
        f"WINDOW _key AS (PARTITION BY {of_key} ORDER BY event_ms, position)"
    )
    numbered = (
        f"SELECT *, count(*) FILTER (WHERE _begins) OVER (PARTITION BY {of_key} ORDER BY event_ms, position "
        "ROWS UNBOUNDED PRECEDING) AS _island FROM _begun"
    )
    island = f"PARTITION BY {of_key}, _island"
    return (
        f"WITH _begun AS ({begins}), _numbered AS ({numbered}) SELECT * EXCLUDE (_begins, _island), "
        f"min(event_ms) OVER ({island}) AS window_start, max(event_ms) OVER ({island}) + {window.gap_ms} AS window_end "
        "FROM _numbered"
    )
