"""One reader of Redis for all live readers of a process: a thread that follows every metric somebody listens to.

Invariant: what readers cost Redis does not grow with their number: one blocking XREAD, over the metrics that have any.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

import redis
import structlog

from api.live_policy import LivePolicy
from api.live_topics import Event, Reset, Topic, meta_json
from pipeline.core.programs import Program
from pipeline.errors import BadRequestError
from pipeline.rim import row_streams
from pipeline.rim.connection import is_away
from pipeline.rim.row_streams import EntryId, Loss
from pipeline.runtime.live_feeds import RowFeed, feed_of
from pipeline.runtime.live_rows import Line
from pipeline.runtime.query import Metrics

log = structlog.get_logger(__name__)

ENTRIES_A_READ = 2_000  # of one metric: four steps of a publication
PUBLICATIONS_A_READ = 20  # windows, of a metric without a downstream stream
ROWS_AN_EVENT = 500  # or the rest of a chunk: some 100 kB of JSON
AWAY_PAUSE_S = 0.5
LOSSES: dict[Loss, str] = {
    "trimmed": "rows after this position have been trimmed; they are older than the metric's retention",
    "ahead": "this position is ahead of everything published: Redis has lost what was there, or is another one",
}
NEW_VERSION = Reset("new_version", "the metric's definition was changed, and the new one answers now")


@dataclass(slots=True)
class LiveHub:
    """The topics that have readers, and the thread that fills them; it runs only while there are some."""

    client: redis.Redis
    metrics: Metrics
    policy: LivePolicy = field(default_factory=LivePolicy)
    closed: threading.Event = field(default_factory=threading.Event)
    _topics: dict[str, Topic] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _server: str | None = None  # the one that what is in the rings was read from
    _checks_at: float = 0.0

    def join(self, metric: str, wake: threading.Event) -> Topic:
        """Listen to a metric: `wake` is set whenever there is something new."""
        program = self.metrics.program(metric)
        feed = feed_of(self.client, program)
        position = feed.last()
        with self._lock:
            topic = self._topics.setdefault(metric, Topic(program, feed, position, position))
            topic.listen(wake)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="live", daemon=True)
                self._thread.start()
            return topic

    def leave(self, metric: str, wake: threading.Event) -> None:
        """Stop listening; a metric nobody listens to is not read."""
        with self._lock:
            topic = self._topics.get(metric)
            if topic is not None and not topic.ignore(wake):
                del self._topics[metric]

    def close(self) -> None:
        """End every live stream, and take no new ones."""
        self.closed.set()
        with self._lock:
            for topic in self._topics.values():
                topic.wake()

    def _run(self) -> None:
        while self._goes_on():
            try:
                self.look_once()
            except Exception as error:
                if not (isinstance(error, redis.exceptions.RedisError) and is_away(error)):
                    log.exception("live streams cannot be read; trying again", next="see the error")
                self.closed.wait(AWAY_PAUSE_S)

    def _goes_on(self) -> bool:
        with self._lock:
            if self._topics and not self.closed.is_set():
                return True
            self._thread = None
            return False

    def look_once(self) -> None:
        """Bring what was published since the last look into the rings; waits at most `look_ms` for something."""
        with self._lock:
            topics = dict(self._topics)
        if monotonic() >= self._checks_at:
            self._settle_doubt(topics)
            self._check(topics)
            self._checks_at = monotonic() + self.policy.checks_every_s
        rows = {metric: topic for metric, topic in topics.items() if isinstance(topic.feed, RowFeed)}
        if rows:
            after = {metric: topic.position for metric, topic in rows.items()}
            found = row_streams.wait_for_entries(self.client, after, self.policy.look_ms, ENTRIES_A_READ)
            if found and self._settle_doubt(topics):
                return  # what was read may be of another server than what is in the rings: it is read again
            for metric, entries in found.items():
                feed = rows[metric].feed
                assert isinstance(feed, RowFeed)
                self._fill(rows[metric], feed.parsed(entries))
        else:
            self.closed.wait(self.policy.look_ms / 1_000)
        for metric in topics.keys() - rows.keys():
            topic = topics[metric]
            published = topic.feed.after(topic.position, PUBLICATIONS_A_READ)
            if published.loss is not None:
                self._lose(topic, published.loss)
            else:
                self._fill(topic, published.entries)

    def _fill(self, topic: Topic, entries: Sequence[tuple[EntryId, Sequence[Line]]]) -> None:
        """Cut publications into events of about ROWS_AN_EVENT rows."""
        if not entries:
            return
        completeness = self.metrics.completeness(topic.program)
        meta = meta_json(completeness.watermark_ms, completeness.complete_to_ms)
        lines: list[Line] = []
        for entry_id, found in entries:
            lines += found
            if len(lines) >= ROWS_AN_EVENT:
                topic.append(Event(lines, entry_id, meta))
                lines = []
        topic.append(Event(lines, entries[-1][0], meta))

    def _check(self, topics: Mapping[str, Topic]) -> None:
        """Notice that another version of a metric has begun to answer, or that somebody deleted its stream."""
        for metric, topic in topics.items():
            program = self.metrics.program(metric)
            if program.version != topic.program.version:
                self._begin_again(topic, program, NEW_VERSION)
            elif topic.feed.last() < topic.position:
                self._lose(topic, "ahead")

    def _settle_doubt(self, topics: Mapping[str, Topic]) -> bool:
        """Whether this is another server than before; if so, find out whether it has what was read of that one."""
        server = row_streams.server_run(self.client)
        if server == self._server:
            return False
        for topic in topics.values():
            loss = topic.feed.after(topic.position, 1).loss
            if loss is not None:
                self._lose(topic, loss)
        self._server = server
        return True

    def _lose(self, topic: Topic, loss: Loss) -> None:
        self._begin_again(topic, topic.program, Reset(loss, LOSSES[loss]))

    def _begin_again(self, topic: Topic, program: Program, why: Reset) -> None:
        try:
            feed = feed_of(self.client, program)
        except BadRequestError as error:  # the new version sends nothing that can be followed
            log.warning("a metric cannot be followed any more", metric=program.name, why=str(error))
            why = replace(why, detail=str(error))
            feed = topic.feed
        topic.reset(program, feed, feed.last(), why)
