"""What a caller asks of a metric, in the words of the API: every parameter of a query as the text it travels as.

Invariant: nothing is judged here but what has no text; what a parameter may say is the server's to judge, in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from pipeline.core.ndjson import is_missing, plain_value
from pipeline.core.times import format_duration

Time = str | int | date | datetime
Duration = str | timedelta
Names = str | Sequence[str]
Where = Mapping[str, Any]
Query = dict[str, str | list[str]]


def query_texts(asked: Mapping[str, Any]) -> Query:
    """Texts of what was said; None was not."""
    return {name: _text(value) for name, value in asked.items() if value is not None}


def where_texts(where: Where | None) -> Query:
    """`where.<field>` for each field; several values of one mean any of them.

    Raises:
        ValueError: a value is missing: a group that is null cannot be asked for.
    """
    found: Query = {}
    for name, value in (where or {}).items():
        several = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
        if not several or any(is_missing(each) for each in several):
            raise ValueError(f"where: {name!r} needs a value; leave the field out to have every value of it")
        texts = [_text(each) for each in several]
        found[f"where.{name}"] = texts if len(texts) > 1 else texts[0]
    return found


def duration_text(duration: Duration | None) -> str | None:
    """`1h30m` of a timedelta; a text as it is."""
    return format_duration(round(duration.total_seconds() * 1000)) if isinstance(duration, timedelta) else duration


def names_text(names: Names | None) -> str | None:
    """Names joined by commas; no names at all is the empty text, which is not the same as not asking."""
    return names if names is None or isinstance(names, str) else ",".join(names)


def _text(value: Any) -> str:
    plain = plain_value(value)
    return str(plain).lower() if isinstance(plain, bool) else str(plain)
