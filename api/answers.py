"""A metric's answer on the wire: the JSON envelope and CSV.

Invariant: rows are flat and their columns come in one order: the window, its state, the group's fields, the values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from flask import Response

from api.parameters import Format
from pipeline.core.aggregates import Finisher
from pipeline.core.definitions import Calendar, Cumulating, Hopping, Session, Tumbling
from pipeline.core.programs import Program
from pipeline.runtime.query import Answer

WINDOW_COLUMNS = ("window_start", "window_end", "state", "revision")
# What a spreadsheet takes for a formula (OWASP, CSV injection): a text that begins so gets an apostrophe before it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Control characters end a text early or command a terminal: U+2400 to U+2421 show them, U+FFFD stands for the others.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\r\n"} | {0x7F: 0x2421}
_CONTROLS = _PICTURES | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_NEEDS_QUOTES = re.compile(r'[,"\r\n]')


def json_response(body: Any, status: int = 200) -> Response:
    """An answer of ours: never kept by a cache without asking, never taken for another type."""
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(msgspec.json.encode(body), status, headers, content_type="application/json")


def metric_response(answer: Answer, form: Format) -> Response:
    """Write an answer in the form that was asked for."""
    if form == "csv":
        return _csv_response(answer)
    return json_response({"data": answer.rows, "meta": meta(answer), "next": None})


def meta(answer: Answer) -> dict[str, Any]:
    """What an answer covers and how complete it is; times are epoch milliseconds, null where unknown."""
    program, completeness = answer.program, answer.completeness
    return {
        "start": answer.start_ms,
        "end": answer.end_ms,
        "step": answer.step_ms,
        "window": window(program),
        "watermark": completeness.watermark_ms,
        "complete_from": completeness.complete_from_ms,
        "complete_to": completeness.complete_to_ms,
        "complete_by": completeness.complete_by,
        "unit": dict.fromkeys(program.value_types)
        | {finisher.spec.name: measure(program, finisher) for finisher in program.finishers},
        "truncated": answer.truncated,
        "tier": answer.tier_ms,
        "capped": sorted(answer.capped),
        "failed": sorted(answer.failed),
    }


def window(program: Program) -> dict[str, Any]:
    """A window's definition as JSON: `{"tumbling_ms": 10000, "offset_ms": 0}`; durations in milliseconds."""
    match program.window:
        case Tumbling(size_ms, offset_ms):
            return {"tumbling_ms": size_ms, "offset_ms": offset_ms}
        case Hopping(size_ms, every_ms, offset_ms):
            return {"hopping_ms": size_ms, "every_ms": every_ms, "offset_ms": offset_ms}
        case Cumulating(size_ms, every_ms, offset_ms):
            return {"cumulating_ms": size_ms, "every_ms": every_ms, "offset_ms": offset_ms}
        case Calendar(unit, zone):
            return {"calendar": unit, "tz": zone}
        case Session(gap_ms, max_ms):
            return {"session_ms": gap_ms, "max_ms": max_ms}


def measure(program: Program, finisher: Finisher) -> str | None:
    """The unit of a value: its field's, except of a count, which has none."""
    if finisher.spec.field is None or finisher.spec.function == "count":
        return None
    field = program.stream.field(finisher.spec.field)
    return field.measure if field else None


def columns(program: Program) -> list[str]:
    """The columns of a metric's rows, in order."""
    return [*WINDOW_COLUMNS, *program.stage.group_by, *program.value_types]


def _csv_response(answer: Answer) -> Response:
    """RFC 4180 with a header row; the account of completeness goes in headers, so that the body stays a table."""
    names = columns(answer.program)
    text = csv_text(names, ([row[name] for name in names] for row in answer.rows))
    said = {
        "Streamgauge-Watermark": answer.completeness.watermark_ms,
        "Streamgauge-Complete-From": answer.completeness.complete_from_ms,
        "Streamgauge-Complete-To": answer.completeness.complete_to_ms,
        "Streamgauge-Complete-By": answer.completeness.complete_by,
        "Streamgauge-Truncated": str(answer.truncated).lower(),
    }
    headers = {name: str(value) for name, value in said.items() if value is not None}
    headers |= {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(text, 200, headers, content_type="text/csv; charset=utf-8; header=present")


def csv_text(names: Sequence[str], rows: Any) -> str:
    """Rows as RFC 4180 has them: null is an empty cell, the empty text is `""`, a list is one cell of JSON.

    Formulas and control characters are defused. Every CSV of ours comes from here.
    """
    return "".join(f"{','.join(map(_cell, row))}\r\n" for row in (names, *rows))


def _cell(value: Any) -> str:
    """One cell: lists as JSON. The csv module writes null and the empty text alike before Python 3.12."""
    match value:
        case None:
            return ""
        case str():
            return _text_cell(value)
        case int() | float() if not isinstance(value, bool):
            return str(value)
        case _:
            return _text_cell(msgspec.json.encode(value).decode())


def _text_cell(text: str) -> str:
    safe = text.translate(_CONTROLS)
    if safe.startswith(FORMULA_STARTS):
        safe = f"'{safe}"
    if not safe or _NEEDS_QUOTES.search(safe):
        return '"' + safe.replace('"', '""') + '"'
    return safe
