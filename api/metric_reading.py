"""A metric's whole answer, read page by page.

Invariant: every row of the answer comes once, whatever its size, or the reader is told that it is not all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.client_queries import Query

PAGE_ROWS = 50_000  # of one answer, some 10 MB; the API gives at most 100,000

Get = Callable[[str, Query], dict[str, Any]]
Row = dict[str, Any]


def all_rows(get: Get, path: str, query: Query, order: str | None) -> tuple[list[Row], dict[str, Any]]:
    """Return every row of an answer and the `meta` of its first page."""
    query = {**query, "limit": str(PAGE_ROWS)}
    page = get(path, query)
    rows, meta = list(page["data"]), page["meta"]
    while len(page["data"]) >= PAGE_ROWS:
        whole = _whole_windows(rows, path, order)
        page = get(path, {**query, "start": str(rows[-1]["window_start"])})
        rows = whole + page["data"]
    return rows, meta


def _whole_windows(rows: list[Row], name: str, order: str | None) -> list[Row]:
    """Return the rows before the last window, which the next page begins with: a page may end inside a window."""
    if order not in (None, "window"):
        raise ValueError(
            f"{name}: more than {PAGE_ROWS} rows come in pages by window: leave order out, or give a limit"
        )
    last = rows[-1]["window_start"]
    whole = [row for row in rows if row["window_start"] < last]
    if len(rows) - len(whole) >= PAGE_ROWS:
        raise ValueError(
            f"{name}: one window has more than {PAGE_ROWS} groups: choose some with where, or give a limit"
        )
    return whole
