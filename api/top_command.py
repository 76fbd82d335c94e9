"""`streamgauge top`: rates, lag, watermark delay, pending, late and memory, refreshed until q or Ctrl-C.

Invariant: it only asks `GET /metrics` and `GET /v1/stages`; a script gets the same numbers with `--json`.
"""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from api.commands import DEFAULT_URL, Url

if TYPE_CHECKING:
    from rich.console import Group

    from api.client import Client
    from api.top import Reading, Top

PATIENCE_S = 2.0  # then the screen says that nothing answers
KEYS_AT_ONCE = 64
FIRST_RATE_S = 1.0  # between the two readings that the first rate needs


def top(
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look for a second, print it and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a look, for scripts.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show rates, lag, watermark delay, pending, late and memory, live. q or Ctrl-C ends it."""
    from api.client import Client

    with Client(url, patience_s=PATIENCE_S) as client:
        first = _reading(client)
        if as_json:
            for seen in _looks(client, first, min(interval, FIRST_RATE_S) if once else interval):
                typer.echo(json.dumps(seen.as_json()))
                if once:
                    return
        elif once or not sys.stdout.isatty():
            _print_once(client, first)
        else:
            _show(client, first, interval)


def _reading(client: Client) -> Reading:
    from api.top import Reading, read_metrics

    return Reading(time.monotonic(), read_metrics(client.text("/metrics")), client.stages())


def _looks(client: Client, first: Reading, interval: float) -> Iterator[Top]:
    from api.top import top as compare

    before = first
    while True:
        time.sleep(interval)
        after = _reading(client)
        yield compare(before, after)
        before = after


def _print_once(client: Client, first: Reading) -> None:
    from api.tables import print_top

    print_top(next(_looks(client, first, FIRST_RATE_S)))


def _show(client: Client, first: Reading, interval: float) -> None:
    """Refresh one screen until q is pressed; while nothing answers it says so and goes on."""
    from rich.live import Live
    from rich.text import Text

    from api.tables import top_screen
    from api.top import top as compare
    from pipeline.errors import StreamgaugeError

    before, wait_s = first, min(interval, FIRST_RATE_S)
    with _keys(), Live(Text(f"{client.url} …"), screen=True, auto_refresh=False) as live:
        while not _pressed_q(wait_s):
            wait_s = interval
            try:
                after = _reading(client)
            except StreamgaugeError as error:
                live.update(Text(str(error)), refresh=True)
                continue
            shown: Group = top_screen(compare(before, after), client.url)
            live.update(shown, refresh=True)
            before = after


@contextmanager
def _keys() -> Iterator[None]:
    """Keys are read as they are pressed, without being shown, while stdin is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed_q(wait_s: float) -> bool:
    """Wait for a key, at most `wait_s`; the keys that mean nothing do not end the wait."""
    if not sys.stdin.isatty():
        time.sleep(wait_s)
        return False
    until = time.monotonic() + wait_s
    while (left_s := until - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left_s)
        # Past Python's own buffer, which would hold keys that select does not see.
        if ready and b"q" in os.read(sys.stdin.fileno(), KEYS_AT_ONCE).lower():
            return True
    return False


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(top)
