"""The metric explorer: it moves with the events, marks what was revised, and its address holds all it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, Site, picture
from tests.product.product import wait_for

PICTURE_OF_THE_CHART = "document.querySelector('.u-wrap canvas').toDataURL()"


def charted(page: Page) -> Page:
    page.wait_for_selector(".u-over")
    return page


def test_a_chart_moves_while_events_arrive(opened: Open, site: Site) -> None:
    page = charted(opened("#/metrics/views_by_section"))
    before = page.evaluate(PICTURE_OF_THE_CHART)

    site.pass_time(3_000)
    site.send([site.view("/moving/1")])
    wait_for(lambda: page.evaluate(PICTURE_OF_THE_CHART) != before, "the chart to move")
    row = page.locator("tbody tr", has_text="moving").first
    expect(row).to_contain_text("open")
    site.pass_time(3_000)
    expect(row).to_contain_text("closed")


def test_without_room_for_one_more_live_reader_the_page_says_so_and_polls(opened: Open, site: Site) -> None:
    page = opened("#/metrics")
    page.context.route("**/live*", lambda route: route.fulfill(status=429, headers={"Retry-After": "5"}))
    page.evaluate("location.hash = '#/metrics/views_by_section'")
    charted(page)
    expect(page.locator(".told .badge").first).to_have_text("polling")

    site.send([site.view("/polled/1")])
    site.pass_time(3_000)
    expect(page.locator("tbody tr", has_text="polled").first).to_contain_text("closed")


def test_windows_come_live_where_there_is_room(opened: Open, site: Site) -> None:
    page = charted(opened("#/metrics/views_by_section?start=all"))

    expect(page.locator(".told .badge").first).to_have_text("live")


def test_a_revision_appears(opened: Open, site: Site) -> None:
    at_ms = site.now_ms
    site.send([site.view("/revised/1", at_ms=at_ms)])
    site.pass_time(3_000)
    page = charted(opened("#/metrics/views_by_section?where.section=revised"))
    row = page.locator("tbody tr", has_text="revised").first
    expect(row).to_contain_text("closed")
    revision = int((re.search(r"rev (\d+)", row.inner_text()) or [0, 0])[1])

    site.send([site.view("/revised/2", at_ms=at_ms)])
    expect(row.locator(".badge.revised")).to_have_text(
        re.compile(f"rev ({'|'.join(str(revision + n) for n in (1, 2))})")
    )
    expect(row.locator(".number").first).to_have_text("2")


def test_gaps_are_gaps_open_windows_are_dashed_and_the_tip_says_what_is_there(opened: Open, site: Site) -> None:
    page = charted(opened("#/metrics/views_by_section?start=all"))
    page.locator(".plot").hover(position={"x": 250, "y": 120})

    tip = page.locator(".tip")
    expect(tip).to_contain_text("blog")
    expect(tip).to_contain_text("closed")
    expect(page.locator(".key-open")).to_be_visible()
    expect(page.locator(".legend li")).not_to_have_count(0)
    picture(page, "explorer")


def test_series_have_holes_where_no_window_is_and_open_points_hang_on_the_last_closed_one(opened: Open) -> None:
    script = """async () => {
      const { seriesOf, splitOpen } = await import("/dashboard/rows.js");
      const metric = { window: { tumbling_ms: 10 }, group: [{ name: "g" }] };
      const row = (at, value, state = "final") => ({ window_start: at, window_end: at + 10, g: "a", value, state });
      const rows = [row(0, 1), row(10, 2), row(40, 3), row(50, 4, "open"), { ...row(50, 9), g: "b" }];
      const { times, series } = seriesOf(metric, rows, "value", false);
      return { times, labels: series.map(({ label }) => label), a: series[0].values, split: splitOpen(series[0]) };
    }"""
    found: dict[str, Any] = opened().evaluate(script)

    assert found["times"] == [0, 10, 20, 40, 50]
    assert found["labels"] == ["a", "b"]
    assert found["a"] == [1, 2, None, 3, 4]
    assert found["split"] == {"closed": [1, 2, None, 3, None], "dashed": [None, None, None, 3, 4]}


def test_a_gap_in_the_strip_is_as_wide_as_the_time_without_windows(opened: Open) -> None:
    script = """async () => {
      const { columnsOf } = await import("/dashboard/heat.js");
      const { left, column, windowAt } = columnsOf([0, 10, 20, 70], 80);
      return { column, left: [0, 1, 2, 3].map(left), at: [0, 9, 10, 25, 69, 70, 79].map(windowAt) };
    }"""

    assert opened().evaluate(script) == {"column": 10, "left": [0, 10, 20, 70], "at": [0, 0, 1, 2, 2, 3, 3]}


def test_the_address_holds_all_that_is_shown_and_back_goes_back(opened: Open, site: Site) -> None:
    page = charted(opened("#/metrics/views_by_section"))
    page.get_by_role("combobox", name="Value", exact=True).select_option("mean_load_ms")
    page.get_by_role("combobox", name="Range", exact=True).select_option("all")
    page.get_by_role("combobox", name="Step", exact=True).select_option("1m")
    page.locator(".picker summary").click()
    page.locator(".picker-list label", has_text="blog").get_by_role("checkbox").check()
    page.get_by_role("link", name="Table only").click()
    address = page.url
    for part in ("value=mean_load_ms", "start=all", "step=1m", "where.section=blog", "view=table"):
        assert part in address

    other = opened(address.removeprefix(f"{site.url}/"))
    expect(other.get_by_role("combobox", name="Value", exact=True)).to_have_value("mean_load_ms")
    expect(other.get_by_role("combobox", name="Step", exact=True)).to_have_value("1m")
    expect(other.locator(".picker summary")).to_contain_text("blog")
    expect(other.locator("tbody")).to_contain_text("blog")
    assert "docs" not in other.locator("tbody").inner_text()
    expect(other.locator(".plot")).to_be_hidden()

    page.go_back()
    assert "view=table" not in page.url
    expect(page.locator(".plot")).to_be_visible()
    page.go_forward()
    expect(page.locator(".plot")).to_be_hidden()


def test_a_drag_zooms_and_a_click_explains(opened: Open, site: Site) -> None:
    page = charted(opened("#/metrics/views_by_section"))
    box = page.locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 100, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile(r"start=\d+&end=\d+"))
    expect(page.locator(".told")).to_contain_text("fixed range")

    page.wait_for_selector(".u-over")
    page.locator(".u-over").click(position={"x": 300, "y": 100})
    expect(page.locator("h1")).to_have_text("Why this number")


def test_a_single_window_is_drawn_as_wide_as_it_is_and_not_at_the_edge_of_years(opened: Open, site: Site) -> None:
    at_ms = site.now_ms - site.now_ms % 2_000
    site.send([site.view("/single/1", at_ms=at_ms)])
    page = charted(opened(f"#/metrics/views_by_section?start={at_ms}&end={at_ms + 2_000}&where.section=single"))
    box = page.locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 100, steps=4)
    page.mouse.up()
    page.wait_for_url(lambda url: f"start={at_ms}" not in url)

    start, end = (int(re.search(rf"{name}=(\d+)", page.url)[1]) for name in ("start", "end"))  # type: ignore[index]
    assert at_ms - 4_000 <= start < at_ms < end <= at_ms + 4_000


def test_a_window_is_explained_with_its_sum_and_its_values_recomputed(opened: Open, site: Site) -> None:
    page = charted(opened("#/metrics/views_by_section"))
    page.locator("tbody tr", has_text="closed").filter(has_text="blog").first.get_by_role("link").click()

    expect(page.locator(".sum")).to_contain_text(re.compile(r"\d+ read = \d+ accepted"))
    values = page.get_by_role("region", name="Values")
    expect(values.locator("tr", has_text="mean_load_ms")).to_contain_text("equal")
    expect(values.locator(".badge.bad")).to_have_count(0)
    expect(page.get_by_role("region", name="Partitions").locator("tbody tr")).to_have_count(2)
    picture(page, "explain")


def test_every_panel_can_be_had_as_curl_python_and_csv(opened: Open, site: Site) -> None:
    page = charted(opened("#/metrics/views_by_section?where.section=blog&start=all"))
    for panel in page.locator("section.panel:visible").all():
        assert panel.get_by_role("group").get_by_role("button").all_inner_texts() == ["curl", "Python", "CSV"]

    def copied(name: str) -> str:
        page.get_by_role("button", name=f"Copy the table as {name}").click()
        expect(page.locator(".toast").last).to_have_text(f"Copied as {name}")
        text: str = page.evaluate("navigator.clipboard.readText()")
        page.evaluate("document.querySelectorAll('.toast').forEach((each) => each.remove())")
        return text

    curl = subprocess.run(["sh", "-c", f"{copied('curl')} -s"], capture_output=True, text=True, check=True, timeout=20)
    assert {row["section"] for row in json.loads(curl.stdout)["data"]} == {"blog"}
    program = f"{copied('Python')}\nprint(len(found['data']))"
    python = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert int(python.stdout) > 0
    assert copied("CSV").splitlines()[0].startswith("window_start,window_end,state,revision,section,views")


def test_a_metric_without_windows_teaches_how_to_get_one(opened: Open) -> None:
    page = opened("#/metrics/returns_by_shop")

    expect(page.locator(".empty")).to_contain_text("No windows in this range")
    page.get_by_role("link", name="Send one").click()
    expect(page.locator("h1")).to_have_text("Connect")
    expect(page.get_by_role("combobox", name="Stream", exact=True)).to_have_value("returns")


def test_a_step_that_cannot_be_is_said_in_the_servers_words(opened: Open) -> None:
    page = opened("#/metrics/views_by_section?step=7s", refusals_expected=True)

    expect(page.get_by_role("alert")).to_contain_text("422")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("6s|8s"))


def test_lists_are_ranked_and_sessions_are_points(opened: Open) -> None:
    page = opened("#/metrics/top_sections?value=sections&start=all")
    expect(page.locator(".ranked")).to_contain_text("blog")

    page.evaluate("location.hash = '#/metrics/visits?start=all'")
    expect(page.locator("h1")).to_have_text("visits")
    expect(page.locator(".legend")).to_contain_text("sessions")
