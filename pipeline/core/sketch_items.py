"""How often each value occurs, for topk: exact for the first 10,000 items of a cell in stream order.

Items that come after those are not counted and the cell says `truncated`; items that are known go on being counted, so
a count of the answer is never an estimate.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import msgspec

from pipeline.core.accumulators import Slots, Values, part_name
from pipeline.core.item_counts import count_items
from pipeline.core.sketches import OneByOne, as_slots, decode, items_weight, rising

ITEMS_CAP = 10_000  # distinct items of a cell that are counted

Item = int | str


@dataclass(slots=True)
class ItemCounts:
    """Item → count, in the order of their first occurrence; `truncated` when an item was turned away."""

    counts: dict[Item, int]
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Items(OneByOne):
    """Counts of the first `cap` distinct values of a cell; merges of cells hold up to `cap` of each."""

    field: str
    where: str | None = None
    cap: int = ITEMS_CAP

    @property
    def name(self) -> str:
        return part_name(f"items({self.field})", self.where)

    @property
    def incremental(self) -> bool:
        return True

    def empty(self) -> ItemCounts:
        return ItemCounts({})

    def lift(self, new: Values) -> tuple[Slots, list[ItemCounts]]:
        slots, partials = [], []
        for slot, items, counts in count_items(new.slots, new.values):
            slots.append(slot)
            partials.append(ItemCounts(dict(zip(items, counts, strict=True))))
        return as_slots(slots), partials

    def fold(self, whole: ItemCounts, fresh: ItemCounts) -> tuple[ItemCounts, ItemCounts]:
        admitted = fresh
        if len(whole.counts) + len(fresh.counts) > self.cap:
            admitted = self._admitted(whole, fresh)
        return self.merge(whole, admitted), admitted

    def _admitted(self, whole: ItemCounts, fresh: ItemCounts) -> ItemCounts:
        room = self.cap - len(whole.counts)
        counts: dict[Item, int] = {}
        truncated = fresh.truncated
        for item, count in fresh.counts.items():
            if item in whole.counts:
                counts[item] = count
            elif room > 0:
                counts[item] = count
                room -= 1
            else:
                truncated = True
        return ItemCounts(counts, truncated)

    def merge(self, into: ItemCounts, other: ItemCounts) -> ItemCounts:
        into.truncated |= other.truncated
        if not into.counts:
            into.counts = dict(other.counts)
            return into
        counts = into.counts
        known = counts.get
        for item, count in other.counts.items():
            counts[item] = known(item, 0) + count
        return into

    def dump(self, value: ItemCounts) -> bytes:
        items = sorted(value.counts)  # all strings or all integers
        return msgspec.msgpack.encode((value.truncated, items, [value.counts[item] for item in items]))

    def restore(self, data: bytes) -> ItemCounts:
        truncated, items, counts = decode(_DUMP, data, self.name)
        if len(items) != len(counts) or not rising(items) or min(counts, default=1) < 1:
            raise ValueError(f"{len(data)} bytes are not a dump of {self.name}: items {items[:5]}…, {counts[:5]}…")
        return ItemCounts(dict(zip(items, counts, strict=True)), truncated)

    def weight(self, value: ItemCounts) -> int:
        return 6 + items_weight(value.counts, len(value.counts)) + len(value.counts)


_DUMP = msgspec.msgpack.Decoder(tuple[bool, list[int | str], list[int]])


def top(value: ItemCounts, k: int) -> list[tuple[Item, int]]:
    """Return the `k` most frequent items with their counts: by count, then ascending (strings by code point)."""
    return heapq.nsmallest(k, value.counts.items(), key=lambda pair: (-pair[1], pair[0]))
