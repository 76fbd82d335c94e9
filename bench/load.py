"""The load of the end-to-end benchmark: seeded events with their own recount, and senders that only move bytes.

The bodies are made before the clock starts; what runs on the measured cores is a socket write and a reply.
"""

from __future__ import annotations

import http.client
import multiprocessing
import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WINDOW_MS = 10_000
EVENTS_PER_MS = 10  # of event time: ten windows a million events
AD_TYPES = ("banner", "modal", "sponsored-search", "mail", "mobile")
EVENT_TYPES = ("view", "click", "purchase")
CAMPAIGNS = 100
MAX_LEAD = 15  # bodies: of 5,000 events each, 7.5 s of event time


@dataclass(frozen=True, slots=True)
class Load:
    """Bodies of NDJSON and what a correct pipeline counts over them: (window start, campaign) → views."""

    bodies: Sequence[bytes]
    n_events: int
    expected: Counter[tuple[int, str]]


def make_load(n_events: int, batch: int, start_ms: int, seed: int = 1) -> Load:
    """Make `n_events` events from `start_ms` on, in order of event time, in bodies of `batch`."""
    chance = random.Random(seed)
    users = [_uuid(chance) for _ in range(10_000)]
    pages = [_uuid(chance) for _ in range(1_000)]
    ads = [_uuid(chance) for _ in range(1_000)]
    campaigns = [_uuid(chance)[:13] for _ in range(CAMPAIGNS)]
    expected: Counter[tuple[int, str]] = Counter()
    bodies: list[bytes] = []
    for first in range(0, n_events, batch):
        lines: list[str] = []
        for number in range(first, min(first + batch, n_events)):
            time_ms = start_ms + number // EVENTS_PER_MS
            kind, campaign = chance.choice(EVENT_TYPES), chance.choice(campaigns)
            if kind == "view":
                expected[time_ms // WINDOW_MS * WINDOW_MS, campaign] += 1
            lines.append(
                f'{{"user_id":"{chance.choice(users)}","page_id":"{chance.choice(pages)}","ad_id":"{chance.choice(ads)}",'
                f'"ad_type":"{chance.choice(AD_TYPES)}","event_type":"{kind}","event_time":{time_ms},"campaign":"{campaign}"}}'
            )
        bodies.append("\n".join(lines).encode())
    return Load(bodies, n_events, expected)


def _uuid(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128)))


def send_all(port: int, stream: str, bodies: Sequence[bytes], connections: int) -> list[str]:
    """Post every body once, in order, over `connections`; return what was not answered with 202.

    No body is sent before all those MAX_LEAD ahead of it are answered: on a busy machine one connection may stand still
    for a second, and what the others send meanwhile must stay within the stream's disorder.
    """
    queue: Iterator[tuple[int, bytes]] = iter(enumerate(bodies))
    turn = threading.Condition()
    under_way: set[int] = set()
    failures: list[str] = []

    def next_body() -> tuple[int, bytes] | None:
        with turn:
            found = next(queue, None)
            if found is not None:
                under_way.add(found[0])
                turn.wait_for(lambda: found[0] - min(under_way) <= MAX_LEAD)
            return found

    def sender() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (found := next_body()) is not None:
            number, body = found
            try:
                failure = post(connection, body)
            except OSError as error:
                failure = repr(error)
            if failure:
                failures.append(failure)
            with turn:
                under_way.remove(number)
                turn.notify_all()
        connection.close()

    def post(connection: http.client.HTTPConnection, body: bytes) -> str | None:
        connection.request("POST", f"/v1/streams/{stream}/events", body, {"content-type": "application/x-ndjson"})
        response = connection.getresponse()
        text = response.read()
        return None if response.status == 202 else f"{response.status} {text[:200]!r}"

    threads = [threading.Thread(target=sender) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def start_sending(port: int, stream: str, bodies: Sequence[bytes], connections: int) -> multiprocessing.Process:
    """Send from a process of its own, forked with the bodies in its memory."""
    context = multiprocessing.get_context("fork")

    def send() -> None:
        failures = send_all(port, stream, bodies, connections)
        if failures:
            raise SystemExit(f"{len(failures)} requests failed, the first: {failures[0]}")

    process = context.Process(target=send)
    process.start()
    return process  # type: ignore[return-value]
