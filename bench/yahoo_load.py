"""The Yahoo Streaming Benchmark, made again from its description: ad events, of which views are counted per campaign.

    user, page, ad, kind of ad, event type, time and address: about 240 bytes of JSON
    100 campaigns of 10 ads: a table (CSV) joins ad_id with campaign_id
    answer: views of each campaign in each 10 s

Invariant: which events are late does not depend on how they were sent. One in time is never further behind than streams
allow; a late one is so far behind that its window ended long before, by whatever partition and connection it comes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.lines import Ints, Times, ndjson, texts

WINDOW_MS = 10_000
CAMPAIGNS, ADS_A_CAMPAIGN = 100, 10
USERS, PAGES, ADDRESSES = 10_000, 1_000, 1_000
AD_TYPES = ("banner", "modal", "sponsored-search", "mail", "mobile")
EVENT_TYPES = ("view", "click", "purchase")
VIEW = EVENT_TYPES.index("view")
JITTER_MS = 2_000  # an event in time is at most this much behind those before it; the sender adds LEAD_MS
LATE_BY_MS = (60_000, 90_000)  # window, disorder, jitter and lead are 30 s together
TABLE = "ads.csv"


class TooShortError(Exception):
    """The load has no room for what it shall have; the message says what to change."""


@dataclass(frozen=True, slots=True)
class YahooLoad:
    """Events in the order they are sent; what is not a time is the number of a name."""

    times_ms: Ints
    is_late: npt.NDArray[np.bool_]
    users: Ints
    pages: Ints
    ads: Ints
    ad_types: Ints
    event_types: Ints
    addresses: Ints
    names: Mapping[str, list[str]]

    def bodies(self, batch: int) -> list[bytes]:
        """NDJSON."""
        parts = (
            *(b'{"user_id":"', texts(self.names["user"], self.users)),
            *(b'","page_id":"', texts(self.names["page"], self.pages)),
            *(b'","ad_id":"', texts(self.names["ad"], self.ads)),
            *(b'","ad_type":"', texts(AD_TYPES, self.ad_types)),
            *(b'","event_type":"', texts(EVENT_TYPES, self.event_types)),
            *(b'","event_time":', Times(self.times_ms)),
            *(b',"ip_address":"', texts(self.names["address"], self.addresses), b'"}'),
        )
        return ndjson(parts, len(self.times_ms), batch)

    def frame(self) -> pl.DataFrame:
        """The same events as columns."""
        columns = {
            "user_id": pl.Series(self.names["user"]).gather(self.users),
            "page_id": pl.Series(self.names["page"]).gather(self.pages),
            "ad_id": pl.Series(self.names["ad"]).gather(self.ads),
            "ad_type": pl.Series(AD_TYPES).gather(self.ad_types),
            "event_type": pl.Series(EVENT_TYPES).gather(self.event_types),
            "event_time": pl.Series(self.times_ms),
            "ip_address": pl.Series(self.names["address"]).gather(self.addresses),
        }
        return pl.DataFrame(columns)

    def counts(self) -> dict[tuple[int, str], dict[str, int]]:
        """Views of each campaign in each window, by numpy over all events at once; late ones left out."""
        counted = (self.event_types == VIEW) & ~self.is_late
        windows, campaigns = self.times_ms[counted] // WINDOW_MS, self.ads[counted] // ADS_A_CAMPAIGN
        found, counts = np.unique(windows * CAMPAIGNS + campaigns, return_counts=True)
        return {
            (key // CAMPAIGNS * WINDOW_MS, self.names["campaign"][key % CAMPAIGNS]): {"views": n}
            for key, n in zip(found.tolist(), counts.tolist(), strict=True)
        }

    @property
    def n_late_views(self) -> int:
        """What a pipeline that filters first finds late."""
        return int(np.count_nonzero(self.is_late & (self.event_types == VIEW)))


def yahoo_load(
    n_events: int, start_ms: int, *, events_per_ms: float, late: float = 0.0, skew: float = 0.0, seed: int = 1
) -> YahooLoad:
    """Make `n_events` from `start_ms` on; `late` is the share of late ones, `skew` the exponent of Zipf's law over ads.

    Raises:
        TooShortError: the load is too short to have events that are late whatever happens.
    """
    chance = np.random.default_rng(seed)
    sent_ms = start_ms + (np.arange(n_events) / events_per_ms).astype(np.int64)
    times_ms = np.maximum(sent_ms - chance.integers(0, JITTER_MS, n_events), start_ms)
    is_late = np.zeros(n_events, np.bool_)
    if late:
        span_ms = n_events / events_per_ms
        if span_ms < 2 * LATE_BY_MS[1]:
            raise TooShortError(
                f"{n_events} events at {events_per_ms:g} a millisecond are {span_ms / 1000:.0f} s: late events need "
                f"{2 * LATE_BY_MS[1] / 1000:.0f} s. Make more events, or fewer a millisecond."
            )
        # The first half brings the watermark of every partition so far that what is behind by this is late.
        is_late[n_events // 2 :] = chance.random(n_events - n_events // 2) < 2 * late
        times_ms[is_late] = sent_ms[is_late] - chance.integers(*LATE_BY_MS, int(is_late.sum()))
    n_ads = CAMPAIGNS * ADS_A_CAMPAIGN
    # Popular ads are spread over campaigns: ad k of the law is another one of the table.
    popularity = np.cumsum(1 / np.arange(1, n_ads + 1) ** skew)
    ranks = np.searchsorted(popularity, chance.random(n_events) * popularity[-1], side="right")
    return YahooLoad(
        times_ms=times_ms,
        is_late=is_late,
        users=chance.integers(0, USERS, n_events),
        pages=chance.integers(0, PAGES, n_events),
        ads=chance.permutation(n_ads)[ranks].astype(np.int64),
        ad_types=chance.integers(0, len(AD_TYPES), n_events),
        event_types=chance.integers(0, len(EVENT_TYPES), n_events),
        addresses=chance.integers(0, ADDRESSES, n_events),
        names=yahoo_names(seed),
    )


def yahoo_names(seed: int = 1) -> dict[str, list[str]]:
    """The names of a seed, whatever the number of events."""
    chance = np.random.default_rng([seed, 1])
    return {
        "user": _uuids(chance, USERS),
        "page": _uuids(chance, PAGES),
        "ad": _uuids(chance, CAMPAIGNS * ADS_A_CAMPAIGN),
        "campaign": _uuids(chance, CAMPAIGNS),
        "address": [".".join(map(str, chance.integers(1, 255, 4).tolist())) for _ in range(ADDRESSES)],
    }


def ads_table(names: Mapping[str, Sequence[str]]) -> str:
    """The CSV that joins an ad with its campaign: ad k belongs to campaign k // 10."""
    rows = (f"{ad},{names['campaign'][k // ADS_A_CAMPAIGN]}" for k, ad in enumerate(names["ad"]))
    return "\n".join(["ad_id,campaign_id", *rows, ""])


def _uuids(chance: np.random.Generator, n: int) -> list[str]:
    return [str(uuid.UUID(bytes=chance.bytes(16))) for _ in range(n)]
