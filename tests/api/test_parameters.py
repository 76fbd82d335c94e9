"""Query parameters: what is taken, and that nothing given is ever ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from api.metric_parameters import FORMATS, METRIC_PARAMETERS, latest_format, metric_request
from api.parameters import (
    check_encoding,
    event_limit,
    known_name,
    no_parameters,
)
from pipeline.core.programs import compile_programs
from pipeline.errors import BadRequestError
from pipeline.runtime.metric_query import MetricQuery
from tests.api.line import CONFIG

NOW_MS = 1_700_000_000_000
PROGRAMS = compile_programs(CONFIG)


def asked(metric: str = "by_page", **given: str | list[str]) -> MetricQuery:
    return metric_request(arguments(given), PROGRAMS[metric], NOW_MS).query


def arguments(given: dict[str, Any]) -> MultiDict[str, str]:
    return MultiDict({name.replace("where_", "where."): value for name, value in given.items()})


def refusal(metric: str = "by_page", **given: str | list[str]) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        asked(metric, **given)
    return caught.value


def test_nothing_given_means_the_newest_windows_in_order() -> None:
    assert asked() == MetricQuery("by_page", order="window", limit=10_000)


def test_times_and_durations_become_milliseconds_by_the_clock_given() -> None:
    query = asked(start="-15m", end="2023-11-14T22:13:20Z", step="1m")

    assert (query.start_ms, query.end_ms, query.step_ms) == (NOW_MS - 900_000, NOW_MS, 60_000)


@pytest.mark.parametrize("text", ["2023-11-14T23:13:20+01:00", "2023-11-14T23:13:20 01:00", "1700000000", "now"])
def test_a_time_may_be_written_in_several_ways_and_with_an_unescaped_plus(text: str) -> None:
    assert asked(start=text).start_ms == NOW_MS


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("bot", "true", True),
        ("bot", "false", False),
        ("status", "-5", -5),
        ("status", "9223372036854775807", 2**63 - 1),
        ("ts", "2023-11-14T22:13:20Z", NOW_MS),
        ("ts", "-1000", -1_000_000),
    ],
)
def test_a_group_value_is_read_by_the_type_of_its_column(name: str, text: str, value: Any) -> None:
    assert asked("by_kind", **{f"where_{name}": text}).where == {name: [value]}


def test_a_repeated_where_means_any_of_its_values() -> None:
    assert asked(where_page=["/a", "", "1"]).where == {"page": ["/a", "", "1"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("status", "1.5"),
        ("status", "1_000"),
        ("status", " 5"),
        ("status", "٣"),
        ("status", "9223372036854775808"),
        ("status", "9" * 5_000),
        ("status", ""),
        ("bot", "1"),
        ("ts", "now"),
        ("ts", "-15m"),
        ("ts", "yesterday"),
    ],
)
def test_a_group_value_of_another_type_is_refused_by_name_and_type(name: str, text: str) -> None:
    error = refusal("by_kind", **{f"where_{name}": text})

    assert (error.status, error.code) == (400, "wrong_type")
    assert f"where.{name}" in str(error)
    assert len(str(error)) < 250


def test_where_of_a_field_that_is_no_group_says_which_are() -> None:
    assert "Did you mean 'page'?" in str(refusal(where_pgae="x"))
    assert refusal(where_ms="1").code == "unknown_field"


@pytest.mark.parametrize(("given", "meant"), [("sart", "start"), ("lmit", "limit"), ("Format", "format")])
def test_an_unknown_parameter_is_refused_with_a_suggestion(given: str, meant: str) -> None:
    error = refusal(**{given: "1"})

    assert (error.status, error.code) == (400, "unknown_parameter")
    assert f"Did you mean '{meant}'?" in str(error)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("start", "soon", "bad_time"),
        ("start", "", "bad_time"),
        ("end", "99999999999999999999999", "bad_time"),
        ("step", "5", "bad_duration"),
        ("step", "-5m", "bad_duration"),
        ("limit", "0", "bad_limit"),
        ("limit", "100001", "bad_limit"),
        ("limit", "+5", "bad_limit"),
        ("limit", "1e3", "bad_limit"),
        ("order", "page", "unknown_order"),
        ("order", "--views", "unknown_order"),
        ("state", "openish", "bad_state"),
        ("format", "xml", "bad_format"),
        ("group_by", "bot,sttus", "unknown_field"),
        ("group_by", "page,page", "bad_group_by"),
        ("agg", "", "bad_agg"),
        ("agg", "views,vews", "unknown_field"),
        ("agg", "views,views", "bad_agg"),
        ("fill", "zeros", "bad_fill"),
        ("other", "1", "bad_other"),
        ("tz", "Europe/Pariss", "unknown_zone"),
        ("tz", "Europe/Paris", "bad_step"),
        ("step", "month", "bad_step"),
        ("cursor", "x", "bad_cursor"),
        ("cursor", "", "bad_cursor"),
        ("cursor", "W10", "bad_cursor"),
        ("format", "parquet", "bad_format"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name: str, text: str, code: str) -> None:
    error = refusal(**{name: text})

    assert (error.status, error.code) == (400, code)
    assert name in str(error)


def test_a_state_that_is_none_is_told_all_of_them() -> None:
    assert str(refusal(state="openish")) == (
        "state: 'openish' is none of open, closed (which takes final ones too), final and retracted (sessions alone); "
        "without it all are included"
    )


def test_a_parameter_given_twice_is_refused() -> None:
    assert refusal(start=["1", "2"]).code == "repeated_parameter"


def test_a_where_without_a_field_is_told_how_it_is_written() -> None:
    assert str(refusal(where="a")) == "where: say which field, such as where.<field>=a"


def test_a_start_after_the_end_is_refused() -> None:
    assert refusal(start="now", end="-1ms").code == "start_after_end"
    assert asked(start="now", end="now").start_ms == NOW_MS


def test_orders_limits_states_and_formats_of_the_contract_are_taken() -> None:
    query = asked(order="-views", limit="100000", state="closed")

    assert (query.order, query.limit, query.state) == ("-views", 100_000, "closed")
    assert metric_request(MultiDict({"format": "csv"}), PROGRAMS["by_page"], NOW_MS).format == "csv"


def test_endpoints_take_their_own_parameters_only() -> None:
    assert latest_format(MultiDict({"format": "csv"})) == "csv"
    assert event_limit(MultiDict({"limit": "7"})) == 7
    for check in (latest_format, event_limit, no_parameters):
        with pytest.raises(BadRequestError, match="there is no parameter 'start' here"):
            check(MultiDict({"start": "-1h"}))


@pytest.mark.parametrize("name", ["by_pge", "{by_page}", "by_page:versions", "*", "x" * 500])
def test_a_name_from_a_path_is_one_of_ours_or_a_404(name: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        known_name("metric", name, PROGRAMS)

    assert (caught.value.status, caught.value.code) == (404, "unknown_metric")
    assert len(str(caught.value)) < 200


NAMES = st.sampled_from([*METRIC_PARAMETERS, "where.bot", "where.status", "where.ts", "where."]) | st.text()
VALUES = st.text() | st.from_regex(r"[-+0-9nowTZ:.]{1,25}", fullmatch=True) | st.integers().map(str)


@drawn(st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_whatever_is_given_is_taken_or_refused_as_a_bad_request(pairs: list[tuple[str, str]]) -> None:
    error = refused(pairs)

    assert error is None or (error.status == 400 and len(str(error)) < 1_000)


def refused(pairs: list[tuple[str, str]]) -> BadRequestError | None:
    try:
        metric_request(MultiDict(pairs), PROGRAMS["by_kind"], NOW_MS)
    except BadRequestError as error:
        return error
    return None


def test_every_parameter_and_format_is_in_the_docs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/http.md").read_text("utf-8")
    table = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]

    assert [
        name for name in (*METRIC_PARAMETERS, "where.<field>") if not any(f"`{name}`" in row for row in table)
    ] == []
    assert [name for name in FORMATS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("text", [" 1h", "now 15x", "2023-11-14T22:13:20.5 1:00"])
def test_a_time_with_a_plus_that_became_a_space_says_how_to_write_it(text: str) -> None:
    assert str(refusal(start=text)).endswith("A + in a URL means a space; write it %2B.")


def test_a_time_without_a_space_says_nothing_of_a_plus() -> None:
    assert "%2B" not in str(refusal(start="yesterday"))


def test_a_wrong_time_of_a_group_is_one_sentence() -> None:
    for name, value in (("where_ts", "noon"), ("where_ts", "now"), ("where_status", "x")):
        with pytest.raises(BadRequestError) as caught:
            asked("by_kind", **{name: value})
        assert ".;" not in str(caught.value)


@pytest.mark.parametrize("query", [b"where.page=%ff", b"start=now&where.page=a%C3", b"%ff=1", b"where.page=\xff"])
def test_a_query_that_is_not_utf8_is_refused(query: bytes) -> None:
    with pytest.raises(BadRequestError, match="is not UTF-8 text") as caught:
        check_encoding(query)
    assert (caught.value.status, caught.value.code) == (400, "not_utf8")


@pytest.mark.parametrize("query", [b"", b"where.page=%C3%A9&a=+b", b"where.page=%EF%BF%BD", b"a=%zz", "a=é".encode()])
def test_a_query_in_utf8_is_taken(query: bytes) -> None:
    check_encoding(query)
