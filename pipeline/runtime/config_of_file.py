"""A config to begin with, made from the first rows of a file: its columns become fields, and one stage counts them.

Invariant: what is written passes `streamgauge check`, and every row that was looked at fits its schema, but for the few
that `Draft.notes` names. What cannot be known from rows (units, what the numbers are for) is left to who edits it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.core.column_names import field_name
from pipeline.core.definitions import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from pipeline.core.times import format_duration
from pipeline.errors import StreamgaugeError
from pipeline.runtime.config_aggregates import RESULT_COLUMNS
from pipeline.runtime.csv_files import PLAIN, CsvStyle
from pipeline.runtime.file_columns import ROWS_PER_ODD_ONE, Looked, look_at, words_among_numbers
from pipeline.runtime.replay_files import time_ms

LOOKED_AT = 10_000  # rows
MAX_GROUPS = 1_000  # distinct texts up to which a column tells groups apart
MAX_STAGE_NAME = 48
MAX_MEASURES = 4  # columns of numbers whose mean, least and greatest are computed
ABOUT_WINDOWS = 500  # of a group, over the rows that were looked at: a chart's width
WINDOWS_MS = (SECOND_MS, 10 * SECOND_MS, MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)
LEAST_DISORDER_MS = 5 * SECOND_MS
MOST_DISORDER_MS = HOUR_MS  # a file that is sorted by something else is not out of order as it would arrive
LEAST_RETENTION_MS = 7 * DAY_MS
ODD_SHOWN = 3
NUMBERS = ("int", "float")
WORDS_OF_TIME = re.compile(r"(^|_)(ts|time|timestamp|date|datetime|at|when)($|_)")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the file: its field's name and type, and its values in the rows that were looked at."""

    title: str
    name: str
    type: str
    values: Sequence[Any]

    @property
    def is_nullable(self) -> bool:
        return any(value is None for value in self.values)

    def distinct(self) -> int:
        return len({value for value in self.values if value is not None})


@dataclass(frozen=True, slots=True)
class Draft:
    """What was found in the rows. `shown_ms`: how far back a first look goes, over as many windows as a chart shows."""

    source: str
    stream: str
    metric: str
    columns: Sequence[Column]
    left_out: Sequence[str]  # titles of columns that are no fields
    time: Column
    group: Column | None
    disorder_ms: int
    size_ms: int
    keep_ms: int
    shown_ms: int
    looked: Looked

    def text(self) -> str:
        """The config file."""
        disorder, keep = format_duration(self.disorder_ms), format_duration(self.keep_ms)
        lines = [
            "# yaml-language-server: $schema=./config.schema.json",
            f"# Drafted from the first rows of {json.dumps(self.source)}. `streamgauge check` names every mistake.",
            "",
            f"default_stream: {self.stream}",
            "",
            "streams:",
            f"  {self.stream}:",
            "    schema:   # the columns; a `?` means: may be missing. With a unit: {type: float, unit: °C}",
            *self._fields(),
            f"    time: {{field: {self.time.name}, disorder: {disorder}}}   # rows {disorder} out of order still count",
            *([] if self.group is None else [f"    partition_by: {self.group.name}"]),
            f"    retention: {{time: {keep}}}",
            "",
            "stages:",
            f"  {self.metric}:",
            f"    from: {self.stream}",
            f"    window: {{tumbling: {format_duration(self.size_ms)}}}",
            *([] if self.group is None else [f"    group_by: [{self.group.name}]"]),
            "    aggregates:",
            *(f"      {name}: {call}" for name, call in self._aggregates().items()),
            f"    retention: {keep}",
        ]
        return "\n".join(lines) + "\n"

    def notes(self) -> Iterator[str]:
        """What to know before the file is sent: rows that will be refused, and in which style it was read."""
        if self.looked.style.time_format is not None:
            zone = "" if "%z" in self.looked.style.time_format else ", in UTC unless the field names its `zone`"
            yield f"times are read as {self.looked.style.time_format}{zone}"
        if self.left_out:
            yield self._not_fields()
        if self.looked.style.decimal_comma:
            yield "numbers are read with a decimal comma"
        for column in self.columns:
            if column.type == "string" and self.looked.is_csv:
                yield from self._words(column)
        if odd := self.looked.odd:
            count = f"{len(odd):,} of {self.looked.rows:,} rows do not fit and will be refused"
            shown = "; ".join(f"line {each.line}: {each.why}" for each in odd[:ODD_SHOWN])
            yield f"{count}: {shown}{'; …' if len(odd) > ODD_SHOWN else ''}"

    def _words(self, column: Column) -> Iterator[str]:
        if words := words_among_numbers(column.values):
            yield (
                f"{column.name} is a text: {len(words):,} values, such as {column.values[words[0]]!r:.60} in line "
                f"{self.looked.lines[words[0]]}, are not numbers. If numbers are "
                "meant, leave those cells empty and draft again"
            )

    def _fields(self) -> Iterator[str]:
        for column in self.columns:
            kind = "timestamp" if column is self.time else column.type
            line = f"      {column.name}: {kind}{'?' if column.is_nullable else ''}"
            yield line if column.name == column.title else f"{line}   # the column {_quoted(column.title)}"
        if self.left_out:
            yield f"      # {self._not_fields()}"

    def _not_fields(self) -> str:
        titles = ", ".join(map(_quoted, self.left_out))
        return f"not a field: {titles} (no value, an object, several kinds of values, or a name used before)"

    def _aggregates(self) -> dict[str, str]:
        measures = [column.name for column in self.columns if column.type in NUMBERS and column is not self.time]
        group = self.group and self.group.name
        calls = {"row_count" if group == "rows" else "rows": "count"}
        for name in measures[:MAX_MEASURES]:
            calls |= {f"{call}_{name[:59]}": f"{call}({name})" for call in ("mean", "min", "max")}
        return {name: call for name, call in calls.items() if name != group}


