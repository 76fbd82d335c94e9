"""The fused transforms of a stage, compiled to steps: filter, derive, lookup, explode, python, in this order in each.

    _row  page   tags          explode tags      _row  page  tags
      0   /a     [x, y]       ───────────────▶     0   /a    x       rows of one event keep its `_row`,
      1   /b     []                                0   /a    y       one whose `_row` is gone is filtered

Every step is row-wise: what it makes of a row depends on that row alone, so a batch may be cut anywhere. Where a step
fails on the data, the rows it fails on alone are dead, and with one row of an event the whole event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, assert_never

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from pipeline.core import python_calls
from pipeline.core.batches import ROW, Reload
from pipeline.core.column_types import stream_columns, type_of
from pipeline.core.definitions import Config, Engine, Lookup, Stage, Transform
from pipeline.core.expressions import Expression, compile_expression, reason_of
from pipeline.core.failing_rows import failing_rows
from pipeline.core.frames import kept, with_column
from pipeline.core.python_calls import CallError
from pipeline.core.registered_transforms import TRANSFORMS
from pipeline.core.sketch_user import UserPartials, what_failed
from pipeline.core.tables import Contents
from pipeline.errors import MissingTableError, UserCodeError

EXPRESSION_FAILED = "expression_failed"  # code of a dead letter
POISON_ATTEMPTS = 3  # a row that fails this often alone is a dead letter (DESIGN 8.6)
NO_CONTENTS: Contents = MappingProxyType({})
Columns = Mapping[str, pl.DataType]


@dataclass(frozen=True, slots=True)
class FilterStep:
    """Rows where `keep` is TRUE stay."""

    transform: str
    keep: pl.Expr


@dataclass(frozen=True, slots=True)
class DeriveStep:
    """All of `derive` is added; none of them sees another."""

    transform: str
    derive: tuple[pl.Expr, ...]


@dataclass(frozen=True, slots=True)
class LookupStep:
    """A column is joined from the content its table has at the row."""

    transform: str
    name: str
    lookup: Lookup


@dataclass(frozen=True, slots=True)
class ExplodeStep:
    """One row for each item of a list; none for an empty list or null."""

    transform: str
    column: str


@dataclass(frozen=True, slots=True)
class PythonStep:
    """A registered function is called; `after` are the columns it has to give back beside `_row`.

    `function` is None where this process does not have the text that was hashed: such a program is read, never run.
    """

    transform: str
    name: str
    engine: Engine
    function: Callable[[Any], Any] | None
    after: Columns


@dataclass(frozen=True, slots=True)
class LiftStep:
    """The `lift` of a registered aggregate, called where it may fail; what it gives is a column for the fold."""

    transform: str
    sketch: UserPartials


Step = FilterStep | DeriveStep | LookupStep | ExplodeStep | PythonStep | LiftStep


def where_column(text: str) -> str:
    """The column of a frame in flight that says where an aggregate's `where` is TRUE; no field can be named so."""
    return f"where {text}"


