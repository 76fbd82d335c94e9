"""Texts of senders as a terminal may get them: shown, and never obeyed.

Invariant: what is printed holds no control character and nothing that turns the direction of text round, so a value
can neither colour, move nor rename anything beside it. JSON stays the same JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# U+2400 to U+2421 show control characters, U+FFFD stands for those that have no picture.
PICTURES: Mapping[int, int] = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
C1_CONTROLS = range(0x80, 0xA0)  # U+009B begins a command like ESC [ does
# Marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm: "exe.txt" shown for a name "txt.exe".
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = dict(PICTURES) | dict.fromkeys((*C1_CONTROLS, *_TURNING), 0xFFFD)
_LEFT_BY_JSON = re.compile(f"[{''.join(map(chr, (0x7F, *C1_CONTROLS, *_TURNING)))}]")


def terminal_text(text: str) -> str:
    """One line for a table."""
    return text.translate(_SHOWN)


def json_line(value: Any) -> str:
    """JSON for people and programs: other scripts as they are, every control character escaped."""
    return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
