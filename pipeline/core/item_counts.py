"""How often each item occurs in each cell of a batch; apart from `sketches`, so that cells are read without polars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from pipeline.core.accumulators import Column, Slots
from pipeline.core.sketches import runs, stable_order


def count_items(slots: Slots, values: Column) -> Iterator[tuple[int, list[Any], list[int]]]:
    """Yield (slot, distinct items, how often each) by ascending slot, the items in order of their first occurrence."""
    dtype = pl.String() if values.dtype == object else pl.Int64()
    frame = pl.DataFrame({"slot": slots.astype(np.int64), "item": pl.Series(values, dtype=dtype)})
    counted = frame.group_by("slot", "item", maintain_order=True).agg(pl.len().alias("n").cast(pl.Int64))
    order = stable_order(counted["slot"].to_numpy())
    items, counts = counted["item"].gather(order).to_list(), counted["n"].to_numpy()[order].tolist()
    for slot, begin, end in runs(counted["slot"].to_numpy()[order]):
        yield slot, items[begin:end], counts[begin:end]