def lifted_column(sketch: UserPartials) -> str:
    """The column of a frame in flight with the lifted values of a registered aggregate; no field can be named so."""
    return f"lifted {sketch.name}"


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row that cannot be processed: its number in the batch, and why."""

    row: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Joins:
    """What lookups join with: the tables before the batch (name → hash), its reloads, and the contents by hash."""

    before: Mapping[str, str] = field(default_factory=dict)
    reloads: Sequence[Reload] = ()
    contents: Contents = field(default_factory=dict)

    def pieces(self, frame: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, Mapping[str, str]]]:
        """The rows between two reloads, with the tables that hold there."""
        first, tables = 0, dict(self.before)
        for row, name, content in self.reloads:
            if row > first:
                yield frame[first:row], dict(tables)
                first = row
            tables[name] = content
        yield frame[first:], tables


def tables_after(before: Mapping[str, str], reloads: Sequence[Reload]) -> Mapping[str, str]:
    """The content of each table (name → hash) behind a batch."""
    return {**before, **{name: content for _, name, content in reloads}}


def hashes_in(steps: Sequence[Step], before: Mapping[str, str], reloads: Sequence[Reload]) -> frozenset[str]:
    """The contents that steps may join with in a batch: `Joins` needs all of them."""
    names = tables_of(steps)
    held = (content for name, content in before.items() if name in names)
    return frozenset((*held, *(content for _, name, content in reloads if name in names)))


def tables_of(steps: Sequence[Step]) -> frozenset[str]:
    """The lookup tables that steps join with."""
    return frozenset(step.lookup.table for step in steps if isinstance(step, LookupStep))


def lost_functions(steps: Sequence[Step]) -> list[str]:
    """The registered functions of steps whose text this process does not have: such steps cannot be run here."""
    return [step.name for step in steps if isinstance(step, PythonStep) and step.function is None]


def compile_steps(
    config: Config, stage: Stage, wanted: frozenset[str] | None
) -> tuple[tuple[Step, ...], frozenset[str], dict[str, pl.DataType]]:
    """Compile the transforms above `stage` (and `stage` itself when it is one), computing only what is read below.

    `wanted` are the columns read after the last step; None: all of them.

    Returns:
        (steps, the stream fields they and `wanted` need, all columns after the last step).
    """
    chain = config.transforms_of(stage)
    if isinstance(stage, Transform):
        chain = (*chain, stage)
    columns = stream_columns(config.stream_of(stage))
    drafts: list[_Draft] = []
    for transform in chain:
        for draft in _drafts(transform, columns):
            drafts.append(draft)
            columns = dict(draft.after)
    steps: list[Step] = []
    needs = frozenset(columns) if wanted is None else wanted
    for draft in reversed(drafts):
        made, needs = draft.finish(needs)
        steps += reversed(made)
    return tuple(reversed(steps)), needs, columns


def columns_after(transform: Transform, columns: Columns) -> dict[str, pl.DataType]:
    """The columns of a transform, by those of its source."""
    for draft in _drafts(transform, columns):
        columns = draft.after
    return dict(columns)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A setting of a transform: the columns after it, and how it becomes steps once it is known what is read below."""

    after: Columns
    finish: Callable[[frozenset[str]], tuple[list[Step], frozenset[str]]]


def _drafts(transform: Transform, columns: Columns) -> Iterator[_Draft]:
    if transform.filter is not None:
        yield _filter(transform, columns)
    if transform.derive:
        draft = _derive(transform, columns)
        columns = draft.after
        yield draft
    if transform.lookup:
        draft = _lookup(transform, columns)
        columns = draft.after
        yield draft
    if transform.explode is not None:
        draft = _explode(transform, transform.explode, columns)
        columns = draft.after
        yield draft
    if transform.python is not None:
        yield _python(transform, columns)


def _filter(transform: Transform, columns: Columns) -> _Draft:
    keep = compile_expression(transform.filter or "", columns)
    step = FilterStep(transform.name, keep.expr)
    return _Draft(columns, lambda needs: ([step], needs | keep.names))


def _derive(transform: Transform, columns: Columns) -> _Draft:
    derived = {name: compile_expression(text, columns) for name, text in transform.derive.items()}

    def finish(needs: frozenset[str]) -> tuple[list[Step], frozenset[str]]:
        read: dict[str, Expression] = {name: each for name, each in derived.items() if name in needs}
        exprs = tuple(each.expr.cast(each.dtype).alias(name) for name, each in read.items())
        rest = (needs - read.keys()).union(*(each.names for each in read.values()))
        return [DeriveStep(transform.name, exprs)] if read else [], rest

    return _Draft({**columns, **{name: each.dtype for name, each in derived.items()}}, finish)


def _lookup(transform: Transform, columns: Columns) -> _Draft:
    def finish(needs: frozenset[str]) -> tuple[list[Step], frozenset[str]]:
        read = {name: lookup for name, lookup in transform.lookup.items() if name in needs}
        steps: list[Step] = [LookupStep(transform.name, name, lookup) for name, lookup in read.items()]
        return steps, (needs - read.keys()) | {lookup.on for lookup in read.values()}

    return _Draft({**columns, **{name: type_of(each.type) for name, each in transform.lookup.items()}}, finish)


