"""A plain Python loop over msgspec structs, from a file: no watermark, no broker, no durability."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from bench.peers.job import HOP_EVERY_MS, WINDOW_MS, Job, Row, hops_of, run


class Event(msgspec.Struct):
    """The three fields that are read of seven."""

    ad_id: str
    event_type: str
    event_time: int


class Reading(msgspec.Struct):
    ts: int
    sensor: str
    value: float


def yahoo(job: Job) -> list[Row]:
    decode = msgspec.json.Decoder(Event).decode
    counts: dict[tuple[int, str], int] = defaultdict(int)
    campaigns = job.campaigns()
    with job.clock(), job.events.open("rb") as lines:
        for line in lines:
            event = decode(line)
            if event.event_type == "view":
                counts[event.event_time // WINDOW_MS, campaigns[event.ad_id]] += 1
    return [(window * WINDOW_MS, campaign, {"views": n}) for (window, campaign), n in counts.items()]


def sensors(job: Job) -> list[Row]:
    decode = msgspec.json.Decoder(Reading).decode
    panes: dict[tuple[int, str], list[float]] = defaultdict(list)
    with job.clock():
        with job.events.open("rb") as lines:
            for line in lines:
                reading = decode(line)
                panes[reading.ts // HOP_EVERY_MS * HOP_EVERY_MS, reading.sensor].append(reading.value)
        return list(hops_of(panes))


if __name__ == "__main__":
    run(yahoo=yahoo, sensors=sensors)
