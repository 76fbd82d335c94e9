"""The raw log of a stream, read page by page and partition by partition.

Invariant: the rows of each partition come whole and in their order, or a trim that overtook the pages is said (410).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from api.client_queries import Time, query_texts
from api.metric_reading import Get, Row

PAGE_ROWS = 20_000


def raw_rows(get: Get, path: str, partitions: int, start: Time | None, end: Time | None) -> list[Row]:
    """Return every line of the log at `path`, each with its `partition`."""
    rows: list[Row] = []
    for partition in range(partitions):
        asked: dict[str, Any] = {"start": start}
        while asked:
            page = get(path, query_texts({"partition": partition, "end": end, "limit": PAGE_ROWS} | asked))
            rows += [row | {"partition": partition} for row in page["rows"]]
            asked = {} if page["next"] is None else {"after": page["next"]}
    return rows


def content_paths(rows: list[Row]) -> dict[str, str]:
    """Where each content of a lookup table that the log names is kept, by its hash."""
    hashes = dict.fromkeys(row["hash"] for row in rows if "hash" in row)
    return {named: f"/v1/tables/{quote(named, safe='')}" for named in hashes}
