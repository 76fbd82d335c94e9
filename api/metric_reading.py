"""A metric's whole answer, read page by page as columns.

Invariant: every row of the answer comes once and in its order, whatever its size; what is left out is said
(`truncated`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api.client_queries import Query

PAGE_ROWS = 50_000  # of one answer, some 5 MB; the API gives at most 100,000

Get = Callable[[str, Query], dict[str, Any]]
Row = dict[str, Any]
Columns = dict[str, list[Any]]


def all_rows(get: Get, path: str, query: Query, limit: int | None) -> tuple[Columns, dict[str, Any]]:
    """Return the first `limit` rows of an answer, or all, and its `meta`: of the first page, for it is never more
    complete than the later ones; but what was capped, failed or left out in any of them.
    """
    columns: Columns = {}
    meta: dict[str, Any] = {}
    asked, cursor, left = query, None, limit
    while True:
        rows = PAGE_ROWS if left is None else min(PAGE_ROWS, left)
        page = get(path, {**asked, "format": "columns", "limit": str(rows)})
        meta = _together(meta, page["meta"])
        for name, values in page["data"].items():
            columns.setdefault(name, []).extend(values)
        cursor = page["next"]
        left = None if left is None else left - len(page["data"]["window_start"])
        if cursor is None or left == 0:
            return columns, meta
        asked = {**query, "cursor": cursor}


def _together(before: dict[str, Any], page: dict[str, Any]) -> dict[str, Any]:
    if not before:
        return page
    joined = {name: sorted({*before[name], *page[name]}) for name in ("capped", "failed")}
    return before | joined | {"truncated": page["truncated"]}
