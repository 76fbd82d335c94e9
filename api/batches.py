"""Rows as requests of at most so many, and what the door said of each.

Invariant: the rows of the batches, in order, are the rows that were given.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from pipeline.core.ndjson import encode_rows
from pipeline.runtime.door import RowError, SendResult

Rows = Iterable[Mapping[str, Any]]


def row_bodies(rows: Rows, size: int) -> Iterator[tuple[bytes, int]]:
    """NDJSON of `size` rows at a time, each with its row count; the rows may come one by one, for ever.

    Raises:
        TypeError: something is no row, or a value has no JSON form; the message names it.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise TypeError(f"send takes a list of dicts or a DataFrame, not a {type(rows).__name__}; one row is [row]")
    if size < 1:
        raise ValueError(f"batch is the rows of one request, at least 1, got {size}")
    checked = _checked(rows)
    while part := list(islice(checked, size)):
        yield encode_rows(part), len(part)


def _checked(rows: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {index}: send takes dicts, one a row, not a {type(row).__name__}: {row!r:.60}")
        yield row


def batch_keys(key: str | None) -> Iterator[str]:
    """One idempotency key a batch: new ones, or those that the caller's key gives, the same ones every time."""
    number = 0
    while True:
        yield uuid.uuid4().hex if key is None else f"{key}.{number}"
        number += 1


def send_result(said: Mapping[str, Any], status: int, count: int) -> SendResult:
    """Read a 202, or a 422, which is the same report when nothing was accepted."""
    errors = tuple(
        RowError(e.get("index") or 0, e.get("field"), str(e.get("code", "")), str(e.get("message", "")))
        for e in said.get("errors", [])
    )
    if status == 422:
        return SendResult(rejected=said.get("rejected", count), errors=errors)
    return SendResult(
        said["accepted"], said["rejected"], said["duplicates"], errors, said.get("skew_ms"), said.get("applied")
    )
