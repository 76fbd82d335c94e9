"""Every function of config.yaml, folded and finished, against DuckDB over the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.accumulators import Accumulator, Column, Values
from pipeline.core.aggregates import ARGUMENT_TYPES, Finisher, Part, bind
from pipeline.core.cell_layout import Layout
from pipeline.core.definitions import AGGREGATE_FUNCTIONS, AggregateSpec
from pipeline.core.process import as_numpy
from pipeline.core.sketch_distinct import DISTINCT_EXACT_CAP
from tests.examples import examples

CELLS = 2
COLUMNS: dict[str, pl.DataType] = {
    "v": pl.Float64(),
    "k": pl.Int64(),
    "s": pl.String(),
    "b": pl.Boolean(),
    "t": pl.Datetime("ms"),
}
FIELD_OF = {"string": "s", "int": "k", "float": "v", "bool": "b", "timestamp": "t"}
ARGUMENT: dict[str, float | int] = {"quantile": 0.95, "topk": 3}
# what DuckDB answers where it has the function; `t`, its time, orders the samples of increase
SQL: dict[str, str] = {
    "count": "count({f})",
    "sum": "coalesce(sum({f}), 0)",
    "mean": "avg({f})",
    "min": "min({f})",
    "max": "max({f})",
    "var": "var_samp({f})",
    "stddev": "stddev_samp({f})",
    "distinct_exact": "count(distinct {f})",
}

rows = st.lists(
    st.fixed_dictionaries(
        {
            "cell": st.integers(0, CELLS - 1),
            "v": st.none() | st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda value: value + 0.0),
            "k": st.none() | st.integers(-(10**9), 10**9),
            "s": st.none() | st.sampled_from(["a", "b", "ü", ""]),
            "b": st.none() | st.booleans(),
            "t": st.none() | st.integers(-(10**12), 10**12),
        }
    ),
    max_size=30,
)


def frame_of(drawn: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(drawn), schema={"cell": pl.Int64(), **COLUMNS}, orient="row")


def folded(parts: Sequence[Part], frame: pl.DataFrame, batch_rows: int = 7) -> dict[str, Column]:
    """The columns of CELLS cells after the frame, some rows at a time: as the worker folds them."""
    accumulators = [cast(Accumulator, part) for part in parts if hasattr(part, "columns")]
    sketches = [part for part in parts if not hasattr(part, "columns")]
    state = Layout.of(accumulators).blank(CELLS)
    for sketch in sketches:
        state[sketch.name] = np.empty(CELLS, dtype=object)
        state[sketch.name][:] = [sketch.empty() for _ in range(CELLS)]
    for at in range(0, len(frame), batch_rows):
        batch = frame[at : at + batch_rows]
        for part in accumulators:
            part.fold(state, values_of(batch, part.field, at))
        for sketch in sketches:
            slots, partials = sketch.lift(values_of(batch, sketch.field, at))
            for slot, partial in zip(slots.tolist(), partials, strict=True):
                state[sketch.name][slot], _ = sketch.fold(state[sketch.name][slot], partial)
    return state


def values_of(batch: pl.DataFrame, field: str | None, at: int) -> Values:
    numbered = batch.with_columns(pl.int_range(at, at + len(batch)).alias("row"))
    kept = numbered if field is None else numbered.filter(pl.col(field).is_not_null())
    position = kept["row"].to_numpy()
    column = position if field is None else as_numpy(kept[field])
    return Values(kept["cell"].to_numpy().astype(np.intp), column, position * 1_000, np.zeros_like(position), position)


def finished(finisher: Finisher, state: Mapping[str, Column]) -> list[Any]:
    return finisher.finish(state, np.arange(CELLS), [10**6] * CELLS)


def spec(function: str, field: str | None, argument: float | int | None = None) -> AggregateSpec:
    return AggregateSpec("x", function, field, argument if argument is not None else ARGUMENT.get(function))


def every_use() -> list[tuple[str, str]]:
    kinds = {function: ARGUMENT_TYPES.get(function, tuple(FIELD_OF)) for function in AGGREGATE_FUNCTIONS}
    return [(function, FIELD_OF[kind]) for function, types in kinds.items() for kind in types]


def same(found: Any, expected: Any, scale: float) -> bool:
    if not isinstance(found, float) or expected is None:
        return bool(found == expected)
    return math.isclose(found, float(expected), rel_tol=1e-9, abs_tol=1e-9 * scale)


@settings(max_examples=examples(25, whole=200), deadline=None)
@given(drawn=rows, use=st.sampled_from([use for use in every_use() if use[0] in SQL]))
def test_every_exact_function_answers_as_duckdb_does(drawn: list[dict[str, Any]], use: tuple[str, str]) -> None:
    function, field = use
    frame = frame_of(drawn)
    finisher = bind(spec(function, field), COLUMNS)

    found = finished(finisher, folded(finisher.parts, frame))

    column = "epoch_ms(t)" if field == "t" else field
    sql = f"SELECT {SQL[function].format(f=column)} FROM frame WHERE cell = ?"
    scale = max((abs(float(row[field])) for row in drawn if isinstance(row[field], int | float)), default=0.0) ** 2
    for cell in range(CELLS):
        (expected,) = duckdb.execute(sql, [cell]).fetchone() or ()
        assert same(found[cell], expected, scale + 1), (found, expected)


@settings(max_examples=examples(25, whole=200), deadline=None)
@given(drawn=rows, field=st.sampled_from(["v", "k"]), q=st.sampled_from([0, 0.25, 0.29, 0.5, 0.95, 1]))
def test_a_quantile_is_within_its_error_of_the_value_duckdb_sorts_there(
    drawn: list[dict[str, Any]], field: str, q: float
) -> None:
    frame = frame_of(drawn)
    finisher = bind(spec("quantile", field, q), COLUMNS)

    found = finished(finisher, folded(finisher.parts, frame))

    for cell in range(CELLS):
        sql = f"SELECT list({field} ORDER BY {field}) FROM frame WHERE cell = ? AND {field} IS NOT NULL"
        (ordered,) = duckdb.execute(sql, [cell]).fetchone() or ()
        if not ordered:
            assert found[cell] is None
        else:
            expected = ordered[int(Fraction(repr(q)) * (len(ordered) - 1))]
            assert abs(found[cell] - expected) <= 0.01 * abs(expected)


@settings(max_examples=examples(25, whole=200), deadline=None)
@given(drawn=rows, field=st.sampled_from(["s", "k", "b", "t"]))
def test_topk_is_duckdb_s_count_of_each_value(drawn: list[dict[str, Any]], field: str) -> None:
    frame = frame_of(drawn)
    finisher = bind(spec("topk", field), COLUMNS)

    found = finished(finisher, folded(finisher.parts, frame))

    column = "epoch_ms(t)" if field == "t" else field
    sql = f"""SELECT {column} AS item, count(*) AS n FROM frame WHERE cell = ? AND {field} IS NOT NULL
              GROUP BY item ORDER BY n DESC, item LIMIT 3"""
    for cell in range(CELLS):
        assert found[cell] == [list(row) for row in duckdb.execute(sql, [cell]).fetchall()]


@settings(max_examples=examples(25, whole=200), deadline=None)
@given(drawn=rows, field=st.sampled_from(["v", "k"]))
def test_increase_and_time_weighted_mean_are_duckdb_s_over_the_rows_in_order(
    drawn: list[dict[str, Any]], field: str
) -> None:
    frame = frame_of(drawn)
    grown, mean = bind(spec("increase", field), COLUMNS), bind(spec("time_weighted_mean", field), COLUMNS)
    ordered = frame.with_row_index("place")
    state = folded(grown.parts, frame)
    scale = max((abs(float(row[field])) for row in drawn if row[field] is not None), default=0.0)

    assert len(ordered) == len(drawn)
    sql = f"""WITH samples AS (SELECT place, {field} AS x, lag({field}) OVER w AS before,
                coalesce(lead(place) OVER w, 1000) - place AS held
                FROM ordered WHERE cell = ? AND {field} IS NOT NULL WINDOW w AS (ORDER BY place))
              SELECT sum(CASE WHEN x >= before THEN x - before ELSE x END) FILTER (before IS NOT NULL),
                     sum(x * held) / sum(held) FROM samples"""
    for cell, (increase, weighted) in enumerate(zip(finished(grown, state), finished(mean, state), strict=True)):
        expected = duckdb.execute(sql, [cell]).fetchone() or ()
        assert same(increase, expected[0], scale)
        assert same(weighted, expected[1], scale)


@pytest.mark.parametrize(("function", "field"), every_use())
def test_every_function_answers_in_the_type_it_says(function: str, field: str) -> None:
    row = {"v": 1.5, "k": 3, "s": "a", "b": True, "t": 60_000}
    frame = frame_of([{"cell": 0, **row}, {"cell": 0, **row}])
    finisher = bind(spec(function, field), COLUMNS)

    value, empty = finished(finisher, folded(finisher.parts, frame))

    kinds = {"int": int, "float": float, "string": str, "bool": bool, "timestamp": int, "list": list}
    assert type(value) is kinds[finisher.type]
    assert empty == finisher.empty
    assert empty in (None, 0, [])
    assert finisher.truncated(folded(finisher.parts, frame), np.arange(CELLS)) == [False, False]


def test_a_topk_of_bools_lists_bools() -> None:
    finisher = bind(spec("topk", "b"), COLUMNS)
    state = folded(finisher.parts, frame_of([{"cell": 0, "b": True}]))

    assert finished(finisher, state)[0] == [[True, 1]]
    assert type(finished(finisher, state)[0][0][0]) is bool


def test_aggregates_of_one_field_and_filter_share_their_parts() -> None:
    shared = [
        AggregateSpec("p50", "quantile", "v", 0.5),
        AggregateSpec("p95", "quantile", "v", 0.95),
        AggregateSpec("spread", "histogram", "v"),
        AggregateSpec("n", "count", "v"),
    ]
    filtered = AggregateSpec("p50_b", "quantile", "v", 0.5, where="b")

    parts = {part.name: part for each in shared for part in bind(each, COLUMNS).parts}

    assert list(parts) == ["n(v)", "quantiles(v)"]
    assert [part.name for part in bind(filtered, COLUMNS).parts] == ["n(v) where b", "quantiles(v) where b"]
    assert [part.where for part in bind(filtered, COLUMNS).parts] == ["b", "b"]


@pytest.mark.parametrize(("function", "field"), [("count", None), *every_use()])
def test_the_filter_is_part_of_the_name_of_every_part(function: str, field: str | None) -> None:
    plain = bind(AggregateSpec("x", function, field, ARGUMENT.get(function)), COLUMNS)
    filtered = bind(AggregateSpec("x", function, field, ARGUMENT.get(function), where="k > 1"), COLUMNS)

    names = [f"{part.name} where k > 1" for part in plain.parts]
    assert [part.name for part in filtered.parts] == names


def test_what_a_cap_kept_out_is_said() -> None:
    many = frame_of([{"cell": 0, "k": number} for number in range(DISTINCT_EXACT_CAP + 1)])

    for function, value in (("distinct_exact", None), ("topk", [[0, 1], [1, 1], [2, 1]]), ("increase", 9_999)):
        finisher = bind(spec(function, "k"), COLUMNS)
        state = folded(finisher.parts, many, batch_rows=4_000)
        assert finisher.truncated(state, np.arange(CELLS)) == [True, False]
        assert finished(finisher, state)[0] == value


def test_a_window_without_an_end_gives_its_last_sample_no_weight() -> None:
    finisher = bind(spec("time_weighted_mean", "k"), COLUMNS)
    state = folded(finisher.parts, frame_of([{"cell": 0, "k": 4}, {"cell": 0, "k": 100}]))

    assert finisher.finish(state, np.array([0])) == [4.0]
    assert finisher.finish(state, np.array([0]), np.array([4_000])) == [(4 * 1 + 100 * 3) / 4]