def _explode(transform: Transform, column: str, columns: Columns) -> _Draft:
    dtype = columns[column]
    assert isinstance(dtype, pl.List), f"{transform.name} explodes {column}, which is {dtype}"
    item = dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner()
    step = ExplodeStep(transform.name, column)
    return _Draft({**columns, column: item}, lambda needs: ([step], needs | {column}))  # it decides how many rows


def _python(transform: Transform, columns: Columns) -> _Draft:
    called = transform.python
    assert called is not None
    after = {**columns, **{name: type_of(kind) for name, kind in called.returns.items()}}
    known = TRANSFORMS.get(called.name)
    function = known.function if known is not None and known.source_hash == called.source_hash else None
    step = PythonStep(transform.name, called.name, called.engine, function, after)
    return _Draft(after, lambda needs: ([step], frozenset(columns)))  # a function sees every column


def apply_steps(
    steps: Sequence[Step], frame: pl.DataFrame, joins: Joins | None = None
) -> tuple[pl.DataFrame, tuple[DeadRow, ...]]:
    """Run the steps on a frame with `_row`, its rows numbered from 0 and in stream order, which they stay.

    Returns:
        (the rows that are left, what of the input is dead: one `DeadRow` an event).
    """
    joins = joins or Joins()
    joining = any(isinstance(step, LookupStep) for step in steps)
    pieces = joins.pieces(frame) if joining else [(frame, joins.before)]
    dead: dict[int, DeadRow] = {}
    done = [_run_all(steps, piece, tables, joins.contents, dead) for piece, tables in pieces]
    return pl.concat(done) if len(done) > 1 else done[0], tuple(dead[row] for row in sorted(dead))


def _run_all(
    steps: Sequence[Step],
    frame: pl.DataFrame,
    tables: Mapping[str, str],
    contents: Contents,
    dead: dict[int, DeadRow],
) -> pl.DataFrame:
    """Run the steps on rows for which the same tables hold; events that a step fails on go, all their rows."""
    for step in steps:
        fresh: dict[int, DeadRow] = {}

        def compute(part: pl.DataFrame, step: Step = step) -> pl.DataFrame:
            return _run(step, part, tables, contents)

        frame = _without_failing(step, compute, frame, fresh)
        if fresh:
            frame = frame.filter(~pl.col(ROW).is_in(list(fresh)))
            dead |= fresh
    return frame


def _run(step: Step, frame: pl.DataFrame, tables: Mapping[str, str], contents: Contents) -> pl.DataFrame:
    match step:
        case FilterStep():
            return frame.filter(step.keep)
        case DeriveStep():
            return frame.with_columns(step.derive)
        case LookupStep():
            return _join(step, frame, tables, contents)
        case ExplodeStep():
            return frame.filter(pl.col(step.column).list.len() > 0).explode(step.column)
        case PythonStep():
            return _call(step, frame)
        case LiftStep():
            return with_column(frame, _lift(step.sketch, frame))
    assert_never(step)


def _join(step: LookupStep, frame: pl.DataFrame, tables: Mapping[str, str], contents: Contents) -> pl.DataFrame:
    lookup = step.lookup
    if not len(frame):
        return frame.with_columns(pl.lit(None, dtype=type_of(lookup.type)).alias(step.name))
    if lookup.table not in tables:
        raise MissingTableError(f"{step.transform}: no content of the table {lookup.table} is known; set-up stores it")
    values = contents[tables[lookup.table]].values_of(lookup, frame[lookup.on])
    return with_column(frame, values.alias(step.name))


def _call(step: PythonStep, frame: pl.DataFrame) -> pl.DataFrame:
    if not len(frame):  # nothing to ask a function about
        return pl.DataFrame(schema={ROW: pl.Int64(), **step.after})
    assert step.function is not None, f"the text of the function '{step.name}' is not the one this stage was made of"
    return python_calls.call(step.name, step.function, step.engine, frame, step.after)


