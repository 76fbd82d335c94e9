"""The `window` of a stage, exactly one kind with the settings of that kind, and what is built on it: sessions, rollups.

A window that comes out of here exists: each has a length, no event falls between two, and no session is split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

from pipeline.core.definitions import (
    Calendar,
    Cumulating,
    Hopping,
    PaneWindow,
    Rollup,
    Session,
    Stream,
    Tumbling,
    Window,
)
from pipeline.core.times import format_duration, parse_duration_ms
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_shapes import WindowShape, either
from pipeline.runtime.config_streams import PARTITION_TYPES
from pipeline.runtime.config_yaml import Path

MANY_PANES = 1_000  # of a window: each is read and merged when the window is closed or asked for
MAX_PANES = 1_000_000  # of a window: more would not be merged before the next one closes

SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "tumbling": ("offset",),
    "hopping": ("every", "offset"),
    "session": ("max",),
    "cumulating": ("every", "offset"),
    "calendar": ("tz",),
}
NEEDED_SETTINGS: dict[str, tuple[str, ...]] = {"hopping": ("every",), "cumulating": ("every",), "calendar": ("tz",)}
KINDS = tuple(SETTINGS_OF)
_SETTINGS = ("every", "offset", "max", "tz")
_EXAMPLES = "tumbling: 10s, hopping: 1m, session: 30m, cumulating: 1d or calendar: day"
_NEEDED = {
    "hopping": "how often a window begins: {hopping: 1m, every: 10s}",
    "cumulating": "how far each window reaches beyond the one before: {cumulating: 1d, every: 1h}",
}


def build_window(report: Report, path: Path, raw: object, shape: WindowShape) -> Window | None:
    """Return the window, or None when it has a problem; `raw` is the setting as it is written."""
    kind = _kind(report, path, raw)
    if kind is None or not isinstance(raw, dict):
        return None
    misplaced = [name for name in raw if name in _SETTINGS and name not in SETTINGS_OF[kind]]
    for name in misplaced:
        report.add((*path, name), _misplaced(kind, name), at_key=True)
    if misplaced or raw.keys() - shape.model_fields_set:
        return None  # what is written and not in the shape is a misfit, and reported
    match kind:
        case "tumbling":
            return Tumbling(_set(shape.tumbling), shape.offset)
        case "calendar":
            return _calendar(report, path, shape)
        case "session":
            return _session(report, path, shape)
        case _:
            return _stepping(report, path, shape, kind)


def _kind(report: Report, path: Path, raw: object) -> str | None:
    if not isinstance(raw, dict):
        return None
    named = [name for name in raw if name in KINDS]
    if len(named) > 1:
        both = f"`{named[0]}` and `{named[1]}` are two kinds of window, and a stage has one."
        report.add((*path, named[1]), f"{both} Write a stage for each.", at_key=True)
        return None
    if not named and raw.keys() <= WindowShape.model_fields.keys():
        report.add(path, f"needs one kind of window: {_EXAMPLES}.")
    return named[0] if named else None


def _set(value: int | None) -> int:
    assert value is not None, "what is written and fits is in the shape"
    return value


def _misplaced(kind: str, name: str) -> str:
    if name == "offset" and kind == "session":
        return "a session begins with its first event and has no offset. Remove it."
    if name == "offset":
        return "calendar windows begin at local midnight, of every day, Monday or first of a month. Remove the offset."
    owners = [each for each, settings in SETTINGS_OF.items() if name in settings]
    return f"belongs to {either(owners)} windows, and this one is {kind}. Remove it, or write {either(owners)}."


def _calendar(report: Report, path: Path, shape: WindowShape) -> Calendar | None:
    if shape.tz is None:
        report.add(path, "calendar windows need a time zone: tz: Europe/Paris; UTC is one too.")
        return None
    assert shape.calendar is not None
    return Calendar(shape.calendar, shape.tz)


def _session(report: Report, path: Path, shape: WindowShape) -> Session | None:
    gap_ms = _set(shape.session)
    if shape.max is not None and shape.max <= gap_ms:
        problem = f"must be longer than the gap, {format_duration(gap_ms)}, not {format_duration(shape.max)}."
        report.add((*path, "max"), problem)
        return None
    return Session(gap_ms, shape.max)


def _stepping(report: Report, path: Path, shape: WindowShape, kind: str) -> Hopping | Cumulating | None:
    if shape.every is None:
        report.add(path, f"{kind} windows need `every`, {_NEEDED[kind]}.")
        return None
    window: Hopping | Cumulating
    if kind == "hopping":
        window = Hopping(_set(shape.hopping), shape.every, shape.offset)
        problem = _gap_between(window.size_ms, window.every_ms)
    else:
        window = Cumulating(_set(shape.cumulating), shape.every, shape.offset)
        problem = _uneven(window.size_ms, window.every_ms)
    problem = problem or _too_many(pane_count(window))
    if problem is not None:
        report.add((*path, "every"), problem)
        return None
    return window


def _gap_between(size_ms: int, every_ms: int) -> str | None:
    if every_ms <= size_ms:
        return None
    size, every = format_duration(size_ms), format_duration(every_ms)
    return f"windows of {size} every {every} would leave out the events between them. Write at most {size}."


def _uneven(size_ms: int, every_ms: int) -> str | None:
    if size_ms % every_ms == 0:
        return None
    size, every = format_duration(size_ms), format_duration(every_ms)
    return f"must divide the window, {size}, and {every} does not. {format_duration(gcd(size_ms, every_ms))} would."


def _too_many(panes: int) -> str | None:
    if panes <= MAX_PANES:
        return None
    problem = f"one window would be merged from {panes:,} panes, and at most {MAX_PANES:,} can be."
    return f"{problem} Choose a longer one that divides the window."


def pane_count(window: PaneWindow) -> int:
    """How many panes one window is merged from."""
    match window:
        case Hopping():
            return window.size_ms // gcd(window.size_ms, window.every_ms)
        case Cumulating():
            return window.size_ms // window.every_ms
        case _:
            return 1


def check_sessions(report: Report, path: Path, groups: Sequence[str], stream: Stream) -> bool:
    """Report sessions that partitions would split: events of one session must be in one ordered log."""
    if stream.partitions == 1 or (stream.partition_by is not None and stream.partition_by in groups):
        return True
    key = _session_key(groups, stream)
    if stream.partition_by is None:
        why = f"the stream '{stream.name}' spreads its events evenly over {stream.partitions} partitions"
        way_out = f"Set streams.{stream.name}.partition_by: {key}"
        way_out += "." if key in groups else f", and group_by: [{key}] here."
    else:
        why = f"the stream '{stream.name}' is partitioned by '{stream.partition_by}', which is not in group_by"
        way_out = f"Add {stream.partition_by} to group_by"
        way_out += f", or set streams.{stream.name}.partition_by: {key}." if key in groups else "."
    report.add((*path, "session"), f"one session would be split over partitions: {why}. {way_out}")
    return False


def _session_key(groups: Sequence[str], stream: Stream) -> str:
    """A field whose sessions they may be: of the groups, and one that a stream can be partitioned by."""
    usable = [field.name for field in stream.fields if field.type in PARTITION_TYPES and not field.nullable]
    return next((name for name in (*groups, "user", *usable) if name in usable), "user")


def build_rollups(
    report: Report, path: Path, raw: Mapping[str, int], window: Window | None
) -> tuple[Rollup, ...] | None:
    """Return the tiers by size, or None when one has a problem; `raw` is length → retention in milliseconds."""
    if not raw or window is None:
        return ()
    if not isinstance(window, Tumbling):
        kind = str(type(window).__struct_config__.tag)
        report.add(path, f"are built from tumbling windows, and this stage's are {kind}. Remove them.", at_key=True)
        return None
    tiers: dict[int, Rollup] = {}
    for text, retention_ms in raw.items():
        size_ms = _tier(report, (*path, text), text, window.size_ms)
        if size_ms in tiers:
            report.add((*path, text), f"{text} is a tier already, written in another way. Remove one.", at_key=True)
        if size_ms is None or size_ms in tiers:
            return None
        tiers[size_ms] = Rollup(size_ms, retention_ms)
    return tuple(tiers[size_ms] for size_ms in sorted(tiers))


def _tier(report: Report, path: Path, text: str, base_ms: int) -> int | None:
    """Return the length of a tier; None where it is none, or the base does not divide it."""
    base = format_duration(base_ms)
    try:
        size_ms = parse_duration_ms(text)
    except ValueError as error:
        report.add(path, f"{error} A tier is its length and how long it is kept: {{1m: 7d, 1h: 90d}}.", at_key=True)
        return None
    if size_ms <= base_ms:
        problem = f"must be longer than the window, {base}, whose results are kept as `retention` says."
    elif size_ms % base_ms:
        near = format_duration(max(2, round(size_ms / base_ms)) * base_ms)
        problem = f"must be a multiple of the window, {base}. {near} is."
    else:
        return size_ms
    report.add(path, problem, at_key=True)
    return None
