"""The live sessions of one stage and partition as columns; a batch folds into them exactly as if each event came alone.

    one key, gap = 3        ........aa.a....b.bb......c....     events at most a gap apart are one session
    chain from the newest                           head=c -> b -> a       `older` of each; a key has few live sessions

An event joins the earliest session it touches (at most a gap away, on either side); one that bridges two merges the
later into the earlier. Most keys bring one run of events that meets one session or none: those are found column-wise
and folded in one go. A key with anything else (a bridge, a run that only an existing session holds together, a form
that may have been published and now changes) is walked event by event, for that key alone. Both give the same bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Column, Int64, Slots
from pipeline.core.cells import RECORDS, Layout
from pipeline.core.definitions import Session

Key = tuple[int, bytes]  # (slice of time, cell field): sessions of different keys never meet
Span = tuple[int, int]  # (first, last) of a form of a session: with its group, the identity of a published row
Mask = npt.NDArray[np.bool_]
FoldValues = Callable[[Slots | None, Slots], None]
"""Fold rows (None: all) of the batch into slots, one a row, in stream order."""

_NONE = -1  # no slot
_FIRST_CAPACITY = 64
_FAR_MS = 2**62  # beyond every time: neutral for a minimum, and its negative for a maximum
_HEADER = struct.Struct("<qI")  # last, number of forebears
_SPAN = struct.Struct("<qq")


@dataclass(frozen=True, slots=True)
class Changed:
    """What a batch changed: slots of the sessions to write, and the stored fields of those that are gone."""

    slots: Slots
    gone: list[bytes]


@dataclass(slots=True)
class _Form:
    """A session of a key that is walked event by event; `level`: rounds of merges that come before its next fold."""

    first: int
    last: int
    slot: int
    stored: bytes | None  # its field before the batch
    forebears: list[Span]
    level: int = 0
    changed: bool = False


@dataclass(slots=True)
class _Walk:
    """What walking keys gave: the level of every row's fold, merges by level, slots that were merged away."""

    levels: dict[int, int] = field(default_factory=dict)  # row → level, where it is not 0
    merges: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # level → (into, from)
    changed: list[int] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)

    @property
    def depth(self) -> int:
        return max(self.merges, default=-1) + 1


@dataclass(frozen=True, slots=True)
class _Runs:
    """A batch's rows by key and time: `order` the rows so sorted, cut into runs of one key without a wider gap."""

    order: Slots
    times_ms: Int64  # sorted
    run_of: Slots  # of each sorted row
    heads: Slots  # sorted place of each run's first row
    keys: Slots
    lows: Int64
    highs: Int64

    @property
    def begins_key(self) -> Mask:
        return np.concatenate([[True], self.keys[1:] != self.keys[:-1]])

    @property
    def ends_key(self) -> Mask:
        return np.concatenate([self.keys[1:] != self.keys[:-1], [True]])


