"""The events of a live stream as DataFrames of the shape that `Client.metric` returns.

Invariant: windows that may have been missed are said: by `attrs["reset"]` of the snapshot that stands in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from api.frames import rows_frame
from api.live_reading import LiveEvent

REOPENED = "the connection broke before its first position was known"
Descriptions = Mapping[str, Mapping[str, Any]]


def live_frames(
    events: Iterator[LiveEvent], described: Descriptions, describe: Callable[[], Descriptions]
) -> Iterator[pd.DataFrame]:
    """Yield a frame for each `snapshot` and `rows` event; what `describe` says is asked again after a `reset`."""
    seen: set[str] = set()
    resets: dict[str, str] = {}
    for event in events:
        metric = str(event.data.get("metric"))
        if event.name == "reset":
            resets[metric] = str(event.data.get("detail") or event.data.get("reason"))
            described = describe()
        elif event.name in ("snapshot", "rows"):
            frame = rows_frame(event.data["data"], described[metric], event.data["meta"])
            reset = None
            if event.name == "snapshot":
                reset = resets.pop(metric, REOPENED if metric in seen else None)
                seen.add(metric)
            frame.attrs.update(event=event.name, reset=reset)
            yield frame
