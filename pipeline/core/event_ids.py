"""The ids of a body's good rows, as 8-byte hashes: what the door knows a row again by that it has stored before.

Invariant: one id has one hash however its row was sent, NDJSON, CSV or Arrow, and a row without an id has none. Two
different ids have the same hash once in 2^64: of ten million that are remembered, one in 10^12 is taken for another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import polars as pl

from pipeline.core.arrow_numpy import Mask
from pipeline.core.arrow_validation import CheckedColumns
from pipeline.core.definitions import Stream
from pipeline.core.hashing import Hashes, hash_series
from pipeline.core.schema import slices, struct_type
from pipeline.core.timestamps import Int64
from pipeline.core.validation import Checked


@dataclass(frozen=True, slots=True)
class Ids:
    """Rows and their ids: `hashes[i]` is that of the row at `places[i]` among the good rows of a body, each id once.

    `rows`: the places of all rows, also of those without an id. `repeated`: rows whose id an earlier one of them has.
    """

    rows: Int64
    places: Int64
    hashes: Hashes
    repeated: int = 0

    @property
    def packed(self) -> bytes:
        """8 bytes each, as they are kept."""
        return self.hashes.astype("<u8", copy=False).tobytes()

    def without(self, numbers: Int64) -> Ids:
        """Those left when the rows of some ids, by their numbers here, are gone."""
        gone = self.places[numbers]
        return replace(
            self,
            rows=self.rows[~np.isin(self.rows, gone)],
            places=np.delete(self.places, numbers),
            hashes=np.delete(self.hashes, numbers),
        )


class IdReader:
    """Reads the ids of judged bodies of one stream, which has a `dedup`."""

    def __init__(self, stream: Stream) -> None:
        assert stream.dedup is not None, f"{stream.name} has no dedup"
        self._key = stream.dedup.key
        self._decoder = msgspec.json.Decoder(struct_type(stream, [self._key]))

    def hashes(self, checked: Checked | CheckedColumns) -> tuple[Hashes, Mask]:
        """The hash of each good row's id, and which of them have one."""
        series = self._column(checked)
        return hash_series(series), series.is_not_null().to_numpy()

    def _column(self, checked: Checked | CheckedColumns) -> pl.Series:
        column: Any = None
        if isinstance(checked, CheckedColumns):
            column = checked.batch.column(self._key)
        elif checked.native is not None and self._key in checked.native.columns.schema.names:
            column = checked.native.columns.column(self._key)
        if column is not None:
            series = pl.Series(column)
            return series if series.dtype == pl.Int64 else series.cast(pl.String)
        body = checked.body if isinstance(checked, Checked) else b""
        values = [
            getattr(row, self._key) for piece in slices(body) if piece for row in self._decoder.decode_lines(piece)
        ]
        is_text = any(isinstance(value, str) for value in values)
        return pl.Series(values, dtype=pl.String if is_text else pl.Int64)


def ids_of(rows: Int64, hashes: Hashes, given: Mask) -> Ids:
    """The ids of some rows of a body, by the hash of every good row of it; of equal ones the first row is kept."""
    places = rows[given[rows]]
    first = np.sort(np.unique(hashes[places], return_index=True)[1])
    kept = places[first]
    again = np.setdiff1d(places, kept, assume_unique=True)
    return Ids(rows[~np.isin(rows, again)], kept, hashes[kept], len(again))
