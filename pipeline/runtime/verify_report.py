"""What `verify` found, in words and as JSON: what was compared, what could not be, and every difference.

Invariant: "all equal" is said only of what was compared, and what was not compared is said beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pipeline.core.ndjson import iso_time
from pipeline.core.windows import Span

Where = Literal["result", "tier", "pane", "session", "ledger", "time", "late", "dead"]
SHOWN = 20  # differences told in full; the others are counted
TOTALS = (
    "windows",
    "groups",
    "panes",
    "live_sessions",
    "events",
    "not_checkable",
    "pending",
    "expired",
    "moved",
    "old_data",
    "n_differences",
)
NOT_COMPARED = (
    ("not_checkable", "windows lost events to a trim of the log, or got old data while results expired"),
    ("pending", "final windows are still to be published"),
    ("expired", "results are gone, and old enough to have expired"),
    ("old_data", "ledgers with old data that was sent while results expired"),
    ("moved", "panes or live sessions were written to meanwhile"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is stored otherwise than the log says: of a result, of a partition's open state, or its books."""

    metric: str
    where: Where
    field: str
    stored: Any
    recomputed: Any
    partition: int | None = None
    window: Span | None = None  # of a pane: its start, and the end of the first window it is part of
    group: str | None = None


@dataclass(slots=True)
class MetricReport:
    """What was compared of one metric, and what differs. A session is a window of one group.

    `not_checkable`: kept windows that lost events to a trim. `pending`: final, and still to be published. `expired`:
    results that retention has removed. `moved`: panes and live sessions that were committed to meanwhile. `old_data`:
    partitions whose late rows and books cannot be judged again, because of a backfill while results expired.
    """

    metric: str
    version: str
    unchecked: str | None = None
    windows: int = 0
    groups: int = 0
    panes: int = 0
    live_sessions: int = 0
    events: int = 0
    not_checkable: int = 0
    pending: int = 0
    expired: int = 0
    moved: int = 0
    old_data: int = 0
    n_differences: int = 0
    differences: list[Difference] = field(default_factory=list)

    def differ(self, differences: Sequence[Difference]) -> None:
        self.n_differences += len(differences)
        self.differences += differences[: max(0, SHOWN - len(self.differences))]


def report_lines(reports: Sequence[MetricReport]) -> Iterator[str]:
    """The report for people."""
    total = _totals(reports)
    live = f", {total['live_sessions']} live sessions" if total["live_sessions"] else ""
    compared = (
        f"{total['windows']} windows, {total['groups']} groups, {total['panes']} panes{live}, {total['events']} events"
    )
    if total["n_differences"]:
        plural = "" if total["n_differences"] == 1 else "s"
        yield f"{total['n_differences']} difference{plural} in {compared}"
    elif any(report.unchecked is None for report in reports):
        yield f"all equal: {compared}"
    else:
        yield "nothing was compared"
    for report in reports:
        if report.unchecked is not None:
            yield f"  {report.metric}: not checked: {report.unchecked}"
    for report in reports:
        for difference in report.differences:
            yield f"  {_sentence(difference)}"
        if report.n_differences > len(report.differences):
            yield f"  {report.metric}: and {report.n_differences - len(report.differences)} more"
    for name, said in NOT_COMPARED:
        if total[name]:
            yield f"  not compared: {total[name]} {said}"


def _sentence(difference: Difference) -> str:
    """`by_page 2023-11-14T22:14:00Z to …, ["/0"], views: stored 7, recomputed 6`."""
    what = [difference.metric, difference.where]
    if difference.partition is not None:
        what.append(f"partition {difference.partition}")
    if difference.window is not None:
        start, end = map(iso_time, difference.window)
        what.append(f"{start} to {end}")
    what += [part for part in (difference.group, difference.field) if part is not None]
    return f"{', '.join(what)}: stored {difference.stored!r:.200}, recomputed {difference.recomputed!r:.200}"


def report_json(reports: Sequence[MetricReport]) -> dict[str, Any]:
    """The report for programs; times are epoch milliseconds."""
    return {
        "equal": not any(report.n_differences for report in reports),
        "total": _totals(reports),
        "metrics": [_metric(report) for report in reports],
    }


def _metric(report: MetricReport) -> dict[str, Any]:
    said = {each.name: getattr(report, each.name) for each in fields(report) if each.name != "differences"}
    return said | {"differences": [_plain(asdict(difference)) for difference in report.differences]}


def _plain(said: dict[str, Any]) -> dict[str, Any]:
    """Values that JSON cannot hold (bytes of a sketch's finished value, say) as text."""
    return said | {name: repr(said[name]) for name in ("stored", "recomputed") if isinstance(said[name], bytes)}


def _totals(reports: Sequence[MetricReport]) -> dict[str, int]:
    return {name: sum(getattr(report, name) for report in reports) for name in TOTALS}