def _lift(sketch: UserPartials, frame: pl.DataFrame) -> pl.Series:
    """The lifted values of the rows that count, as bytes; null for the others."""
    column = frame[sketch.field]
    if isinstance(column.dtype, pl.Datetime):
        column = column.cast(pl.Int64)
    values = column.to_list()
    if sketch.where is not None:
        counts = frame[where_column(sketch.where)].to_list()
        values = [value if counted else None for value, counted in zip(values, counts, strict=True)]
    try:
        lifted = [None if value is None else sketch.lifted(value) for value in values]
    except UserCodeError as error:
        raise CallError("lift_failed", f"the aggregate '{sketch.function}' failed:\n{what_failed(error)}") from error
    return pl.Series(lifted_column(sketch), lifted, dtype=pl.Binary)


def _without_failing(
    step: Step, compute: Callable[[pl.DataFrame], pl.DataFrame], frame: pl.DataFrame, dead: dict[int, DeadRow]
) -> pl.DataFrame:
    """Compute a frame without the rows that fail; each kills its event.

    Of SQL the values that do not convert are found column-wise. The rows that are left are computed as ever, and what
    fails then for another reason is found by halving, which is the definition: it gives the same rows.
    """
    exprs = _exprs(step)
    if exprs:
        try:
            return compute(frame)
        except PolarsError:
            found = failing_rows(exprs, frame)
        if found:
            events = frame[ROW].to_list()
            for place in sorted(found):
                number, why = found[place]
                row = int(events[place])
                dead.setdefault(row, DeadRow(row, EXPRESSION_FAILED, f"{_place_in(step, number)}: {why}"))
            left = np.ones(len(frame), dtype=np.bool_)
            left[list(found)] = False
            frame = kept(frame, left)
    return _halve_poison(compute, frame, dead, lambda row, error: _dead_row(step, row, error))


def _exprs(step: Step) -> tuple[pl.Expr, ...]:
    """The SQL of a step, in order."""
    match step:
        case FilterStep():
            return (step.keep,)
        case DeriveStep():
            return step.derive
        case _:
            return ()


def _place_in(step: Step, number: int) -> str:
    """Which setting an expression of a step is, as a dead letter names it."""
    if not isinstance(step, DeriveStep):
        return f"filter of stage `{step.transform}`"
    name = step.derive[number].meta.output_name()
    condition = name.removeprefix(where_column(""))
    if condition != name:
        return f"condition `{condition}` of stage `{step.transform}`"
    return f"derive `{name}` of stage `{step.transform}`"


def _dead_row(step: Step, frame: pl.DataFrame, error: PolarsError | CallError) -> tuple[str, str]:
    """The code and the message for a row that failed alone."""
    if isinstance(error, CallError):
        return error.code, str(error)
    for number, expr in enumerate(_exprs(step)):
        found = failing_rows([expr], frame)
        if found:
            return EXPRESSION_FAILED, f"{_place_in(step, number)}: {found[0][1]}"
        try:
            frame.select(expr.alias("_"))
        except PolarsError as failure:
            return EXPRESSION_FAILED, f"{_place_in(step, number)}: {reason_of(failure)}"
    return EXPRESSION_FAILED, f"stage `{step.transform}`: {reason_of(error)}"


def _halve_poison(
    compute: Callable[[pl.DataFrame], pl.DataFrame],
    frame: pl.DataFrame,
    dead: dict[int, DeadRow],
    why: Callable[[pl.DataFrame, PolarsError | CallError], tuple[str, str]],
) -> pl.DataFrame:
    """Compute a frame, and where that fails its halves; a row that fails alone kills its event."""
    error: PolarsError | CallError | None = None
    for _ in range(1 if len(frame) > 1 else POISON_ATTEMPTS):
        try:
            return compute(frame)
        except (PolarsError, CallError) as failure:
            error = failure
    if len(frame) <= 1:
        assert error is not None, "it has failed"
        for row in frame[ROW]:
            dead.setdefault(int(row), DeadRow(int(row), *why(frame, error)))
        return compute(frame.clear())
    middle = len(frame) // 2
    return pl.concat([_halve_poison(compute, half, dead, why) for half in (frame[:middle], frame[middle:])])
