"""`/metrics/windows`: what Prometheus sees of the newest closed windows, whatever the groups are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api import window_gauges
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Tumbling
from tests.api.line import BASE, BY_PAGE, VISITS, Line, make_line
from tests.servers import RunningServer

Samples = dict[tuple[str, ...], float]


def samples(line: Line, name: str = "") -> Samples:
    """(name without the prefix, label values…) → value; every sample once."""
    answer = line.http.get("/metrics/windows")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            key = (sample.name.removeprefix("streamgauge_window_"), *sample.labels.values())
            assert key not in found
            found[key] = sample.value
    return {key: value for key, value in found.items() if key[0].startswith(name)}


def test_the_newest_closed_window_of_each_metric_is_a_gauge_for_each_number(line: Line) -> None:
    line.add(1, "/a", 5.0)
    line.add(2, "/b")
    line.add(12, "/a", 7.0)
    line.tick(20)
    line.work()

    assert samples(line, "by_page") == {
        ("by_page_views", "/a"): 1,
        ("by_page_mean_ms", "/a"): 7.0,
        ("by_page_last_ms", "/a"): 7.0,
    }
    assert samples(line, "by_kind") == {("by_kind_n", "", "", str(BASE + 12_000)): 1}
    ends = {("end_seconds", metric): (BASE + 20_000) / 1000 for metric in ("by_page", "by_kind")}
    assert samples(line, "end") == ends
    assert samples(line, "series") == {("series_left_out", "by_page"): 0, ("series_left_out", "by_kind"): 0}


def test_nothing_published_is_no_sample(line: Line) -> None:
    assert samples(line) == {("series_left_out", "by_page"): 0, ("series_left_out", "by_kind"): 0}


@pytest.mark.parametrize("text", ['say "hi"', "a\\b", "a\nb", "a\\nb", "\x00\r\t", "<script>", "é\u2028", "{}=,"])
def test_any_text_is_a_label_and_comes_back_as_it_was(line: Line, text: str) -> None:
    line.add(1, text)
    line.tick(10)
    line.work()

    assert samples(line, "by_page_views") == {("by_page_views", text): 1}


def test_null_the_empty_text_and_long_texts_are_told_apart(line: Line) -> None:
    for page in (None, "", "x" * 1_000):
        line.add(1, page)
    line.tick(10)
    line.work()

    found = samples(line, "by_page_views")
    assert found == {("by_page_views", label): 1 for label in ("", '""', "x" * 199 + "…")}


def test_groups_that_look_alike_or_are_too_many_are_left_out_and_counted(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in ("x" * 300 + "1", "x" * 300 + "2", "a", "b"):
        line.add(1, page)
    line.tick(10)
    line.work()
    assert len(samples(line, "by_page_views")) == 3
    assert samples(line, "series")["series_left_out", "by_page"] == 1

    monkeypatch.setattr(window_gauges, "SERIES_A_METRIC", 2)
    assert samples(line, "by_page_views") == {("by_page_views", "a"): 1, ("by_page_views", "b"): 1}
    assert samples(line, "series")["series_left_out", "by_page"] == 2


def test_families_of_one_name_are_told_apart(server: RunningServer) -> None:
    counts = (AggregateSpec("c", "count"),), (AggregateSpec("b_c", "count"),), (AggregateSpec("seconds", "count"),)
    names = ("a_b", "a", "end")
    stages = {
        name: Aggregate(name, "visits", Tumbling(10_000), (), specs) for name, specs in zip(names, counts, strict=True)
    }
    line = make_line(server, Config({"visits": VISITS}, stages, default_stream="visits"))
    line.add(1, "/a")
    line.tick(10)
    line.work()

    assert [key for key in samples(line) if key[0] != "series_left_out"] == [
        ("a_b_c",),
        ("a_b_c_",),
        ("end_seconds_",),
        *(("end_seconds", name) for name in names),
    ]


def test_of_values_only_numbers_are_samples_and_times_are_seconds(server: RunningServer) -> None:
    specs = (
        AggregateSpec("page", "last", "page"),
        AggregateSpec("bot", "last", "bot"),
        AggregateSpec("ts", "last", "ts"),
        AggregateSpec("top", "topk", "page", 2),
        AggregateSpec("none", "last", "ms"),
    )
    stage = replace(BY_PAGE, group_by=(), aggregates=specs, source="visits")
    line = make_line(server, Config({"visits": VISITS}, {"by_page": stage}, default_stream="visits"))
    line.add(1, "/a", bot=True)
    line.tick(10)
    line.work()

    assert samples(line, "by_page") == {("by_page_bot",): 1, ("by_page_ts",): (BASE + 1_000) / 1000}


def test_the_pages_of_metrics_name_what_is_there_for_any_config(line: Line) -> None:
    from tests.test_layout import ROOT

    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    line.add(1, "/a")
    line.tick(10)
    line.work()
    named = {name for name, *_ in samples(line) if name in ("end_seconds", "series_left_out")}
    assert named == {"end_seconds", "series_left_out"}
    assert [name for name in named if f"`streamgauge_window_{name}`" not in page] == []
