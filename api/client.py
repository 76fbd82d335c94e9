"""The Python client: send rows or a DataFrame, read a metric as a DataFrame, and follow it live.

Invariant: a row sent once counts once, whatever happens to the connection: every batch carries an `Idempotency-Key` and
is repeated with the same key.

    with Client() as client:
        client.send("pageviews", [{"ts": 1431857103000, "user": "ada", "page": "/pricing"}])
        views = client.metric("views_by_section", start="-1h", step="1m")
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any

from api.client_connection import DEFAULT_URL, metric_path, stream_path
from api.client_errors import (
    ApiError,
    ConflictError,
    GoneError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    RejectedError,
)
from api.client_queries import Duration, Names, Query, Time, Where, duration_text, names_text, query_texts, where_texts
from api.client_sending import BATCH_ROWS, Sending, unknown
from api.live_reading import LiveEvent, LiveReader
from api.metric_reading import all_rows
from api.raw_reading import content_paths, raw_rows
from pipeline.core.times import parse_duration_ms
from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import RowError, SendResult, StreamView, UnavailableError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "BATCH_ROWS",
    "DEFAULT_URL",
    "ApiError",
    "Client",
    "ConflictError",
    "GoneError",
    "InvalidRequestError",
    "NotAllowedError",
    "NotFoundError",
    "RejectedError",
    "RowError",
    "SendResult",
    "StreamView",
    "StreamgaugeError",
    "UnavailableError",
]


class Client(Sending):
    """A connection to one Streamgauge API; use one per thread."""

    @classmethod
    def demo(cls, config: str | PathLike[str] | None = None) -> Client:
        """Return a client of a server of its own, which ends with it, its data too: for notebooks and first steps.

        `config` is the path of a config file, or the text of one. Without it, the server has made-up sensors and page
        views, and events of them that come all the time.
        """
        from api.demo import DemoClient

        return DemoClient(config)

    # --- reading metrics

    def metric(
        self,
        name: str,
        start: Time | None = None,
        end: Time | None = None,
        step: Duration | None = None,
        *,
        tz: str | None = None,
        group_by: Names | None = None,
        where: Where | None = None,
        agg: Names | None = None,
        order: str | None = None,
        limit: int | None = None,
        other: bool | None = None,
        fill: str | None = None,
        state: str | None = None,
    ) -> pd.DataFrame:
        """Return a metric over a range, one row per window and group, indexed by `window_start` (UTC).

        Times are what the API takes (`-1h`, RFC 3339, epoch numbers) or datetimes; `step` is a duration such as `1m`,
        or a timedelta; with `tz` (`Europe/Paris`) steps of `1d`, `1w` and `month` are those of that zone. `group_by`
        are the group fields to tell apart, `agg` the values to answer with. `where={"section": "docs"}` keeps some
        groups; a list of values means any of them. `order` is `window` or a value's name, with a `-` before it for
        descending. `other`: `limit` counts groups, and the rest are `__other__`. `fill` (none, auto, null, zero,
        previous, linear) makes rows for windows without events. `state` is one of open, closed, final, retracted.
        Without `start` it is the newest 1,000 windows; without `limit` every row, in as many requests as that takes.

        `df.attrs` says how complete it is: `watermark`, `complete_to`, `complete_from` (ISO 8601), `complete_by`,
        `truncated`; and the `units` of the values. Ints are `Int64`, Python ints where one has more than 64 bits.

        Raises:
            InvalidRequestError: the metric cannot be asked so; the message says what can.
            NotFoundError: there is no such metric.
        """
        from api.frames import metric_frame

        asked = {"start": start, "end": end, "step": duration_text(step), "tz": tz, "order": order, "fill": fill}
        asked |= {"group_by": names_text(group_by), "agg": names_text(agg), "other": other, "state": state}
        query, path = query_texts(asked) | where_texts(where), metric_path(name)
        if other:  # the limit counts groups, and the answer is one page
            page = self.get(path, query | query_texts({"limit": limit, "format": "columns"}))
            return metric_frame(name, page["data"], page["meta"])
        return metric_frame(name, *all_rows(self.get, path, query, limit))

    def latest(self, name: str) -> pd.DataFrame:
        """Return the newest closed window, as `metric` does."""
        return self._view(name, "latest", {})

    def rolling(
        self, name: str, window: Duration, *, at: Time | None = None, where: Where | None = None
    ) -> pd.DataFrame:
        """Return the values over the trailing `window` (or the one that ends `at`), one row per group.

        It moves with the server's clock: when input stops it falls to empty.
        """
        asked = query_texts({"window": duration_text(window), "at": at})
        return self._view(name, "rolling", asked | where_texts(where))

    def _view(self, name: str, view: str, query: Query) -> pd.DataFrame:
        from api.frames import metric_frame

        page = self.get(f"{metric_path(name)}/{view}", query | {"format": "columns"})
        return metric_frame(name, page["data"], page["meta"])

    def explain(self, name: str, start: Time, *, end: Time | None = None, where: Where | None = None) -> dict[str, Any]:
        """Return the account of one window, or of some groups in it: its events, its values, what it waits for."""
        query = query_texts({"start": start, "end": end}) | where_texts(where)
        return self.get(f"{metric_path(name)}/explain", query)

    def live(
        self, names: Names, *, where: Where | None = None, duration: Duration | None = None
    ) -> Iterator[pd.DataFrame]:
        """Iterate over windows as they are published, for ever or for `duration`: one frame each time, as of `metric`.

        The first frame of each metric is its newest closed window. `frame.attrs` has `metric`; `event`: `snapshot` or
        `rows`; and `reset`: None, or why this snapshot stands where rows may have been missed. A revised window comes
        again with its next `revision`, a retracted one with the state `retracted`. A broken connection is opened again
        where it broke.

        Raises:
            NotFoundError: there is no such metric.
            UnavailableError: nothing was heard for `patience_s`.
        """
        from api.live_frames import live_frames

        several = [names] if isinstance(names, str) else list(names)
        described = self._described(several)
        query = where_texts(where) | ({} if isinstance(names, str) else {"metrics": ",".join(several)})
        path = f"{metric_path(names)}/live" if isinstance(names, str) else "/v1/live"
        return live_frames(self.live_events(path, query, duration), described, lambda: self._described(several))

    def live_events(self, path: str, query: Query, duration: Duration | None = None) -> Iterator[LiveEvent]:
        """Iterate over the events of a live stream as the API sends them, for ever or for `duration`."""
        length = duration_text(duration)
        reader = LiveReader(
            self.url,
            path,
            query,
            patience_s=self._patience_s,
            duration_s=None if length is None else parse_duration_ms(length) / 1000,
            sleep=self._sleep,
            clock=self._clock,
        )
        return reader.events()

    def metrics(self) -> list[dict[str, Any]]:
        """Return every metric with its window, group, values and watermark."""
        return list(self.get("/v1/metrics")["metrics"])

    def describe_metric(self, name: str) -> dict[str, Any]:
        """Return one metric's description."""
        return self._described([name])[name]

    def _described(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        known = {said["metric"]: said for said in self.metrics()}
        if missing := [name for name in names if name not in known]:
            raise unknown("metric", missing[0], known)
        return known

    # --- reading streams and stages

    def stages(self) -> list[dict[str, Any]]:
        """Return every stage with its lag and ledger."""
        return list(self.get("/v1/stages")["stages"])

    def events(self, stream: str, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest events of a stream: `{"id", "time", "event": {...}}` each."""
        return list(self.get(f"{stream_path(stream)}/events", {"limit": str(limit)})["events"])

    def raw(self, stream: str, start: Time | None = None, end: Time | None = None) -> pd.DataFrame:
        """Return the stored log of a stream, event by event, with what decided their lateness.

        Columns: `_partition`, `_position` (entry/row), `_arrival_ms`, `_kind` (row, chunk, tick, cut, control),
        `_tick_ms`, `_cut_ms`, `_events`, `_error`, `_backfill`, `_only`, `_table`, `_hash` and `_content` (the lookup
        table that a control entry names, and its content), and the stream's fields.
        `pipeline.batch(config, client.raw(name))` recomputes every metric of the stream from it. `start` and `end` are
        times of arrival; it begins at the last place before `start` where the watermark is known.
        """
        from api.frames import raw_frame

        view = self.stream(stream)
        rows = raw_rows(self.get, f"{stream_path(stream)}/raw", view.partitions, start, end)
        contents = {hash: b64encode(self.content(path)).decode() for hash, path in content_paths(rows).items()}
        return raw_frame(rows, view.fields, contents)
