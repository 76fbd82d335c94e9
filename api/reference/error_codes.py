"""What every `code` of a problem means and what to do about it: the pages that `type` points to.

Invariant: each code that the API answers with is here, and no other (a test reads the source).
"""

from __future__ import annotations

from collections.abc import Mapping

ERRORS_PATH = "/docs/errors"

# code → what it means; then what to do
ERROR_CODES: Mapping[str, tuple[str, str]] = {
    "already_replayed": ("The rows were replayed before.", "Leave it, or ask with `again` and an Idempotency-Key."),
    "backlog": ("More events wait to be counted than the stream's retention allows.", "Wait `Retry-After` seconds."),
    "bad_agg": ("`agg` names no value, or one twice.", "Name values of the metric, with commas between."),
    "bad_cursor": (
        "The cursor is none of ours, of another question, or of a version of the metric before a rebuild.",
        "Pass on `next` as it is, with the other parameters as they were; or begin again without it.",
    ),
    "bad_duration": ("A duration cannot be read.", "Write whole numbers with units, such as 250ms, 10s, 1h30m."),
    "bad_fill": ("`fill` has none of its values.", "Choose none, auto, null, zero, previous or linear."),
    "bad_format": ("There is no such format.", "Choose json, columns, csv, ndjson or arrow."),
    "bad_group_by": ("`group_by` names a field twice.", "Name each field once."),
    "bad_gzip": ("The body is no whole gzip stream.", "Send all of it, compressed once."),
    "bad_id": ("This is no id of an entry.", "Copy it from an answer; it looks like 1763928012400-0."),
    "bad_idempotency_key": ("The key is no plain text.", "Use 1 to 255 visible ASCII characters, such as a UUID."),
    "bad_limit": ("The limit is no whole number in its range.", "The message says the range."),
    "bad_other": ("`other` does not go with the other parameters.", "It needs an order by a value, and has no pages."),
    "bad_parameter": ("A parameter has none of its values.", "The message names them."),
    "bad_partition": ("The stream has no such partition.", "Count from 0; the message says how many there are."),
    "bad_replay": ("The replay's body says nothing that can be done.", "Name `ids`, or `all` with the list's `up_to`."),
    "bad_row": ("This is no number of a row.", "Count from 0."),
    "bad_state": ("There is no such state.", "Choose open, closed or final; of sessions also retracted."),
    "bad_step": (
        "The step and the zone do not go together.",
        "With `tz` write step=1d, 1w or month; without it a length.",
    ),
    "bad_time": ("A time cannot be read.", "Write RFC 3339, an epoch number, now, or -15m; a + in a URL is %2B."),
    "bad_time_request": ("The body says neither an end nor a heartbeat.", 'Send {"end": true} or {"heartbeat": time}.'),
    "bad_request": ("The request is no HTTP that can be read.", "Look at its first line and headers."),
    "bad_zstd": ("The body is no whole zstd frame.", "Send all of it, compressed once."),
    "beyond_64_bits": (
        "A sum is larger than an Arrow integer.",
        "Ask with format=json, or leave the value out of `agg`.",
    ),
    "cut_off": ("The body ends before it should.", "Send it again; the connection may have broken."),
    "empty": ("The body has no event.", "Send one JSON object, or several."),
    "fill_too_large": (
        "Filling the gaps would make too many rows.",
        "Ask for a shorter range, a wider step, or fewer groups.",
    ),
    "forbidden": ("This is not allowed.", "The message says why."),
    "foreign_host": ("The server answers to names of this machine only.", "Use localhost or 127.0.0.1."),
    "fused_stage": ("The stage runs inside those that read it.", "Ask for one of the stages the message names."),
    "gone": ("The rows are there no more.", "Look at the list again."),
    "idempotency_conflict": ("The key was used with another body.", "Use a new key for a new body."),
    "internal": ("The server has a fault.", "Its log says more; please report it."),
    "malformed_json": ("The body is no JSON.", "The message says at which byte."),
    "memory_full": ("Redis is at its memory limit.", "Wait; or raise maxmemory, or shorten retention."),
    "method_not_allowed": ("The path does not take this method.", "The header Allow says which it takes."),
    "no_account": ("The session was retracted or cannot be told from others.", "The message names the one it became."),
    "no_default_stream": ("The config has no default_stream.", "Use /v1/streams/{stream}/events, or set one."),
    "no_event": ("There is no such event in the log.", "It may have been trimmed; look at the newest events."),
    "no_event_time": ("The event's time cannot be told.", "Look at its dead letter."),
    "no_live_rows": ("The metric sends nothing downstream.", "Set output: rows, or poll it with If-None-Match."),
    "no_metrics": ("No metric to follow is named.", "Write metrics=a,b."),
    "no_rolling": ("The metric has no panes of one width.", "Ask a tumbling or hopping metric."),
    "no_stage": ("It is not said whose rows are meant.", "Write stage=NAME."),
    "no_start": ("It is not said where the window begins.", "Write start=TIME."),
    "no_stream": ("It is not said whose rows are meant.", "Write stream=NAME."),
    "no_window": ("There is no such window, or its length is not said.", "The message names the nearest one."),
    "not_for_sessions": ("A parameter has no meaning for sessions.", "Leave it out, or ask a metric with windows."),
    "not_found": ("There is nothing at this path.", "Look at /docs for what there is."),
    "not_mergeable": ("A value follows one group and says nothing of several.", "Choose other values with `agg`."),
    "not_one_event": ("The body is no single flat object.", "Send one event, or use /v1/streams/{stream}/events."),
    "not_ready": ("The installation does not do its work.", "The message lists what failed and what to do."),
    "not_utf8": ("A text is no UTF-8.", "Encode it as UTF-8; in a URL escape its bytes."),
    "range_too_long": ("The range holds too many windows.", "Ask for a shorter range, or a metric with wider windows."),
    "redis_away": ("Redis cannot be reached, or is loading.", "Wait `Retry-After` seconds and send it again."),
    "repeated_parameter": ("A parameter is given several times.", "Give it once."),
    "replayed_meanwhile": ("Somebody replayed some of the rows just now.", "Look at the list again."),
    "request_entity_too_large": ("The body is too large.", "Send it in parts."),
    "several_events": ("The entry has several events.", "Say which row."),
    "start_after_end": ("The range ends before it begins.", "Swap start and end."),
    "step_not_exact": ("The step is not made of whole windows.", "The message names the nearest that is."),
    "stopping": ("The server is stopping.", "Connect again in a moment."),
    "too_far_ahead": ("A time is too far in the future.", "Look at the clock that made it, and at the field's unit."),
    "too_large": ("The body, or what it inflates to, is too large.", "Send it in parts."),
    "too_many_metrics": ("Too many metrics for one live stream.", "Follow them in several."),
    "too_many_open": ("Too many sessions are open to look at.", "Ask with state=closed, or for one group."),
    "too_many_readers": (
        "The server has all the live readers it takes.",
        "Close some, or follow several metrics in one.",
    ),
    "trimmed": ("The log does not reach back that far.", "Ask for something newer; retention says how far it goes."),
    "unknown_event": ("There is no such entry in the log.", "It may have been trimmed."),
    "unknown_field": ("The metric has no such field or value.", "The message names the nearest one."),
    "unknown_metric": ("There is no such metric.", "/v1/metrics lists them."),
    "unknown_order": ("Rows have no such order.", "Use window or the name of a value, `-` before it for descending."),
    "unknown_parameter": ("There is no such parameter here.", "The message names the nearest; /docs lists them all."),
    "unknown_stage": ("There is no such stage.", "/v1/stages lists them."),
    "unknown_stream": ("There is no such stream.", "/v1/streams lists them."),
    "unknown_table": ("No log names this content of a table any more.", "Ask for one that the raw log names."),
    "unknown_zone": ("There is no such time zone.", "Write an IANA name such as Europe/Paris."),
    "unsupported_media_type": ("The body is compressed in an unknown way.", "Use gzip, zstd or nothing."),
    "which_row": ("The entry has several rows.", "Say which: row=0."),
    "window_not_exact": ("The trailing window is not made of whole panes.", "The message names the nearest that is."),
    "wrong_type": ("A value is not of its field's type.", "The message says which type that is."),
    "zone_not_exact": ("The zone's days begin within a window.", "The message names the nearest zone that is exact."),
    # why a row was refused: the code of the first one, where none of a batch was taken
    "malformed": ("A row, or the body, is not in the form it says it is.", "The message says where it stops being so."),
    "missing": ("A row lacks a field that the schema requires.", "Send it, or make the field nullable."),
    "nested": ("The event has objects or lists within it.", "Send a flat object."),
    "out_of_range": ("A number is beyond what its type holds.", "Integers have 64 bits, times the years 1 to 9999."),
    "too_deep": ("The JSON is nested too deeply.", "Flatten it."),
    "too_old": ("The event is older than the stream's max_age.", "Send it with backfill=true, or raise max_age."),
    "undeclared": ("A row has a field the schema refuses.", "Declare it, or set extra: drop."),
}


def type_of(code: str) -> str:
    """The `type` of a problem: where its code is explained, on the server that answered."""
    return f"{ERRORS_PATH}#{code}"


def errors_markdown() -> str:
    """The page docs/errors.md."""
    entries = "\n".join(
        f"## `{code}`\n\n{meaning} {way_out}\n" for code, (meaning, way_out) in sorted(ERROR_CODES.items())
    )
    return f"{_INTRODUCTION}\n{entries}"


_INTRODUCTION = """# Errors

Every error of the HTTP API is a problem (RFC 9457), and its `code` says what it is for programs. `type` points to the
code's entry on the server that answered, `/docs/errors#unknown_parameter`; this page has the same entries. `detail` is
about the very request: what was seen, and the way out.
"""
