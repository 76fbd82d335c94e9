"""One key's sessions, event by event: joining, bridging, and which earlier forms may have been published.

Which sessions there are is decided here; their values are folded afterwards, in levels: an event's fold waits for the
merges into its session that came before it, and a merge for the folds into both.

    a . . b . m . . c      gap 2: m bridges a and b          level 0: fold a, b and m (into a), then merge b into a
                           then c joins the merged one       level 1: fold c
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Span = tuple[int, int]  # (first, last) of a form of a session: with its group, the identity of a published row


@dataclass(slots=True)
class Form:
    """A session of the key; `forebears`: earlier forms that may have been published, `level`: of its next fold."""

    first: int
    last: int
    slot: int
    forebears: list[Span]
    level: int = 0
    changed: bool = False


@dataclass(slots=True)
class Walk:
    """What walking keys gave: each row's level where it is not 0, and the merges (into, from) that follow a level."""

    gap_ms: int
    allocate: Callable[[], int]
    levels: dict[int, int] = field(default_factory=dict)
    merges: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return max(self.merges, default=-1) + 1

    def add(self, forms: list[Form], row: int, time_ms: int, watermark_ms: int) -> int:
        """Add an event to the key's sessions, which stay in order of `first`; return the slot its values go to."""
        gap_ms = self.gap_ms
        place = len(forms)
        while place and forms[place - 1].last + gap_ms >= time_ms:
            place -= 1
        if place == len(forms) or forms[place].first - gap_ms > time_ms:
            forms.insert(place, Form(time_ms, time_ms, self.allocate(), [], changed=True))
            return forms[place].slot
        form = forms[place]
        if form.level:
            self.levels[row] = form.level
        if not form.first <= time_ms <= form.last:
            self._succeed(form, form, watermark_ms)
            form.first, form.last = min(form.first, time_ms), max(form.last, time_ms)
        form.changed = True
        if place + 1 < len(forms) and forms[place + 1].first - gap_ms <= time_ms:
            self._merge(form, forms.pop(place + 1), watermark_ms)
        return form.slot

    def _merge(self, form: Form, other: Form, watermark_ms: int) -> None:
        self._succeed(form, other, watermark_ms)
        form.forebears = form.forebears + other.forebears
        form.last = max(form.last, other.last)
        level = max(form.level, other.level)
        self.merges.setdefault(level, []).append((form.slot, other.slot))
        form.level = level + 1

    def _succeed(self, heir: Form, before: Form, watermark_ms: int) -> None:
        """Remember a form that is replaced, if it may have been published: the partition's time had passed its end."""
        if watermark_ms >= before.last + self.gap_ms:
            heir.forebears = [*heir.forebears, (before.first, before.last)]
