"""Pages on which something is done: connecting a source, and replaying what was put aside."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, Site, picture

STREAMS = ("pageviews", "orders")


def test_connect_waits_for_the_first_event_and_says_when_it_came(opened: Open, site: Site) -> None:
    page = opened("#/connect?stream=pageviews")
    expect(page.locator(".snippet").first).to_contain_text(f"{site.url}/v1/streams/pageviews/events")
    expect(page.locator(".waiting")).to_contain_text("Waiting")

    page.get_by_role("button", name="Send it from here").click()
    expect(page.locator(".outcome")).to_contain_text('"accepted":1')
    expect(page.locator(".waiting")).to_contain_text("Your event came")
    picture(page, "connect")


@pytest.mark.parametrize("stream", STREAMS)
def test_the_snippets_send_an_event_that_the_door_takes(opened: Open, site: Site, stream: str) -> None:
    page = opened(f"#/connect?stream={stream}")

    curl = page.locator(".snippet").first.inner_text()
    sent = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, check=True, timeout=20)
    assert json.loads(sent.stdout)["accepted"] == 1, sent.stdout
    page.get_by_role("link", name="Python").click()
    expect(page.locator(".snippet").first).to_contain_text("Client(")
    before = site.product.stream(stream)["door"]["stored"]
    program = page.locator(".snippet").first.inner_text()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True)
    assert site.product.stream(stream)["door"]["stored"] == before + 1
    page.get_by_role("link", name="JavaScript").click()
    expect(page.locator(".snippet").first).to_contain_text("await fetch(")
    program = page.locator(".snippet").first.inner_text().replace("console.log(", "return (")
    page.evaluate(f"async () => {{ {program} }}")
    assert site.product.stream(stream)["door"]["stored"] == before + 2


def test_late_events_are_replayed_after_a_question_and_it_is_said_what_was(opened: Open, site: Site) -> None:
    late = [site.view(f"/late/{each}", at_ms=site.now_ms - 250_000 + each) for each in range(3)]
    site.send(late)
    page = opened("#/aside/late?stage=views_in_time")
    rows = page.locator("tbody tr")
    expect(rows.filter(has_text="/late/")).to_have_count(3)
    expect(page.locator(".owners li.chosen .reasons")).to_contain_text("late")

    rows.filter(has_text="/late/1").get_by_role("checkbox").check()
    page.get_by_role("button", name="Replay 1 row").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Replay 1 row?")
    dialog.get_by_role("button", name="Cancel").click()
    expect(rows.filter(has_text="replayed")).to_have_count(0)

    page.get_by_role("button", name="Replay 1 row").click()
    page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    expect(page.locator(".outcome")).to_contain_text("1 replayed now")
    expect(rows.filter(has_text="/late/1")).to_contain_text("replayed")
    expect(rows.filter(has_text="/late/2")).not_to_contain_text("replayed")
    picture(page, "aside")


def test_a_refused_row_is_in_quarantine_with_its_reason_and_may_be_refused_again(opened: Open, site: Site) -> None:
    site.send([{"ts": site.now_ms, "user": "ann"}, site.view("/ok/1")])
    page = opened("#/aside/quarantine?stream=pageviews&reason=missing", refusals_expected=True)

    row = page.locator("tbody tr", has_text="ann").first
    expect(row).to_contain_text("page")
    row.get_by_role("checkbox").check()
    page.get_by_role("button", name="Replay 1 row").click()
    page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    expect(page.locator(".outcome, [role=alert]").first).to_be_visible()


def test_dead_letters_say_what_could_not_be_computed(opened: Open, site: Site) -> None:
    site.send([site.view("/dead/nonumber")])
    page = opened("#/aside/dead-letters?stage=page_numbers")

    row = page.locator("tbody tr", has_text="/dead/nonumber").first
    expect(row).to_contain_text("number")
