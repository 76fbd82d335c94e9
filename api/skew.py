"""The skew report of a stream as JSON.

Invariant: every number comes from `pipeline.runtime.skew`; nothing is computed here.
"""

from __future__ import annotations

from typing import Any

from pipeline.core.skew import Candidate, Source
from pipeline.runtime.skew import Judgement, SkewReport


def skew_account(report: SkewReport, limit: int) -> dict[str, Any]:
    """What `GET /v1/streams/{stream}/skew` answers, with at most `limit` sources."""
    skew = report.skew
    return {
        "stream": report.stream.name,
        "now": report.now_ms,
        "partition_by": report.stream.partition_by,
        "sample": {
            "events": skew.events,
            "unreadable": skew.unreadable,
            "too_far_ahead": skew.too_far_ahead,
            "from": skew.together.first_arrival_ms if skew.together else None,
            "to": skew.together.last_arrival_ms if skew.together else None,
            "whole_log": skew.whole,
        },
        "disorder": _judgement(report.disorder)
        | {"needed_999_ms": skew.together.behind_999_ms if skew.together else None},
        "idle_after": _judgement(report.idle_after),
        "max_future": _judgement(report.max_future),
        "candidates": [_candidate(candidate) for candidate in skew.candidates],
        "sources": [_source(source) for source in skew.sources[:limit]],
        "truncated": len(skew.sources) > limit,
    }


def _judgement(said: Judgement) -> dict[str, Any]:
    return {
        "config_ms": said.setting_ms,
        "needed_ms": said.needed_ms,
        "holds": said.holds,
        "sentence": said.sentence,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {"disorder_ms": candidate.disorder_ms, "behind": candidate.behind, "late": dict(candidate.late)}


def _source(source: Source) -> dict[str, Any]:
    return {
        "source": source.source,
        "events": source.events,
        "first_arrival": source.first_arrival_ms,
        "last_arrival": source.last_arrival_ms,
        "median_delay_ms": source.median_delay_ms,
        "max_delay_ms": source.max_delay_ms,
        "ahead_share": round(source.ahead_share, 4),
        "max_ahead_ms": source.max_ahead_ms,
        "longest_pause_ms": source.pause_ms,
        "disorder_ms": source.behind_ms,
        "disorder_999_ms": source.behind_999_ms,
    }
