"""What `explain` found, as JSON for the API and the command line, and an event's path in words.

Invariant: times are epoch milliseconds; null is what is not known, never what is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.core.fates import Place
from pipeline.core.ndjson import iso_time
from pipeline.core.times import format_duration
from pipeline.runtime.explain_event import EventExplained, StageFate, WindowShown
from pipeline.runtime.explain_window import WindowExplained, entry_of


def window_json(found: WindowExplained, where: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """One window, as `GET /v1/metrics/{metric}/explain` gives it; `where` are the groups that were asked for."""
    account, (start_ms, end_ms) = found.account, found.span
    chosen = {name: values[0] if len(values) == 1 else list(values) for name, values in where.items()}
    return {
        "metric": found.program.name,
        "version": found.program.version,
        "window": {"start": start_ms, "end": end_ms, "state": found.state, "revision": found.revision},
        "group": chosen or None,
        "groups": found.groups,
        "values": found.values,
        "recomputed": found.recomputed,
        "accounts": {
            "read": account.read,
            "accepted": account.accepted,
            "late": account.late,
            "partial": account.partial,
            "filtered": account.filtered,
            "dead": account.dead,
            "duplicate": None,
            "revised": account.revised,
        },
        "first_entry": _entry(account.first),
        "last_entry": _entry(account.last),
        "partitions": [
            {
                "partition": share.partition,
                "watermark": share.watermark_ms,
                "holds_back": share.holds_back,
                "cursor": share.cursor,
                "lag": share.lag_events,
            }
            for share in found.partitions
        ],
        "closes_when": found.closes_when,
        "would_close_at": found.would_close_at_ms,
        "log": {"complete": found.log_complete, "from": found.whole_from_ms, "truncated": found.truncated},
    }


def _entry(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    partition, entry_id, row = entry_of(place)
    return {"partition": partition, "id": entry_id, "row": row}


def event_json(found: EventExplained) -> dict[str, Any]:
    """One event's path, as `GET /v1/streams/{stream}/events/{entry}/explain` gives it."""
    return {
        "stream": found.stream,
        "partition": found.partition,
        "id": found.entry,
        "row": found.row,
        "kind": found.kind,
        "arrival": found.arrival_ms,
        "time": found.time_ms,
        "watermark": found.watermark_ms,
        "event": found.event,
        "error": found.error,
        "stages": [_stage(fate) for fate in found.stages],
    }


def _stage(fate: StageFate) -> dict[str, Any]:
    said = asdict(fate) | {
        "missed": _window(fate.missed),
        "counted": [
            {
                "group": row.group,
                "pane": row.pane_ms,
                "from_end": row.from_end_ms,
                "windows": [_window(window) for window in row.windows],
            }
            for row in fate.counted
        ],
    }
    said["late_by"] = said.pop("late_by_ms")
    return said


def _window(window: WindowShown | None) -> dict[str, Any] | None:
    return None if window is None else {"start": window.start_ms, "end": window.end_ms, "state": window.state}


def event_lines(found: EventExplained) -> Iterator[str]:
    """One event's path for people."""
    yield f"{found.stream}, partition {found.partition}, entry {found.entry}, row {found.row} (a {found.kind})"
    yield f"  stored    {found.event}"
    yield f"  arrived   {iso_time(found.arrival_ms)}"
    yield f"  time      {iso_time(found.time_ms) or 'not readable'}"
    yield f"  watermark {iso_time(found.watermark_ms) or 'none yet'} before it"
    if found.error is not None:
        yield f"  unreadable: {found.error}"
    for fate in found.stages:
        will = "" if fate.processed else " (not processed yet)"
        yield f"{fate.stage}: {_outcome(fate)}{will}"
        for row in fate.counted:
            yield f"  group {row.group}" + ("" if row.pane_ms is None else f", pane {iso_time(row.pane_ms)}")
            if row.from_end_ms is not None:
                yield f"    late for its windows that end before {iso_time(row.from_end_ms)}"
            for window in row.windows:
                yield f"    {iso_time(window.start_ms)} to {iso_time(window.end_ms)}: {window.state}"


def _outcome(fate: StageFate) -> str:
    match fate.outcome:
        case "filtered":
            return f"filtered by {fate.filtered_by}"
        case "dead":
            return f"dead letter: {fate.error}"
        case "late":
            assert fate.missed is not None
            assert fate.late_by_ms is not None
            window = f"{iso_time(fate.missed.start_ms)} to {iso_time(fate.missed.end_ms)}"
            if fate.reason == "expired":
                return f"late: old data whose last window, {window}, has expired"
            if fate.reason == "before_log":
                return f"late: its last window, {window}, begins before what is left of the log"
            return f"late by {format_duration(fate.late_by_ms)}: its last window, {window}, had closed for good"
        case "published":
            return "published"
        case "not known":
            return f"not known: {fate.error}"
        case "not for it":
            return "not counted: it was replayed for another stage"
        case _:
            return "counted"
