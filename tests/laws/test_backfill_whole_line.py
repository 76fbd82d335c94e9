"""Old data among live events, through the whole line: whoever works and dies, windows, late rows and ledger are equal.

How often a closed window was published before it had everything depends on the schedule; what it holds at the end does
not.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.laws.logs import METRIC, TOTAL, Logged, as_bytes, chunk, end_tick
from tests.laws.outcomes import Outcome, outcome
from tests.laws.test_backfill import backfill, mixed_logs
from tests.laws.test_whole_line import actions, crew_on, whole_line_law
from tests.servers import RunningServer


@whole_line_law
@given(
    log=st.lists(mixed_logs(), min_size=1, max_size=2),
    wild=st.lists(actions, min_size=30, max_size=60),
)
def test_any_interleaving_and_any_crash_gives_the_same_windows(
    any_server_in_time: RunningServer, log: list[list[Logged]], wild: list[tuple[Any, ...]]
) -> None:
    logs_to_the_end = [[*entries, end_tick(entries)] for entries in log]

    calm_crew = crew_on(any_server_in_time, logs_to_the_end)
    calm_crew.finish()
    calm = outcome(calm_crew.line)

    wild_crew = crew_on(any_server_in_time, logs_to_the_end)
    for action in wild:
        wild_crew.act(action)
    wild_crew.finish()

    assert without_revisions(outcome(wild_crew.line)) == without_revisions(calm)


def without_revisions(done: Outcome) -> tuple[Any, ...]:
    contents = {window: (groups, cells) for window, (_, _, groups, cells) in done.results.items()}
    return contents, done.late, done.dead, done.published, done.ledger


def test_old_data_behind_a_published_window_revises_it_wherever_the_log_is_cut(server: RunningServer) -> None:
    """The law above seldom publishes before the old data comes: here it always does."""
    found = []
    for sizes in ([1] * 20, [3] * 20, [20]):
        log = [live(0, 1), live(60_000, 2), old(1, 4), old(2, 8), live(70_000, 16), old(11_000, 32)]
        numbered = [Logged(f"{100_000 + n}-0", fields) for n, fields in enumerate(log)]
        crew = crew_on(server, [[*numbered, Logged("200000-0", end_tick([]).fields)]])
        for size in sizes:
            crew.append(0, size)
            crew.die(0)  # with its lease: whoever comes next need not wait until that runs out
            crew.line.settle(crew.workers[0])
        rows = {(row["window_start"], row["key"]): row["sum_k"] for row in crew.line.closed(METRIC)}
        found.append((rows, crew.line.late(METRIC), {row["window_start"]: row["n"] for row in crew.line.closed(TOTAL)}))
        revisions = {row["window_start"]: row["revision"] for row in crew.line.closed(METRIC)}
        assert (revisions[-7_000] > 0) == (sizes[0] < 20)

    assert found[0] == found[1] == found[2]
    assert found[0][0][-7_000, "1"] == 1 + 4 + 8


def live(ts: int, k: int) -> dict[bytes, bytes]:
    return {b"ts": b"%d" % ts, b"key": b"1", b"k": b"%d" % k}


def old(ts: int, k: int) -> dict[bytes, bytes]:
    entry = Logged("0-0", as_bytes(chunk([{"ts": ts, "key": "1", "k": k}], 0, 100_000)))
    return dict(backfill(entry).fields)
