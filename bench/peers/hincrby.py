"""One entry an event and one HINCRBY a view: what most people write first on Redis Streams.

XADD of each event by its sender is not counted. Two consumers read entries as they come, join, count and acknowledge;
the server is the product's own, with the same durability. It has no event time, so no window ever closes.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from itertools import islice
from pathlib import Path

import msgspec
import redis

from bench.peers.job import WINDOW_MS, Job, Row, run
from pipeline.rim.connection import reader, writer
from pipeline.rim.embedded import EmbeddedServer

STREAM, GROUP, COUNTS = "events", "counters", "counts"
CONSUMERS = 2
ENTRIES_A_READ = 1_000
ENTRIES_A_PIPELINE = 5_000


class Event(msgspec.Struct):
    ad_id: str
    event_type: str
    event_time: int


def yahoo(job: Job) -> list[Row]:
    campaigns = job.campaigns()
    with tempfile.TemporaryDirectory(prefix="hincrby-") as folder, EmbeddedServer(Path(folder)) as server:
        client = writer(server.url)
        client.execute_command("XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM")
        with job.events.open("rb") as lines:
            while some := list(islice(lines, ENTRIES_A_PIPELINE)):
                pipe = client.pipeline(transaction=False)
                for line in some:
                    pipe.execute_command("XADD", STREAM, "*", "event", line)
                pipe.execute()
        context = multiprocessing.get_context("fork")
        consumers = [context.Process(target=consume, args=(server.url, f"c{k}", campaigns)) for k in range(CONSUMERS)]
        with job.clock():
            for consumer in consumers:
                consumer.start()
            for consumer in consumers:
                consumer.join()
        if any(consumer.exitcode for consumer in consumers):
            raise SystemExit("a consumer failed")
        counted: dict[bytes, bytes] = reader(server.url).execute_command("HGETALL", COUNTS)
    rows = []
    for key, n in counted.items():
        start, campaign = key.decode().split(" ")
        rows.append((int(start), campaign, {"views": int(n)}))
    return rows


def consume(url: str, name: str, campaigns: dict[str, str]) -> None:
    """Count until there is nothing new."""
    client = writer(url)
    decode = msgspec.json.Decoder(Event).decode
    while entries := _read(client, name):
        pipe = client.pipeline(transaction=False)
        for _, (_, line) in entries:
            event = decode(line)
            if event.event_type == "view":
                start = event.event_time // WINDOW_MS * WINDOW_MS
                pipe.execute_command("HINCRBY", COUNTS, f"{start} {campaigns[event.ad_id]}", 1)
        pipe.execute_command("XACK", STREAM, GROUP, *(entry_id for entry_id, _ in entries))
        pipe.execute()


def _read(client: redis.Redis, name: str) -> list[tuple[bytes, tuple[bytes, bytes]]]:
    """Entries that nobody has read, each as its id and its one field with the value."""
    asked = ("XREADGROUP", "GROUP", GROUP, name, "COUNT", ENTRIES_A_READ, "STREAMS", STREAM, ">")
    answer = client.execute_command(*asked)
    if not answer:
        return []
    entries = answer[STREAM.encode()][0] if isinstance(answer, dict) else answer[0][1]
    return [
        (entry[0], next(iter(entry[1].items())) if isinstance(entry[1], dict) else tuple(entry[1])) for entry in entries
    ]


if __name__ == "__main__":
    run(yahoo=yahoo)
