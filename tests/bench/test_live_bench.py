"""The benchmark of live readers sees a row that was not told, and reads what a chunked answer says."""

from __future__ import annotations

import json

import pytest

from bench.live import require_told, told

ROWS = [{"window_start": 10, "campaign_id": "a", "views": 3}, {"window_start": 10, "campaign_id": "b", "views": 5}]


def chunked(body: bytes, *cuts: int) -> bytes:
    ends = [*cuts, len(body)]
    parts = [body[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def test_events_cut_anywhere_are_put_together() -> None:
    events = b"".join(b"event: rows\ndata: " + json.dumps({"data": [row]}).encode() + b"\nid: x\n\n" for row in ROWS)
    stream = chunked(b": heartbeat\n\n" + events, 20, 60)

    assert told(stream) == {(10, "a"): 3, (10, "b"): 5}


def test_a_reader_that_was_told_another_number_ends_the_benchmark() -> None:
    right = {(10, "a"): 3, (10, "b"): 5}
    require_told(right, [right, dict(right)])
    for wrong in ({(10, "a"): 3}, {**right, (10, "b"): 4}, {**right, (20, "a"): 1}):
        with pytest.raises(SystemExit, match="1 of 2 readers"):
            require_told(right, [right, wrong])
