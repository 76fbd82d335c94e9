"""What strangers send: markup, formulas and control characters are shown as text, everywhere, and act on nothing."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from api.csv_text import csv_text
from tests.browser.conftest import Open, Site

MARKUP = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
FORMULA = '=HYPERLINK("http://evil.example","x")'
CONTROLS = "a\u0000b\u001b[31mred\u202eevil\u200b"
SEEN = "a␀b␛[31mred[U+202E]evil[U+200B]"


@pytest.fixture(scope="module")
def strange(site: Site) -> Site:
    """The three as values of a group, as late rows, as dead letters and in quarantine."""
    site.send([site.view(f"/{text.replace('/', '')}/1", user=text) for text in (MARKUP, FORMULA, CONTROLS)])
    site.pass_time(6_000)
    site.send([site.view(f"/x/{MARKUP}{CONTROLS}", at_ms=site.now_ms - 200_000, user=MARKUP)])
    site.send([{"ts": MARKUP, "user": FORMULA, "page": CONTROLS}], expect=422)
    return site


def untouched(page: Page) -> None:
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('main img, main script, main iframe').length") == 0


def test_group_values_stay_text_in_table_chart_strip_and_picker(opened: Open, strange: Site) -> None:
    page = opened("#/metrics/views_by_section")
    page.wait_for_selector(".u-over")

    table = page.locator("tbody")
    for text in (MARKUP.replace("/", ""), FORMULA.replace("/", ""), SEEN):
        expect(table.get_by_text(text).first).to_be_visible()
    page.locator(".picker summary").click()
    expect(page.locator(".picker-list")).to_contain_text(SEEN)
    page.locator(".plot").focus()
    page.keyboard.press("End")
    expect(page.locator(".tip")).to_be_visible()
    untouched(page)

    page.locator(".picker-list label", has_text="<img").get_by_role("checkbox").check()
    expect(table).not_to_contain_text("docs")
    table.get_by_role("link").first.click()
    expect(page.locator(".facts")).to_contain_text("<img src=x")
    untouched(page)


@pytest.mark.parametrize(
    ("address", "texts"),
    [
        ("#/aside/late?stage=views_in_time", ["<img src=x", "\\u0000"]),
        ("#/aside/dead-letters?stage=page_numbers", ["<img src=x", "\\u001b[31m"]),
        ("#/aside/quarantine?stream=pageviews", ["<img src=x", "HYPERLINK"]),
        ("#/metrics/visits?start=all", ["<img src=x", "=HYPERLINK", SEEN]),
    ],
)
def test_rows_that_were_put_aside_stay_text(opened: Open, strange: Site, address: str, texts: list[str]) -> None:
    page = opened(address)

    for text in texts:
        expect(page.locator("tbody").get_by_text(text).first).to_be_attached()
    untouched(page)


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=window.hit=1>", "%3Cscript%3Ewindow.hit=1%3C/script%3E", "%E0%A4%A"]
)
def test_an_address_that_somebody_made_up_stays_text(opened: Open, name: str) -> None:
    page = opened(f"#/metrics/{name}")
    page.wait_for_selector(".empty")

    untouched(page)


def test_csv_of_the_page_is_that_of_the_api_character_by_character(opened: Open) -> None:
    texts = [
        "",
        "a",
        FORMULA,
        "+1",
        "-1",
        "@x",
        "\tx",
        "\rx",
        "\nx",
        'say "hi"',
        "a,b",
        "two\nlines",
        "\u0000\u007f\u001b",
    ]
    values: list[Any] = [*texts, None, 0, -1, 1.5, True, ["x", 1], {"a": "b,c"}]
    rows = [["name", "value"], *([first, second] for first, second in itertools.product(values, repeat=2))]

    script = "async (rows) => (await import('/dashboard/text.js')).csv(JSON.parse(rows))"
    assert opened().evaluate(script, json.dumps(rows)) == csv_text(rows)


def test_what_is_copied_for_a_shell_cannot_leave_its_quotes(opened: Open) -> None:
    text = 'it\'s $(touch x) `touch y` "z" \\'
    quoted = opened().evaluate("async (text) => (await import('/dashboard/text.js')).shellQuoted(text)", text)

    assert quoted == "'it'\"'\"'s $(touch x) `touch y` \"z\" \\'"


def test_integers_above_two_to_the_53rd_keep_their_digits(opened: Open) -> None:
    script = """async () => {
      const { parsed } = await import("/dashboard/api.js");
      const { number } = await import("/dashboard/format.js");
      const found = parsed('{"a": 9007199254740993, "b": 1.5, "c": 36893488147419103233}');
      return [number(found.a), number(found.b), number(found.c)];
    }"""

    assert opened().evaluate(script) == ["9,007,199,254,740,993", "1.5", "36,893,488,147,419,103,233"]
