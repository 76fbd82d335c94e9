"""A browser on the product: one `up` for all tests of a worker; what a page must not do fails its test."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.product.product import Product, wait_for

CONFIG = Path(__file__).with_name("config.yaml")
# Where pictures go when they are asked for (`make screenshots`); a usual run leaves the tree as it is.
SCREENSHOTS = os.environ.get("STREAMGAUGE_SCREENSHOTS")
BROWSERS = ("chromium", "chromium-browser")
LOOPBACK_ONLY = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # whatever a page asks for elsewhere is not there
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    f"--host-resolver-rules={LOOPBACK_ONLY}",
]
DESKTOP = (1280, 860)
PHONE = (360, 740)
ACTION_MS = 15_000
expect.set_options(timeout=ACTION_MS)
HISTORY_S = 270
NEAR_MS = 500
SECTIONS = {"blog": 9, "docs": 7, "pricing": 4, "about": 2}
Open = Callable[..., Page]
Theme = Literal["light", "dark"]


def browser_path() -> str:
    """Return the system's Chromium; where it is missing, skip at home and fail in CI."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is not None:
        return found
    reason = "there is no chromium on PATH: `apt-get install chromium` brings it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(slots=True)
class Site:
    """A running product with four and a half minutes of views in it; `now_ms` is where its events have come to."""

    product: Product
    now_ms: int = field(default_factory=lambda: int(time.time() * 1_000))

    @property
    def url(self) -> str:
        return self.product.url

    def send(self, events: list[dict[str, Any]], stream: str = "pageviews", *, expect: int = 202) -> None:
        answer = self.product.http.post(f"/v1/streams/{stream}/events?wait=applied", json=events)
        assert answer.status_code == expect, answer.text

    def view(self, page: str, *, at_ms: int | None = None, user: str = "u1", **more: Any) -> dict[str, Any]:
        return {"ts": self.now_ms if at_ms is None else at_ms, "user": user, "page": page, "load_ms": 120.0, **more}

    def pass_time(self, ms: int) -> None:
        """Events in both partitions, so that every window up to `ms` from here closes.

        Never past the clock, and never far behind it: what a page sends by itself is of now.
        """
        self.now_ms = max(self.now_ms + ms, int(time.time() * 1_000) - NEAR_MS)
        wait_for(lambda: time.time() * 1_000 >= self.now_ms, "the clock to be where the events are")
        self.send([self.view("/docs/pace", user=f"pace{number}") for number in range(8)])

    def fill_history(self) -> None:
        """Views as a site has them: sections of different size, a gap, and both partitions alike."""
        self.now_ms -= 20_000
        begin = self.now_ms - HISTORY_S * 1_000
        events = []
        for second in range(HISTORY_S):
            if 120 <= second < 140:  # nobody came: a gap
                continue
            for number, (section, weight) in enumerate(SECTIONS.items()):
                count = round(weight * (1 + 0.4 * math.sin(second / 21 + number)))
                events += [
                    self.view(
                        f"/{section}/{(second + each) % 4}",
                        at_ms=begin + second * 1_000 + each * 40,
                        user=f"u{(second * 7 + each) % 40}",
                        load_ms=90.0 + 25 * number + 30 * math.sin(second / 13) + each,
                    )
                    for each in range(count)
                ]
        self.send(events)
        self.pass_time(1_000)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    browser_path()  # without one nothing needs to start
    with Product(tmp_path_factory.mktemp("site"), config=CONFIG) as product:
        product.wait_until_ready()
        site = Site(product)
        site.fill_history()
        yield site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = browser_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass  # without slots: playwright keeps its wrappers of the methods on the instance
class Watch:
    """What a page must not do: speak to another host, break its policy, fail; each is kept with its words."""

    host: str
    wrong: list[str] = field(default_factory=list)
    refusals_expected: bool = False

    def request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self.host:
            self.wrong.append(f"a request to {request.url}")

    def console(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        where = str(message.location.get("url", ""))
        # A live stream may be refused (429), and the page then polls; the browser says so all the same.
        if "Failed to load resource" in message.text and (
            self.refusals_expected or where.split("?")[0].endswith("/live")
        ):
            return
        self.wrong.append(f"the console says: {message.text} ({where})")


VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));"""


@pytest.fixture
def opened(browser: Browser, site: Site) -> Iterator[Open]:
    """Open an address of the dashboard; the test fails at its end when a page did what it must not."""
    contexts: list[BrowserContext] = []
    watch = Watch(urlsplit(site.url).netloc)

    def open_page(
        address: str = "",
        *,
        theme: Theme = "light",
        size: tuple[int, int] = DESKTOP,
        refusals_expected: bool = False,
        **options: Any,
    ) -> Page:
        watch.refusals_expected = refusals_expected
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,
            timezone_id="UTC",
            permissions=["clipboard-read", "clipboard-write"],
            **options,
        )
        contexts.append(context)
        context.set_default_timeout(ACTION_MS)
        context.add_init_script(VIOLATIONS)
        context.on("request", watch.request)
        page = context.new_page()
        page.on("console", watch.console)
        page.on("pageerror", lambda error: watch.wrong.append(f"the page failed: {error.stack}"))
        page.goto(f"{site.url}/{address}")
        page.wait_for_selector("h1, h3, [role=alert]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert watch.wrong == []


def until(page: Page, script: str, what: str) -> None:
    """Wait until an expression is true in the page; `wait_for_function` would need eval, which the policy forbids."""
    wait_for(lambda: bool(page.evaluate(script)), what)


def picture(page: Page, name: str) -> None:
    """Keep a picture of what is seen, where pictures were asked for."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")
