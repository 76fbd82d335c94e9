"""Streams, stages and metrics as JSON: their definitions, and how they are doing.

Invariant: every number comes from `pipeline.runtime.status` or the config; nothing is computed here.
"""

from __future__ import annotations

from typing import Any

from api.answers import measure, window
from pipeline.core.definitions import Config, Field, Transform
from pipeline.core.programs import Program
from pipeline.runtime.metric_completeness import Completeness
from pipeline.runtime.raw_log import RawPage, RawRow
from pipeline.runtime.recent import RecentEvent
from pipeline.runtime.status import GroupStatus, Lag, StageStatus
from pipeline.runtime.stream_time import PartitionTime, StreamTime


def metric_account(config: Config, program: Program, completeness: Completeness) -> dict[str, Any]:
    """A metric as `GET /v1/metrics` lists it."""
    stage = config.stages[program.name]
    assert not isinstance(stage, Transform)
    return {
        "metric": program.name,
        "stage": program.name,
        "stream": program.stream.name,
        "window": window(program),
        "group": [{"name": name, "type": kind} for name, kind in program.group_types],
        "values": [_value(program, number) for number in range(len(program.finishers))] + _selected(program),
        "watermark": completeness.watermark_ms,
        "complete_to": completeness.complete_to_ms,
        "version": program.version,
        "retention_ms": stage.retention_ms,
        "allowed_lateness_ms": stage.allowed_lateness_ms,
        "emit": stage.emit,
        "output": stage.output,
        "max_groups": stage.max_groups,
        "tiers": [{"step": tier.size_ms, "retention_ms": tier.retention_ms} for tier in stage.rollups],
    }


def _value(program: Program, number: int) -> dict[str, Any]:
    finisher = program.finishers[number]
    spec = finisher.spec
    field = program.stream.field(spec.field) if spec.field else None
    return {
        "name": spec.name,
        "type": finisher.type,
        "function": spec.function,
        "field": spec.field,
        "unit": measure(program, finisher),
        "description": field.description if field else None,
    }


def _selected(program: Program) -> list[dict[str, Any]]:
    """What is computed from finished aggregates: `field` is the expression."""
    types, texts = program.selection.types, program.stage.select
    return [
        {"name": name, "type": types[name], "function": "select", "field": text, "unit": None, "description": None}
        for name, text in texts.items()
    ]


def stream_account(found: StreamTime) -> dict[str, Any]:
    """A stream as `GET /v1/streams` lists it."""
    status = found.status
    stream = status.stream
    time = stream.time
    return {
        "stream": stream.name,
        "schema": {field.name: type_text(field) for field in stream.fields},
        "time": {
            "field": time.field,
            "disorder_ms": time.disorder_ms,
            "max_future_ms": time.max_future_ms,
            "max_age_ms": time.max_age_ms,
            "idle_after_ms": time.idle_after_ms,
        },
        "partition_by": stream.partition_by,
        "watermark": status.watermark_ms,
        "max_watermark": status.max_watermark_ms,
        "length": sum(partition.state.length for partition in status.partitions),
        "lag": status.lag.events,
        "door": status.door,
        "quarantined": sum(partition.state.quarantined for partition in status.partitions),
        "partitions": [_partition(partition) for partition in found.partitions],
    }


def type_text(field: Field) -> str:
    """A field's type as config.yaml writes it: `int?`, `list[string]`."""
    kind = f"list[{field.item}]" if field.item else field.type
    return f"{kind}?" if field.nullable else kind


def watermark_account(found: StreamTime) -> dict[str, Any]:
    """How far a stream is, and what holds it back: `GET /v1/streams/{stream}/watermark`."""
    status, policy = found.status, found.status.stream.time
    return {
        "stream": status.stream.name,
        "now": found.now_ms,
        "watermark": status.watermark_ms,
        "max_watermark": status.max_watermark_ms,
        "complete_by": found.complete_by,
        "held_back_by": found.held_back_by,
        "disorder_ms": policy.disorder_ms,
        "idle_after_ms": policy.idle_after_ms,
        "next_tick": found.next_tick_ms,
        "partitions": [_partition_time(partition) for partition in found.partitions],
    }


