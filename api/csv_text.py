"""Rows as CSV (RFC 4180), defused: nothing in a cell is run by a spreadsheet or commands a terminal.

Invariant: every CSV of ours comes from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from api.terminal_texts import C1_CONTROLS, PICTURES

# What a spreadsheet takes for a formula (OWASP, CSV injection): a text that begins so gets an apostrophe before it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Control characters end a text early or command a terminal: U+2400 to U+2421 show them, U+FFFD stands for the others.
_PICTURES = {code: shown for code, shown in PICTURES.items() if chr(code) not in "\t\r\n"}
_CONTROLS = _PICTURES | dict.fromkeys(C1_CONTROLS, 0xFFFD)
_NEEDS_QUOTES = re.compile(r'[,"\r\n]')


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as RFC 4180 has them: null is an empty cell, the empty text is `""`, a list is one cell of JSON."""
    return "".join(f"{','.join(map(_cell, row))}\r\n" for row in rows)


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
