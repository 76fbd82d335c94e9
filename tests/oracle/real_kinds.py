"""Every kind of window with every aggregate over the real files, as one config: what each stage is asked, and DuckDB.

file                  kinds                                 groups
web log               all, an hour to a day                 status; sessions by user
machine temperature   all, an hour to a month               none
traffic sensors       all, an hour to a week                none
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.core.definitions import (
    AGGREGATE_FUNCTIONS,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    SECOND_MS,
    Aggregate,
    AggregateSpec,
    Calendar,
    Config,
    Cumulating,
    Field,
    Hopping,
    Session,
    Stream,
    TimePolicy,
    Tumbling,
    Window,
)
from tests.oracle import duck
from tests.oracle.every_kind import Kind
from tests.oracle.real_files import ROOT, TEMPERATURE, WEB_LOG

SPEED = ROOT / "tests/data/speed_7578.csv"
TRAVEL_TIME = ROOT / "tests/data/traveltime_387.csv"
PARIS = "Europe/Paris"


SOME = ("count", "sum", "first", "var", "quantile", "distinct", "topk", "increase", "time_weighted_mean")


def _every(field: str, item: str, where: str) -> tuple[AggregateSpec, ...]:
    """Every function: numbers of `field`, items of `item`, and some of them where a condition holds."""
    arguments = {"quantile": 0.95, "topk": 5}
    of_items = ("distinct", "distinct_exact", "topk")
    return (
        AggregateSpec("n", "count"),
        *(
            AggregateSpec(f"x_{name}", name, item if name in of_items else field, arguments.get(name))
            for name in AGGREGATE_FUNCTIONS
        ),
        *(
            AggregateSpec(f"some_{name}", name, item if name in of_items else field, arguments.get(name), where)
            for name in (
                "count",
                "sum",
                "first",
                "var",
                "quantile",
                "distinct",
                "topk",
                "increase",
                "time_weighted_mean",
            )
        ),
    )


SELECT = {"x_mean_again": "x_sum / x_count", "some_share": "some_count / n"}


@dataclass(frozen=True, slots=True, eq=False)
class RealFile:
    """A file, the stream it goes to, and its stages."""

    path: Path
    stream: Stream
    windows: Mapping[Kind, Window]
    specs: tuple[AggregateSpec, ...]
    group_by: tuple[str, ...] = ()
    session_by: tuple[str, ...] = ()
    lateness_ms: int = 0

    def stage(self, kind: Kind) -> Aggregate:
        return Aggregate(
            f"{self.stream.name}_{kind}",
            self.stream.name,
            self.windows[kind],
            self.session_by if kind == "session" else self.group_by,
            self.specs,
            allowed_lateness_ms=self.lateness_ms,
            select=SELECT,
        )

    def config(self) -> Config:
        return Config({self.stream.name: self.stream}, {self.stage(k).name: self.stage(k) for k in self.windows})

    def events(self) -> duck.Events:
        return _events(self.path)


@cache
def _events(path: Path) -> duck.Events:
    return duck.web_log(path) if path == WEB_LOG else duck.sensor(path)


def _sensor(name: str, path: Path, windows: Mapping[Kind, Window]) -> RealFile:
    fields = (Field("timestamp", "timestamp", zone="UTC"), Field("value", "float"))
    stream = Stream(name, fields, TimePolicy("timestamp", disorder_ms=0), partitions=1)
    # topk and the distincts take no floats: the items are times
    return RealFile(path, stream, windows, _every("value", "timestamp", "value > 80"))


WEB = RealFile(
    WEB_LOG,
    Stream(
        "weblog",
        (
            Field("ts", "timestamp", unit="ms"),
            *(Field(name, "string") for name in ("user", "method", "page")),
            Field("status", "int"),
            Field("bytes", "int", nullable=True),
        ),
        TimePolicy("ts", disorder_ms=5 * SECOND_MS),
        partitions=1,
    ),
    {
        "tumbling": Tumbling(HOUR_MS, offset_ms=-10 * MINUTE_MS),
        "hopping": Hopping(3 * HOUR_MS, 2 * HOUR_MS),
        "cumulating": Cumulating(DAY_MS, 6 * HOUR_MS),
        "calendar": Calendar("day", PARIS),
        "session": Session(30 * MINUTE_MS, max_ms=12 * HOUR_MS),
    },
    _every("bytes", "page", "status = 200 AND method = 'GET'"),
    group_by=("status",),
    session_by=("user",),
    lateness_ms=20 * SECOND_MS,
)
MACHINE = _sensor(
    "machine",
    TEMPERATURE,
    {
        "tumbling": Tumbling(HOUR_MS),
        "hopping": Hopping(6 * HOUR_MS, 4 * HOUR_MS),
        "cumulating": Cumulating(DAY_MS, 6 * HOUR_MS),
        "calendar": Calendar("week", PARIS),
        "session": Session(5 * MINUTE_MS, max_ms=DAY_MS),
    },
)
TRAFFIC: Mapping[Kind, Window] = {
    "tumbling": Tumbling(HOUR_MS),
    "hopping": Hopping(2 * HOUR_MS, 45 * MINUTE_MS),
    "cumulating": Cumulating(DAY_MS, 4 * HOUR_MS),
    "calendar": Calendar("month", "America/Chicago"),
    "session": Session(30 * MINUTE_MS),
}
FILES = (WEB, MACHINE, _sensor("speed", SPEED, TRAFFIC), _sensor("travel_time", TRAVEL_TIME, TRAFFIC))