def _partition_time(time: PartitionTime) -> dict[str, Any]:
    status = time.status
    return {
        "partition": status.state.partition,
        "watermark": status.watermark_ms,
        "max_ts": status.max_ts_ms,
        "last_event": status.last_arrival_ms,
        "idle_since": time.idle_since_ms,
        "lag": _lag(status.lag),
        "complete_by": time.complete_by,
        "holds_back": time.holds_back,
        "why": time.why,
    }


def _partition(time: PartitionTime) -> dict[str, Any]:
    status = time.status
    found = status.state
    return {
        "partition": found.partition,
        "length": found.length,
        "last_id": _text(found.last_id),
        "watermark": status.watermark_ms,
        "max_ts": status.max_ts_ms,
        "last_arrival": status.last_arrival_ms,
        "lag": status.lag.events,
        "idle_since": time.idle_since_ms,
        "complete_by": time.complete_by,
        "holds_back": time.holds_back,
        "why": time.why,
    }


def event_account(event: RecentEvent) -> dict[str, Any]:
    """One stored event; `error` is there only when the workers cannot read it."""
    said = {
        "id": event.entry_id.decode(),
        "partition": event.partition,
        "row": event.row,
        "kind": event.kind,
        "arrival": event.arrival_ms,
        "time": event.time_ms,
        "event": event.event,
    }
    return said if event.error is None else said | {"error": event.error}


def raw_account(partition: int, page: RawPage) -> dict[str, Any]:
    """A page of a raw log; `next` is the `after` of the next one."""
    return {"partition": partition, "rows": [_raw_row(row) for row in page.rows], "next": page.next_after}


def _raw_row(row: RawRow) -> dict[str, Any]:
    said = {
        "position": row.position,
        "arrival": row.arrival_ms,
        "kind": row.kind,
        "time": row.time_ms,
        "event": row.event,
        "tick": row.tick_ms,
        "cut": row.cut_ms,
        "events": row.events,
        "error": row.error,
        "backfill": row.backfill or None,
        "only": row.only,
        "table": row.table,
        "hash": row.hash,
    }
    return {name: value for name, value in said.items() if value is not None}


def stage_account(status: StageStatus) -> dict[str, Any]:
    """A stage as `GET /v1/stages` lists it; a fused transform has no group, so no lag and no ledger of its own."""
    stage, versions = status.stage, status.versions
    own = status.group is not None
    return {
        "stage": stage.name,
        "kind": "transform" if isinstance(stage, Transform) else "aggregate",
        "from": stage.source,
        "stream": status.stream.name,
        "group": status.group,
        "version": status.version,
        "active_version": versions.active if versions else None,
        "rebuilding": bool(versions and versions.rebuilding),
        "watermark": status.watermark_ms,
        "idle_since": max((p.state.checkpoint.arrival_ms for p in status.partitions), default=0) or None,
        "lag": _lag(status.lag) if status.lag else None,
        "pending": sum(p.state.pending for p in status.partitions) if own else None,
        "oldest_pending": min(
            (p.state.oldest_pending_ms for p in status.partitions if p.state.oldest_pending_ms is not None),
            default=None,
        ),
        "ledger": status.ledger | {"balances": status.balances} if own else None,
        "backfilled": status.backfilled if own else None,
        "replayed": status.replayed if own else None,
        "late_entries": sum(p.state.late_entries for p in status.partitions) if own else None,
        "dead_entries": sum(p.state.dead_entries for p in status.partitions) if own else None,
        "partitions": [_group(partition) for partition in status.partitions],
    }


def _group(status: GroupStatus) -> dict[str, Any]:
    checkpoint = status.state.checkpoint
    return {
        "partition": status.partition,
        "worker": status.holder,
        "cursor": _text(checkpoint.cursor),
        "commit": checkpoint.commit,
        "watermark": status.watermark_ms,
        "lag": _lag(status.lag),
        "pending": status.state.pending,
        "oldest_pending": status.state.oldest_pending_ms,
        "torn": checkpoint.torn,
        "ledger": status.ledger,
        "late_entries": status.state.late_entries,
        "dead_entries": status.state.dead_entries,
    }


def _lag(lag: Lag) -> dict[str, Any]:
    return {"entries": lag.entries, "events": lag.events, "seconds": round(lag.seconds, 3)}


def _text(entry_id: bytes | None) -> str | None:
    return entry_id.decode() if entry_id else None