def draft_for(path: Path, style: CsvStyle = PLAIN) -> Draft:
    """Look at the first rows of an NDJSON, CSV or Parquet file; `style` is what is known of a CSV's times and decimals.

    Raises:
        StreamgaugeError: it is no such file, has no rows, or no column with times.
    """
    looked = look_at(path, LOOKED_AT, style)
    columns, left_out = _named(looked)
    title = _time_title(path, columns)
    looked = looked.without_gaps_in(title)
    columns, _ = _named(looked)
    (time,) = (column for column in columns if column.title == title)
    group = _group(columns)
    times = [ms for ms in map(time_ms, time.values) if ms is not None]
    span_ms, size_ms = max(times) - min(times), _window_ms(times, group)
    stream = _stream_name(path)
    return Draft(
        path.name,
        stream,
        f"{stream}_windows" if group is None else f"{stream}_by_{group.name}"[:MAX_STAGE_NAME],
        columns,
        left_out,
        time,
        group,
        _disorder_ms(times),
        size_ms,
        max(LEAST_RETENTION_MS, 2 * -(-span_ms // DAY_MS) * DAY_MS),
        _in_whole_units(min(span_ms + 2 * size_ms, ABOUT_WINDOWS * size_ms)),
        looked,
    )


def _quoted(title: str) -> str:
    return json.dumps(title, ensure_ascii=False)


def _named(looked: Looked) -> tuple[list[Column], list[str]]:
    """The columns that can be fields, and the titles of the others."""
    columns: list[Column] = []
    left_out = list(looked.untyped)
    for found in looked.columns:
        name = field_name(found.title)
        name = f"{name}_" if name in RESULT_COLUMNS else name  # read as the same column, and free to group by
        if any(name == column.name for column in columns) or name == field_name(""):
            left_out.append(found.title)
        else:
            columns.append(Column(found.title, name, found.type, found.values))
    return columns, left_out


def _time_title(path: Path, columns: Sequence[Column]) -> str:
    """The first column of times; or numbers that are called so and can be some."""
    for column in columns:
        if column.type == "timestamp" and _has_few_gaps(column):
            return column.title
    for column in columns:
        if column.type in NUMBERS and WORDS_OF_TIME.search(column.name) and _has_few_gaps(column):
            return column.title
    titles = ", ".join(f"'{column.title}' ({column.type})" for column in columns)
    raise StreamgaugeError(
        f"{path}: no column has a time in every row. Columns: {titles}. Times are written as "
        "2026-03-01 08:00:00 or 2026-03-01T08:00:00Z, or as epoch numbers in a column called time, ts or date. For a "
        "CSV that writes them otherwise, say how with --time-format."
    )


def _has_few_gaps(column: Column) -> bool:
    return sum(value is None for value in column.values) * ROWS_PER_ODD_ONE <= len(column.values)


def _group(columns: Sequence[Column]) -> Column | None:
    """The first column of texts that come again and again."""
    for column in columns:
        if column.type == "string" and 1 < column.distinct() <= min(MAX_GROUPS, len(column.values) // 2):
            return column
    return None


def _stream_name(path: Path) -> str:
    name = field_name(path.name.partition(".")[0])[:40]
    return "events" if name == field_name("") else name


def _window_ms(times: Sequence[int], group: Column | None) -> int:
    """The least usual size that has a row of each group in it as a rule, and makes no more windows than fit a chart."""
    gaps = [after - before for before, after in pairwise(sorted(times)) if after > before]
    of_group = (median(gaps) if gaps else 0) * (group.distinct() if group is not None else 1)
    least = max(of_group, (max(times) - min(times)) / ABOUT_WINDOWS)
    return next((size for size in WINDOWS_MS if size >= least), DAY_MS)


def _disorder_ms(times: Sequence[int]) -> int:
    """How far a row of the file is behind the newest before it, in whole seconds."""
    newest = behind = 0
    for ms in times:
        newest = max(newest, ms)
        behind = max(behind, newest - ms)
    whole = -(-behind // SECOND_MS) * SECOND_MS
    return min(max(whole, LEAST_DISORDER_MS), MOST_DISORDER_MS)


def _in_whole_units(duration_ms: int) -> int:
    """Not less, in days where it is two of them or more, else in hours, else in minutes."""
    unit = next((unit for unit in (DAY_MS, HOUR_MS) if duration_ms >= 2 * unit), MINUTE_MS)
    return -(-duration_ms // unit) * unit
