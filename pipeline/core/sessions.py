"""The live sessions of one stage and partition as columns; a batch folds into them exactly as if each event came alone.

    one key, gap = 3        ........aa.a....b.bb......c....     events at most a gap apart are one session
    chain from the newest                           head=c -> b -> a       `older` of each; a key has few live sessions

An event joins the earliest session it touches (at most a gap away, on either side); one that bridges two merges the
later into the earlier. Most keys bring one run of events that meets one session or none: those are found column-wise
and folded in one go. A key with anything else (a bridge, a run that only an existing session holds together, a form
that may have been published and now changes) is walked event by event, for that key alone. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.accumulators import Column, Int64, Slots, Values
from pipeline.core.cell_fields import ALWAYS
from pipeline.core.cell_keys import CellKey, CellKeys
from pipeline.core.cell_layout import RECORDS, Layout
from pipeline.core.definitions import Session
from pipeline.core.json_names import json_names
from pipeline.core.names import Int32, Names, joined
from pipeline.core.session_form import pack_sessions, parse_session
from pipeline.core.session_keys import NONE, SessionKeys
from pipeline.core.session_runs import FAR_MS, Mask, Runs, fold_in_order, runs_of
from pipeline.core.session_walk import Form, Span, Walk

FoldValues = Callable[[Slots | None, Slots], None]
"""Fold rows (None: all) of the batch into slots, one a row, in stream order."""

_GROUP_AT = len(ALWAYS)  # in a cell field, of the blank and the group's JSON
_FIRST_CAPACITY = 64
_MOST_KEYS = 2  # for each live session, and _FEW_KEYS beside: then those without a session are forgotten
_FEW_KEYS = 1_024


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A batch's rows, none of them late, before they meet the sessions there are.

    `keys`: the distinct keys, (slice of time, cell field) each: sessions of different keys never meet. `key_of`: the
    number of each row's; `times_ms` of each row, `watermarks_ms` the partition's watermark before it.
    """

    keys: CellKeys
    key_of: Slots
    times_ms: Int64
    watermarks_ms: Int64
    runs: Runs

    @classmethod
    def of(
        cls, keys: Iterable[CellKey], key_of: Slots, times_ms: Int64, watermarks_ms: Int64, window: Session
    ) -> Arrivals:
        return cls(CellKeys.of(keys), key_of, times_ms, watermarks_ms, runs_of(key_of, times_ms, window.gap_ms))


@dataclass(frozen=True, slots=True)
class Changed:
    """What a batch changed: slots of the sessions to write, the fields of those that are gone, and slots set free."""

    slots: Slots
    gone: list[bytes]
    released: Slots


