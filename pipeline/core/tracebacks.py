"""The traceback of a user's code, as a dead letter or a log line shows it: from that code on, and bounded."""

from __future__ import annotations

import traceback
from types import TracebackType

MAX_TRACEBACK_LENGTH = 2_000  # characters of a dead letter's message; the end of a traceback says most


def traceback_text(error: BaseException) -> str:
    """The traceback below the call that caught the error, at most its last MAX_TRACEBACK_LENGTH characters."""
    below: TracebackType | None = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, below)).rstrip()
    return text if len(text) <= MAX_TRACEBACK_LENGTH else f"…{text[-MAX_TRACEBACK_LENGTH:]}"