class SessionTable:
    """Live sessions by slot; `published` is the runtime's: whether a slot's present form is out."""

    def __init__(self, layout: Layout, session: Session) -> None:
        self.layout = layout
        self.gap_ms = session.gap_ms
        self.max_ms = session.max_ms
        self.columns = layout.blank(_FIRST_CAPACITY)
        self.firsts = np.zeros(_FIRST_CAPACITY, dtype=np.int64)
        self.lasts = np.zeros(_FIRST_CAPACITY, dtype=np.int64)
        self.live = np.zeros(_FIRST_CAPACITY, dtype=np.bool_)
        self.published = np.zeros(_FIRST_CAPACITY, dtype=np.bool_)
        self.forebears: dict[int, list[Span]] = {}
        self._names = np.empty(_FIRST_CAPACITY, dtype=object)  # cell field
        self._older = np.full(_FIRST_CAPACITY, _NONE, dtype=np.intp)
        self._newer = np.full(_FIRST_CAPACITY, _NONE, dtype=np.intp)
        self._heads: dict[int, dict[bytes, int]] = {}  # slice → cell field → newest session of the key
        self._free = np.arange(_FIRST_CAPACITY - 1, -1, -1, dtype=np.intp)
        self._n_free = _FIRST_CAPACITY

    def __len__(self) -> int:
        return len(self._free) - self._n_free

    # --- a batch

    def fold(
        self, keys: Sequence[Key], key_of: Slots, times_ms: Int64, watermarks_ms: Int64, fold_values: FoldValues
    ) -> Changed:
        """Fold a batch's rows, none of them late, into their sessions.

        Args:
            keys: the distinct keys of the batch; `key_of` the number of each row's.
            times_ms, watermarks_ms: event time of each row, and the partition's watermark before it.
            fold_values: folds values of rows into slots of `columns`.
        """
        if not len(key_of):
            return Changed(np.empty(0, dtype=np.intp), [])
        runs = _runs(key_of.astype(np.intp), times_ms, self.gap_ms)
        heads = self._heads_of(keys)
        walked = np.zeros(len(keys), dtype=np.bool_)
        walked[runs.keys[~self._is_plain(runs, heads[runs.keys], watermarks_ms)]] = True
        slots = np.empty(len(key_of), dtype=np.intp)
        plain = ~walked[runs.keys]
        run_slots, gone = self._place(keys, runs, heads, plain)
        slots[runs.order] = run_slots[runs.run_of]
        walk = _Walk(gone=gone)
        if walked.any():
            self._walk(keys, key_of, walked, times_ms, watermarks_ms, slots, walk)
        self._fold(walk, slots, fold_values)
        changed = np.concatenate([run_slots[plain], np.array(walk.changed, dtype=np.intp)])
        self.published[changed] = False
        return Changed(changed, walk.gone)

    def _heads_of(self, keys: Sequence[Key]) -> Slots:
        """The newest session of each key, _NONE where it has none."""
        if len({pane for pane, _ in keys}) == 1:
            known = self._heads.get(keys[0][0], {})
            return np.fromiter((known.get(name, _NONE) for _, name in keys), dtype=np.intp, count=len(keys))
        heads = self._heads
        empty: dict[bytes, int] = {}
        return np.fromiter((heads.get(pane, empty).get(name, _NONE) for pane, name in keys), dtype=np.intp)

    def _is_plain(self, runs: _Runs, heads: Slots, watermarks_ms: Int64) -> Mask:
        """For each run, whether it folds in stream order into one session: its key's newest, or a new one after it."""
        gap = self.gap_ms
        has = heads >= 0
        head_first, head_last = self.firsts[heads], self.lasts[heads]
        touches = has & (runs.lows <= head_last + gap) & (runs.highs >= head_first - gap)
        olders = self._older[heads]
        clear = ~has | (olders < 0) | (runs.lows > self.lasts[olders] + gap)
        plain = ~has | (touches & clear & runs.begins_key) | (runs.lows > head_last + gap)
        held = (np.where(touches, head_first, _FAR_MS), np.where(touches, head_last, -_FAR_MS))
        return plain & self._grows_by_touching(runs, held, watermarks_ms)

    def _grows_by_touching(self, runs: _Runs, held: tuple[Int64, Int64], watermarks_ms: Int64) -> Mask:
        """For each run, whether in stream order every event touches what is there of it before, `held` (first, last)
        of an existing session included, and changes no form that may have been published."""
        gap, order, times, run_of = self.gap_ms, runs.order, runs.times_ms, runs.run_of
        inside = np.ones(len(order), dtype=np.bool_)
        inside[runs.heads] = False
        back = np.zeros(len(order), dtype=np.bool_)
        back[1:] = inside[1:] & (order[1:] < order[:-1])
        highest = np.empty_like(times)
        highest[1:] = times[:-1]
        highest[runs.heads] = -_FAR_MS
        lowest = np.where(inside, runs.lows[run_of], _FAR_MS)
        if back.any():
            disordered = np.zeros(len(runs.heads), dtype=np.bool_)
            disordered[run_of[back]] = True
            rows = np.flatnonzero(disordered[run_of])
            rows = rows[np.lexsort((order[rows], run_of[rows]))]  # of each run in stream order
            order, times = order.copy(), times.copy()
            places = np.flatnonzero(disordered[run_of])
            order[places], times[places] = order[rows], times[rows]
            lowest[places], highest[places] = _running(times[places], runs, run_of[places], inside[places])
        lowest, highest = np.minimum(lowest, held[0][run_of]), np.maximum(highest, held[1][run_of])
        exists = highest >= lowest
        touches = ~exists | ((times >= lowest - gap) & (times <= highest + gap))
        outside = (times < lowest) | (times > highest)
        replaces = exists & outside & (watermarks_ms[order] >= highest + gap)
        good = np.ones(len(runs.heads), dtype=np.bool_)
        good[run_of[~touches | replaces]] = False
        return good

    def _place(self, keys: Sequence[Key], runs: _Runs, heads: Slots, plain: Mask) -> tuple[Slots, list[bytes]]:
        """Give every plain run its slot, grown or new, and link the new ones; return the fields that are gone."""
        slots = heads[runs.keys]
        joins = plain & (slots >= 0) & (runs.lows <= self.lasts[slots] + self.gap_ms)
        opens = np.flatnonzero(plain & ~joins)
        grown = slots[joins]
        moved = grown[runs.lows[joins] < self.firsts[grown]]
        gone = self.fields(moved)
        self.firsts[grown] = np.minimum(self.firsts[grown], runs.lows[joins])
        self.lasts[grown] = np.maximum(self.lasts[grown], runs.highs[joins])
        if not len(opens):
            return slots, gone
        new = self._allocate(len(opens))
        older = slots[opens]
        slots[opens] = new
        follows = ~runs.begins_key[opens]
        older[follows] = slots[opens[follows] - 1]
        self.firsts[new], self.lasts[new] = runs.lows[opens], runs.highs[opens]
        self._older[new] = older
        linked = older >= 0
        self._newer[older[linked]] = new[linked]
        newest = runs.ends_key[opens]
        for number, slot in zip(runs.keys[opens].tolist(), new.tolist(), strict=True):
            self._names[slot] = keys[number][1]
        for number, slot in zip(runs.keys[opens][newest].tolist(), new[newest].tolist(), strict=True):
            pane, name = keys[number]
            self._heads_in(pane)[name] = slot
        return slots, gone

    def _fold(self, walk: _Walk, slots: Slots, fold_values: FoldValues) -> None:
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
            pairs = walk.merges.get(level, [])
            if pairs:
                into, merged = (np.array(part, dtype=np.intp) for part in zip(*pairs, strict=True))
                self._merge(into, merged)

    def _merge(self, into: Slots, merged: Slots) -> None:
        """Merge sessions into earlier ones, all of them different, and free their slots."""
        partials = {name: column[merged] for name, column in self.columns.items()}
        for part in self.layout.accumulators:
            part.merge(self.columns, into, partials)
        self._release(merged)

    # --- keys with anything else than plain runs

    def _walk(
        self,
        keys: Sequence[Key],
        key_of: Slots,
        walked: Mask,
        times_ms: Int64,
        watermarks_ms: Int64,
        slots: Slots,
        walk: _Walk,
    ) -> None:
        rows = np.flatnonzero(walked[key_of])
        rows = rows[np.argsort(key_of[rows], kind="stable")]
        numbers = key_of[rows]
        cuts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        for part in np.split(rows, cuts):
            key = keys[int(key_of[part[0]])]
            forms = self._forms(key)
            before = {form.stored for form in forms}
            events = zip(part.tolist(), times_ms[part].tolist(), watermarks_ms[part].tolist(), strict=True)
            for row, time_ms, watermark_ms in events:
                form = self._add(forms, time_ms, watermark_ms, walk)
                slots[row] = form.slot
                if form.level:
                    walk.levels[row] = form.level
                self._bridge(forms, form, time_ms, watermark_ms, walk)
            self._relink(key, forms, before, walk)

    def _forms(self, key: Key) -> list[_Form]:
        """The live sessions of a key, oldest first."""
        slot = self._heads.get(key[0], {}).get(key[1], _NONE)
        forms: list[_Form] = []
        while slot != _NONE:
            first, last = int(self.firsts[slot]), int(self.lasts[slot])
            forms.append(_Form(first, last, slot, _field(first, key[1]), self.forebears.get(slot, [])))
            slot = int(self._older[slot])
        return forms[::-1]

    def _add(self, forms: list[_Form], time_ms: int, watermark_ms: int, walk: _Walk) -> _Form:
        """Add an event to the earliest session it touches, or to a new one; `forms` stay in order of `first`."""
        gap = self.gap_ms
        place = len(forms)
        while place and forms[place - 1].last + gap >= time_ms:
            place -= 1
        if place == len(forms) or forms[place].first - gap > time_ms:
            forms.insert(place, _Form(time_ms, time_ms, int(self._allocate(1)[0]), None, [], 0, True))
            return forms[place]
        form = forms[place]
        if not form.first <= time_ms <= form.last:
            self._succeed(form, form, watermark_ms)
            form.first, form.last = min(form.first, time_ms), max(form.last, time_ms)
        form.changed = True
        return form

    def _bridge(self, forms: list[_Form], form: _Form, time_ms: int, watermark_ms: int, walk: _Walk) -> None:
        """Merge into `form` the session after it, when the event that `form` just took touches that one too."""
        place = forms.index(form) + 1
        if place == len(forms) or forms[place].first - self.gap_ms > time_ms:
            return
        other = forms.pop(place)
        self._succeed(form, other, watermark_ms)
        form.forebears = form.forebears + other.forebears
        form.last = max(form.last, other.last)
        level = max(form.level, other.level)
        walk.merges.setdefault(level, []).append((form.slot, other.slot))
        form.level = level + 1

    def _succeed(self, heir: _Form, before: _Form, watermark_ms: int) -> None:
        """Remember a form that is replaced, if it may have been published: the partition's time had passed its end."""
        if watermark_ms >= before.last + self.gap_ms:
            heir.forebears = [*heir.forebears, (before.first, before.last)]

    def _relink(self, key: Key, forms: Sequence[_Form], before: set[bytes | None], walk: _Walk) -> None:
        """Put a walked key back into the columns: its chain, names and forebears."""
        pane, name = key
        older = _NONE
        for form in forms:
            slot = form.slot
            self.firsts[slot], self.lasts[slot] = form.first, form.last
            self._names[slot] = name
            self._older[slot], self._newer[slot] = older, _NONE
            if older != _NONE:
                self._newer[older] = slot
            if form.forebears:
                self.forebears[slot] = form.forebears
            if form.changed:
                walk.changed.append(slot)
            older = slot
        self._heads_in(pane)[name] = older
        after = {_field(form.first, name) for form in forms}
        walk.gone += [stored for stored in before if stored is not None and stored not in after]

    # --- what has to be published, and what can be forgotten

    def closed(self, watermark_ms: int) -> Slots:
        """The sessions that are over for a watermark and whose present form is not published, by end."""
        found = np.flatnonzero(self.live & ~self.published & (self.lasts <= watermark_ms - self.gap_ms))
        return found[np.lexsort((self.firsts[found], self.lasts[found]))]

    def final(self, watermark_ms: int, allowed_lateness_ms: int) -> Slots:
        """The sessions that no event can join any more, `watermark_ms` being that of their own partition."""
        return np.flatnonzero(self.live & (self.lasts <= watermark_ms - 2 * self.gap_ms - allowed_lateness_ms))

    def drop(self, slots: Slots) -> None:
        """Forget sessions."""
        for slot in slots.tolist():
            older, newer = int(self._older[slot]), int(self._newer[slot])
            if older != _NONE:
                self._newer[older] = newer
            if newer != _NONE:
                self._older[newer] = older
                continue
            pane, name = self.slice_of(int(self.firsts[slot])), self._names[slot]
            if older != _NONE:
                self._heads[pane][name] = older
            else:
                del self._heads[pane][name]
                if not self._heads[pane]:
                    del self._heads[pane]
        self._release(slots)

    def slice_of(self, time_ms: int) -> int:
        return 0 if self.max_ms is None else time_ms - time_ms % self.max_ms

    def groups(self, slots: Slots) -> list[bytes]:
        """The group JSON of sessions."""
        return [name[2:] for name in self._names[slots]]

    # --- the stored form

    def fields(self, slots: Slots) -> list[bytes]:
        """`FIRST GROUPJSON` of each session: its field in the hash of live sessions."""
        return list(map(_field, self.firsts[slots].tolist(), self._names[slots]))

    def packed(self, slots: Slots) -> list[bytes]:
        """last, number of forebears, (first, last) of each, and the packed cell."""
        cells = self.layout.pack(self.columns, slots)
        if not self.forebears:
            return [_HEADER.pack(last, 0) + cell for last, cell in zip(self.lasts[slots].tolist(), cells, strict=True)]
        spans = [self.forebears.get(slot, []) for slot in slots.tolist()]
        return [
            _HEADER.pack(last, len(before)) + b"".join(_SPAN.pack(*span) for span in before) + cell
            for last, before, cell in zip(self.lasts[slots].tolist(), spans, cells, strict=True)
        ]

    def load(self, stored: Mapping[bytes, bytes]) -> None:
        """Take live sessions as they are stored.

        Raises:
            ValueError: one is cut off or of another format.
        """
        found = sorted(
            (parse_session(field, value) for field, value in stored.items()), key=lambda s: (s.group, s.first)
        )
        slots = self._allocate(len(found))
        partials = self.layout.unpack([each.cell for each in found])
        for part in self.layout.accumulators:
            part.merge(self.columns, slots, partials)
        for slot, each in zip(slots.tolist(), found, strict=True):
            name = b"- " + each.group
            heads = self._heads_in(self.slice_of(each.first))
            older = heads.get(name, _NONE)
            self.firsts[slot], self.lasts[slot], self._names[slot], self._older[slot] = (
                each.first,
                each.last,
                name,
                older,
            )
            if older != _NONE:
                self._newer[older] = slot
            heads[name] = slot
            if each.forebears:
                self.forebears[slot] = list(each.forebears)

    # --- slots

    def _heads_in(self, pane: int) -> dict[bytes, int]:
        heads = self._heads.get(pane)
        if heads is None:
            heads = self._heads[pane] = {}
        return heads

    def _allocate(self, count: int) -> Slots:
        while self._n_free < count:
            self._grow()
        self._n_free -= count
        slots = self._free[self._n_free : self._n_free + count][::-1].copy()
        self.live[slots] = True
        self.published[slots] = False
        self._older[slots] = _NONE
        self._newer[slots] = _NONE
        return slots

    def _release(self, slots: Slots) -> None:
        if not len(slots):
            return
        self.layout.reset(self.columns, slots)
        self.live[slots] = False
        self._names[slots] = None
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
        self.firsts = _doubled(self.firsts, 0)
        self.lasts = _doubled(self.lasts, 0)
        self.live = _doubled(self.live, False)
        self.published = _doubled(self.published, False)
        self._names = _doubled(self._names, None)
        self._older = _doubled(self._older, _NONE)
        self._newer = _doubled(self._newer, _NONE)
        fresh = np.arange(2 * old - 1, old - 1, -1, dtype=np.intp)
        self._free = np.concatenate([self._free[: self._n_free], fresh, np.empty(old - self._n_free, dtype=np.intp)])
        self._n_free += old


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A live session as the hash holds it."""

    group: bytes
    first: int
    last: int
    forebears: Sequence[Span]
    cell: bytes


def parse_session(field: bytes, value: bytes) -> StoredSession:
    """Read one field of the hash of live sessions.

    Raises:
        ValueError: it is cut off.
    """
    first, _, group = field.partition(b" ")
    if len(value) < _HEADER.size:
        raise ValueError(f"session {field!r} has {len(value)} bytes, not even its header")
    last, n = _HEADER.unpack_from(value)
    end = _HEADER.size + n * _SPAN.size
    if len(value) <= end:
        raise ValueError(f"session {field!r} is cut off after {len(value)} bytes, in its {n} forebears")
    return StoredSession(group, int(first), last, [*_SPAN.iter_unpack(value[_HEADER.size : end])], value[end:])


def _field(first: int, name: bytes) -> bytes:
    return b"%d%b" % (first, name[1:])


def _doubled(column: Column, blank: object) -> Column:
    grown = np.empty(2 * len(column), dtype=column.dtype)
    grown[: len(column)] = column
    grown[len(column) :] = blank
    return grown


def _runs(key_of: Slots, times_ms: Int64, gap_ms: int) -> _Runs:
    order = _by_key_and_time(key_of, times_ms)
    keys, times = key_of[order], times_ms[order]
    begins = np.ones(len(order), dtype=np.bool_)
    begins[1:] = (keys[1:] != keys[:-1]) | (times[1:] > times[:-1] + gap_ms)
    heads = np.flatnonzero(begins)
    ends = np.append(heads[1:], len(order)) - 1
    return _Runs(order, times, np.cumsum(begins) - 1, heads, keys[heads], times[heads], times[ends])


def _by_key_and_time(key_of: Slots, times_ms: Int64) -> Slots:
    """Rows by key, then time, then stream order."""
    return np.lexsort((times_ms, key_of))


def _running(times: Int64, runs: _Runs, run_of: Slots, inside: Mask) -> tuple[Int64, Int64]:
    """The smallest and largest time before each row in its run; rows stand run by run, each in stream order.

    One accumulate over all runs: each is lifted above the one before it by more than a run is long.
    """
    _, numbers = np.unique(run_of, return_inverse=True)
    lows = runs.lows[run_of]
    width = int((runs.highs[run_of] - lows).max()) + 1
    if width * (int(numbers[-1]) + 2) >= _FAR_MS:
        return _running_slowly(times, inside)
    lift: Int64 = numbers.astype(np.int64) * width
    highest: Int64 = np.maximum.accumulate(times - lows + lift) - lift + lows
    lowest: Int64 = lows - (np.maximum.accumulate(lows - times + lift) - lift)
    return _before(lowest, inside, _FAR_MS), _before(highest, inside, -_FAR_MS)


def _running_slowly(times: Int64, inside: Mask) -> tuple[Int64, Int64]:
    lowest, highest = np.full_like(times, _FAR_MS), np.full_like(times, -_FAR_MS)
    for row in np.flatnonzero(inside).tolist():
        lowest[row] = min(lowest[row - 1], times[row - 1])
        highest[row] = max(highest[row - 1], times[row - 1])
    return lowest, highest


def _before(running: Int64, inside: Mask, start: int) -> Int64:
    shifted = np.empty_like(running)
    shifted[1:] = running[:-1]
    shifted[~inside] = start
    return shifted
