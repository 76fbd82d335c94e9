"""Why a row is refused at the door: one code a rule, and a message a sender can act on.

Invariant: a refusal carries the row's own bytes, so that quarantine can show and replay exactly what was sent.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import msgspec

from pipeline.core.times import about_duration, format_duration
from pipeline.errors import BadRequestError

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BRACKETS = re.compile(rb"[\[\]{}]")
_AT = re.compile(r" - at `\$\.?(?P<field>[A-Za-z]\w*)?(?P<rest>.*)`$")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")
_UNKNOWN = re.compile(r"contains unknown field `(?P<field>.*)`", re.DOTALL)
_LONE_SURROGATE = r"not valid Unicode: half of a surrogate pair, such as \ud800, stands alone"
_MESSAGE_CHARS = 300  # of a message: an undeclared field's name may be as long as the row


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused row: its index among the received, the field at fault if it is one, the rule, and the bytes.

    `header`: of a row of CSV the line that names its columns, without which its bytes say nothing.
    """

    index: int
    field: str | None
    code: str
    message: str
    body: bytes
    header: bytes = b""


def explain(index: int, line: bytes, error: msgspec.MsgspecError) -> Refusal:
    """Say in the schema's words what msgspec found wrong with one row."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        if has_lone_surrogate(line):
            return Refusal(index, None, "not_utf8", _LONE_SURROGATE, line)
        return Refusal(index, None, "malformed", f"not one JSON object: {_reason(text)}", line)
    if (match := _MISSING.search(text)) is not None:
        return Refusal(index, match["field"], "missing", f"{match['field']} is missing; the schema requires it", line)
    if (match := _UNKNOWN.search(text)) is not None:
        name = match["field"][:_MESSAGE_CHARS]
        return Refusal(index, name, "undeclared", f"{name} is not in the schema, which refuses other fields", line)
    at = _AT.search(text)
    field = at["field"] if at is not None else None
    code = "out_of_range" if "out of range" in text or "<=" in text or ">=" in text else "wrong_type"
    where = f"{field}{at['rest']}" if at is not None and field else "the row"
    return Refusal(index, field, code, f"{where}: {_AT.sub('', text)}".replace("`", ""), line)


def _reason(text: str) -> str:
    return text.removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")


def malformed_document(body: bytes, error: Exception) -> Refusal:
    """A body in which not even rows can be told apart."""
    if isinstance(error, RecursionError):
        return Refusal(0, None, "too_deep", "the JSON document is nested too deeply to be read", body)
    if has_lone_surrogate(body):
        return Refusal(0, None, "not_utf8", _LONE_SURROGATE, body)
    reason = _reason(str(error))
    if "trailing characters" in reason and body.lstrip()[:1] == b"[":
        reason = (
            f"it begins with an array, so all of it is read as one, and more comes behind its end: {reason}. Put all "
            "rows into the array; or send NDJSON, where the first line is an object too"
        )
    return Refusal(0, None, "malformed", f"the body is not JSON: {reason}", body)


def too_large(index: int, line: bytes, limit: int) -> Refusal:
    return Refusal(index, None, "too_large", f"the row has {len(line):,} bytes; at most {limit:,} are taken", line)


def too_deep(index: int, line: bytes, limit: int) -> Refusal:
    return Refusal(index, None, "too_deep", f"the row is nested more than {limit} levels deep", line)


def too_far_ahead(name: str, ahead_ms: int, max_future_ms: int) -> tuple[str, str, str]:
    """Field, code and message of a time beyond `max_future`."""
    message = (
        f"{name} is {about_duration(ahead_ms)} ahead of the server's clock; max_future is "
        f"{format_duration(max_future_ms)}. Check the sender's clock and the field's unit"
    )
    return name, "too_far_ahead", message


def too_old(name: str, age_ms: int, max_age_ms: int) -> tuple[str, str, str]:
    """Field, code and message of a time before `max_age`."""
    return name, "too_old", f"{name} is {about_duration(age_ms)} old; max_age is {format_duration(max_age_ms)}"


def too_many_rows(limit: int) -> BadRequestError:
    return BadRequestError(
        f"The body has more than {limit:,} rows. Send smaller batches.", code="too_large", status=413
    )


def written_out_too_large(limit: int) -> BadRequestError:
    return BadRequestError(
        f"The rows are more than {limit:,} bytes once they are written out with the names of their fields. "
        "Send smaller batches.",
        code="too_large",
        status=413,
    )


def not_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return False


def has_lone_surrogate(text: bytes) -> bool:
    """True where JSON that is whole otherwise escapes half a character: msgspec may call that a text cut short."""
    if _SURROGATE.search(text) is None:
        return False
    try:
        # Unlike msgspec, json takes halves; pairs, since a dict would drop what stands under a repeated key.
        value = json.dumps(json.loads(text, object_pairs_hook=list), ensure_ascii=False)
    except (ValueError, RecursionError):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def depth_exceeds(line: bytes, limit: int) -> bool:
    """True where brackets outside strings nest deeper than `limit`; counting them settles nearly every row."""
    if line.count(b"[") + line.count(b"{") <= limit:
        return False
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            return True
    return False
