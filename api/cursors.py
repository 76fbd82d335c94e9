"""The cursor of a page: where the page before it ended, and of which question. Opaque to whoever passes it on.

A relative range is the one the first page was answered for: `-1h` does not move between two pages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from api.parameter_values import Arguments
from pipeline.core.programs import Program
from pipeline.errors import BadRequestError
from pipeline.runtime.answer import Answer
from pipeline.runtime.answer_positions import Position

NOT_OF_THE_QUESTION = ("cursor", "limit", "format")  # a page may be longer, or written otherwise, than the one before
_QUESTION_BYTES = 9


class _Page(msgspec.Struct, array_like=True):
    question: str
    start_ms: int | None
    end_ms: int | None
    window_start: int
    window_end: int
    group: str
    value: Any


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page begins: after a row, in the range of the first page."""

    start_ms: int | None
    end_ms: int | None
    after: Position


def next_cursor(args: Arguments, answer: Answer) -> str | None:
    """The cursor of the page after an answer, where there is one."""
    last = answer.last
    if last is None:
        return None
    question = _question(args, answer.program)
    page = _Page(question, answer.start_ms, answer.end_ms, last.start_ms, last.end_ms, last.group.decode(), last.value)
    return base64.urlsafe_b64encode(msgspec.json.encode(page)).rstrip(b"=").decode()


def read_cursor(args: Arguments, program: Program) -> Page | None:
    """The page that is asked for; None for the first one.

    Raises:
        BadRequestError: 400, it is none of ours, or of another question.
    """
    text = args.get("cursor")
    if text is None:
        return None
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        page = msgspec.json.decode(raw, type=_Page)
        group = page.group.encode()
        msgspec.json.decode(group)
    except (binascii.Error, ValueError):
        raise BadRequestError(
            "cursor: this is no cursor of ours; pass on the `next` of an answer as it is, or leave cursor out",
            code="bad_cursor",
        ) from None
    if page.question != _question(args, program):
        raise BadRequestError(
            "cursor: it is of another question, or of a version of the metric before a rebuild; leave every "
            "other parameter but limit and format as it was, or begin again without cursor",
            code="bad_cursor",
        )
    return Page(page.start_ms, page.end_ms, Position(page.window_start, page.window_end, group, page.value))


def _question(args: Arguments, program: Program) -> str:
    """A hash of the parameters as they were given and of the version that answers."""
    given = sorted((name, value) for name, value in args.items(multi=True) if name not in NOT_OF_THE_QUESTION)
    text = msgspec.json.encode((program.name, program.version, given))
    return base64.urlsafe_b64encode(hashlib.blake2b(text, digest_size=_QUESTION_BYTES).digest()).decode()