class SessionTable:
    """Live sessions by slot; `published` is the runtime's: whether a slot's present form is out."""

    def __init__(self, layout: Layout, window: Session) -> None:
        self.layout = layout
        self.window = window
        self.columns = layout.blank(_FIRST_CAPACITY)
        self.firsts = np.zeros(_FIRST_CAPACITY, dtype=np.int64)
        self.lasts = np.zeros(_FIRST_CAPACITY, dtype=np.int64)
        self.live = np.zeros(_FIRST_CAPACITY, dtype=np.bool_)
        self.published = np.zeros(_FIRST_CAPACITY, dtype=np.bool_)
        self.forebears: dict[int, list[Span]] = {}
        self._keys = SessionKeys(window)
        self._key = np.zeros(_FIRST_CAPACITY, dtype=np.int32)  # its number
        self._older = np.full(_FIRST_CAPACITY, NONE, dtype=np.intp)
        self._newer = np.full(_FIRST_CAPACITY, NONE, dtype=np.intp)
        self._free = np.arange(_FIRST_CAPACITY - 1, -1, -1, dtype=np.intp)  # a stack of `_n_free`
        self._n_free = _FIRST_CAPACITY

    def __len__(self) -> int:
        return len(self.live) - self._n_free

    # --- a batch

    def fold(self, new: Arrivals, fold_values: FoldValues) -> Changed:
        """Fold a batch into its sessions; `fold_values` folds values of rows into slots of `columns`."""
        if not len(new.key_of):
            nothing = np.empty(0, dtype=np.intp)
            return Changed(nothing, [], nothing)
        numbers = self._keys.numbers(new.keys)
        runs, heads = new.runs, self._keys.heads[numbers]
        walked = np.zeros(len(new.keys), dtype=np.bool_)
        walked[runs.keys[~self._is_plain(runs, heads[runs.keys], new.watermarks_ms)]] = True
        plain = ~walked[runs.keys]
        run_slots, gone = self._place(numbers, runs, heads, plain)
        slots = np.empty(len(new.key_of), dtype=np.intp)
        slots[runs.order] = run_slots[runs.run_of]
        changed = run_slots[plain]
        walk = Walk(self.window.gap_ms, lambda: int(self._allocate(1)[0]))
        if walked.any():
            walked_slots, walked_gone = self._walk(new, numbers, walked, slots, walk)
            changed, gone = np.concatenate([changed, walked_slots]), gone + walked_gone
        self._fold(walk, slots, fold_values)
        self.published[changed] = False
        merged = [slot for pairs in walk.merges.values() for _, slot in pairs]
        return Changed(changed, gone, np.array(merged, dtype=np.intp))

    def _is_plain(self, runs: Runs, heads: Slots, watermarks_ms: Int64) -> Mask:
        """For each run, whether it folds in stream order into one session: its key's newest, or a new one after it."""
        gap_ms = self.window.gap_ms
        has = heads >= 0
        head_first, head_last = self.firsts[heads], self.lasts[heads]
        touches = has & (runs.lows <= head_last + gap_ms) & (runs.highs >= head_first - gap_ms)
        olders = self._older[heads]
        alone = (olders < 0) | (runs.lows > self.lasts[olders] + gap_ms)
        plain = ~has | (touches & alone & runs.begins_key) | (runs.lows > head_last + gap_ms)
        held = (np.where(touches, head_first, FAR_MS), np.where(touches, head_last, -FAR_MS))
        return plain & fold_in_order(runs, held, watermarks_ms, gap_ms)

    def _place(self, numbers: Int32, runs: Runs, heads: Slots, plain: Mask) -> tuple[Slots, list[bytes]]:
        """Give every plain run its slot, grown or new; return the slot of each run, and the fields that are gone."""
        slots = heads[runs.keys]
        joins = plain & (slots >= 0) & (runs.lows <= self.lasts[slots] + self.window.gap_ms)
        grown, lows = slots[joins], runs.lows[joins]
        gone = self.fields(grown[lows < self.firsts[grown]]).tolist()
        self.firsts[grown] = np.minimum(self.firsts[grown], lows)
        self.lasts[grown] = np.maximum(self.lasts[grown], runs.highs[joins])
        opens = np.flatnonzero(plain & ~joins)
        if len(opens):
            self._open(numbers, runs, slots, opens)
        return slots, gone

    def _open(self, numbers: Int32, runs: Runs, slots: Slots, opens: Slots) -> None:
        """Make the new sessions of the runs `opens` and chain each to the one before it; fill in their slots."""
        new = self._allocate(len(opens))
        older = slots[opens]  # the key's newest so far, if any
        slots[opens] = new
        follows = ~runs.begins_key[opens]
        older[follows] = slots[opens[follows] - 1]  # or the run before, of the same key
        self.firsts[new], self.lasts[new] = runs.lows[opens], runs.highs[opens]
        self._older[new] = older
        self._newer[older[older >= 0]] = new[older >= 0]
        self._key[new] = numbers[runs.keys[opens]]
        self._keys.heads[self._key[new]] = new  # by time: the newest of a key is the last, which stays

    def _fold(self, walk: Walk, slots: Slots, fold_values: FoldValues) -> None:
        """Fold the rows, then the merges that wait for them, then the rows that wait for those merges …"""
        if not walk.depth:
            fold_values(None, slots)
            return
        levels = np.zeros(len(slots), dtype=np.int64)
        levels[list(walk.levels)] = list(walk.levels.values())
        for level in range(walk.depth + 1):
            rows = np.flatnonzero(levels == level)
            if len(rows):
                fold_values(rows, slots[rows])
            if pairs := walk.merges.get(level):
                into, merged = (np.array(part, dtype=np.intp) for part in zip(*pairs, strict=True))
                self._merge_cells(into, {name: column[merged] for name, column in self.columns.items()})
                self._release(merged)

    def _merge_cells(self, into: Slots, partials: Mapping[str, Column]) -> None:
        for part in self.layout.accumulators:
            part.merge(self.columns, into, partials)
        for sketch in self.layout.sketches:
            sketch.merge_all(self.columns[sketch.name], into, partials[sketch.name])

    def fold_sketch(self, number: int, new: Values) -> None:
        """Fold values into one sketch of each of their sessions; sessions are written whole, so nothing is noted."""
        sketch = self.layout.sketches[number]
        column = self.columns[sketch.name]
        slots, lifted = sketch.lift(new)
        for slot, partial in zip(slots.tolist(), lifted, strict=True):
            column[slot], _ = sketch.fold(column[slot], partial)

    # --- keys with anything else than plain runs

    def _walk(self, new: Arrivals, numbers: Int32, walked: Mask, slots: Slots, walk: Walk) -> tuple[Slots, list[bytes]]:
        """Walk the events of some keys; fill in their slots, and return the sessions changed and the fields gone."""
        rows = np.flatnonzero(walked[new.key_of])
        rows = rows[np.argsort(new.key_of[rows], kind="stable")]
        cuts = np.flatnonzero(new.key_of[rows[1:]] != new.key_of[rows[:-1]]) + 1
        changed: list[int] = []
        gone: list[bytes] = []
        for part in np.split(rows, cuts):
            place = int(new.key_of[part[0]])
            number, name = int(numbers[place]), new.keys.fields[place]
            forms = self._forms(number)
            before = [form.first for form in forms]
            events = zip(part.tolist(), new.times_ms[part].tolist(), new.watermarks_ms[part].tolist(), strict=True)
            slots[part] = [walk.add(forms, row, time_ms, watermark_ms) for row, time_ms, watermark_ms in events]
            self._relink(number, forms)
            changed += [form.slot for form in forms if form.changed]
            after = {form.first for form in forms}
            gone += [b"%d%b" % (first, name[_GROUP_AT:]) for first in before if first not in after]
        return np.array(changed, dtype=np.intp), gone

    def _forms(self, number: int) -> list[Form]:
        """The live sessions of a key, oldest first."""
        slot = int(self._keys.heads[number])
        forms: list[Form] = []
        while slot != NONE:
            forms.append(Form(int(self.firsts[slot]), int(self.lasts[slot]), slot, self.forebears.get(slot, [])))
            slot = int(self._older[slot])
        return forms[::-1]

    def _relink(self, number: int, forms: Sequence[Form]) -> None:
        """Put a walked key back into the columns: its chain, its spans and forebears."""
        older = NONE
        for form in forms:
            slot = form.slot
            self.firsts[slot], self.lasts[slot], self._key[slot] = form.first, form.last, number
            self._chain(slot, older)
            if form.forebears:
                self.forebears[slot] = form.forebears
            older = slot
        self._newer[older] = NONE
        self._keys.heads[number] = older

    def _chain(self, slot: int, older: int) -> None:
        self._older[slot] = older
        if older != NONE:
            self._newer[older] = slot

    # --- what has to be published, and what can be forgotten

    def closed(self, watermark_ms: int) -> Slots:
        """The sessions that are over for a watermark and whose present form is not published, in no order."""
        return np.flatnonzero(self.live & ~self.published & (self.lasts <= watermark_ms - self.window.gap_ms))

    def first_ended(self, slots: Slots, most: int) -> Slots:
        """At most so many of some sessions, by end."""
        if len(slots) > most:
            lasts = self.lasts[slots]
            slots = slots[lasts <= np.partition(lasts, most)[most]]
        return slots[np.lexsort((self.firsts[slots], self.lasts[slots]))][:most]

    def final(self, watermark_ms: int, allowed_lateness_ms: int) -> Slots:
        """The sessions that no event can join any more, `watermark_ms` being that of their own partition."""
        return np.flatnonzero(self.live & (self.lasts <= watermark_ms - 2 * self.window.gap_ms - allowed_lateness_ms))

    def drop(self, slots: Slots) -> None:
        """Forget sessions."""
        alone = (self._older[slots] == NONE) & (self._newer[slots] == NONE)
        for slot in slots[~alone].tolist():
            older, newer = int(self._older[slot]), int(self._newer[slot])
            if older != NONE:
                self._newer[older] = newer
            if newer != NONE:
                self._older[newer] = older
                continue
            self._keys.heads[self._key[slot]] = older
        self._keys.heads[self._key[slots[alone]]] = NONE
        self._release(slots)
        if len(self._keys) > _MOST_KEYS * len(self) + _FEW_KEYS:
            live = np.flatnonzero(self.live)
            self._key[live] = self._keys.only(self._key[live])

    def slice_of(self, time_ms: int) -> int:
        """The start of the slice that a time is in: sessions never cross multiples of `max`."""
        return 0 if self.window.max_ms is None else time_ms - time_ms % self.window.max_ms

    # --- the stored form

    def groups(self, slots: Slots) -> Names:
        """The group JSON of sessions."""
        return self._keys.fields(self._key[slots]).without(_GROUP_AT + 1)

    def fields(self, slots: Slots) -> Names:
        """`FIRST GROUPJSON` of each session: its field in the hash of live sessions."""
        return joined([json_names(self.firsts[slots].tolist()), b" ", self.groups(slots)], len(slots))

    def packed(self, slots: Slots) -> Names:
        """Each session as it is stored."""
        cells = self.layout.pack_names(self.columns, slots)
        if not self.forebears:
            return pack_sessions(self.lasts[slots], cells)
        forebears = [self.forebears.get(slot, ()) for slot in slots.tolist()]
        return pack_sessions(self.lasts[slots], cells, forebears)

    def load(self, stored: Mapping[bytes, bytes]) -> Slots:
        """Take live sessions as they are stored, by field; return their slots.

        Raises:
            ValueError: one is cut off or of another format.
        """
        read = list(map(parse_session, stored.keys(), stored.values()))
        order = sorted(range(len(read)), key=lambda place: (read[place].group, read[place].first))
        found, slots = [read[place] for place in order], self._allocate(len(read))
        if found:
            self._merge_cells(slots, self.layout.unpack([each.cell for each in found]))
        keys = CellKeys.of([(self.slice_of(each.first), ALWAYS + b" " + each.group) for each in found])
        self._key[slots] = self._keys.numbers(keys)
        for slot, number, each in zip(slots.tolist(), self._key[slots].tolist(), found, strict=True):
            self.firsts[slot], self.lasts[slot] = each.first, each.last
            self._chain(slot, int(self._keys.heads[number]))
            self._keys.heads[number] = slot
            if each.forebears:
                self.forebears[slot] = list(each.forebears)
        as_stored = np.empty_like(slots)
        as_stored[order] = slots
        return as_stored

    # --- slots

    def _allocate(self, count: int) -> Slots:
        while self._n_free < count:
            self._grow()
        self._n_free -= count
        slots = self._free[self._n_free : self._n_free + count][::-1].copy()
        self.live[slots] = True
        self.published[slots] = False
        self._older[slots] = NONE
        self._newer[slots] = NONE
        return slots

    def _release(self, slots: Slots) -> None:
        if not len(slots):
            return
        self.layout.reset(self.columns, slots)
        self.live[slots] = False
        if self.forebears:
            for slot in slots.tolist():
                self.forebears.pop(slot, None)
        self._free[self._n_free : self._n_free + len(slots)] = slots
        self._n_free += len(slots)

    def _grow(self) -> None:
        old = len(self.live)
        grown = self.layout.blank(2 * old)
        grown[RECORDS][:old] = self.columns[RECORDS]
        for name, column in self.columns.items():
            if column.dtype == object:
                grown[name][:old] = column
        self.columns = grown
        self.firsts, self.lasts = _doubled(self.firsts, 0), _doubled(self.lasts, 0)
        self.live, self.published = _doubled(self.live, False), _doubled(self.published, False)
        self._older, self._newer = _doubled(self._older, NONE), _doubled(self._newer, NONE)
        self._key = _doubled(self._key, NONE)
        self._free = _doubled(self._free, NONE)
        self._free[self._n_free : self._n_free + old] = np.arange(2 * old - 1, old - 1, -1)
        self._n_free += old


def _doubled(column: Column, blank: object) -> Column:
    grown = np.empty(2 * len(column), dtype=column.dtype)
    grown[: len(column)] = column
    grown[len(column) :] = blank
    return grown
