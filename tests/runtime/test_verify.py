"""`verify`: it says all equal when all is, and finds what somebody changed by hand, wherever it is kept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.main import app
from pipeline.core.blocks import decode_block, encode_block
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Lookup, Rollup, Transform, Tumbling
from pipeline.errors import BadRequestError
from pipeline.rim import keys, store
from pipeline.rim.expiry import Kept, expire_results
from pipeline.rim.scripts import Scripts
from pipeline.rim.trim import trim_stream
from pipeline.runtime import cli
from pipeline.runtime.log_batches import Killed, killed_rows
from pipeline.runtime.stage_groups import groups_of
from pipeline.runtime.table_announcing import announce_tables
from pipeline.runtime.tiers import TierCloser
from pipeline.runtime.verify import verify
from pipeline.runtime.verify_report import Difference, MetricReport, report_json, report_lines
from tests.line import Line, chunk_fields
from tests.servers import RunningServer, debian_binary
from tests.visits import BASE_MS, CONFIG, METRICS, STREAM, filled, visits

FIRST = (BASE_MS, BASE_MS + 10_000)  # a final window of by_page
PANE = (BASE_MS + 30_000, BASE_MS + 40_000)  # one that partition 1 has events of


def reports(line: Line, *names: str, config: Config = CONFIG) -> dict[str, MetricReport]:
    return {report.metric: report for report in verify(line.client, config, names)}


def differences(line: Line, metric: str) -> list[Difference]:
    [report] = reports(line, metric).values()
    assert report.n_differences == len(report.differences)
    return report.differences


def set_cell(line: Line, key: str, name: bytes, change: Callable[[bytes], bytes]) -> None:
    """What `redis-cli HSET` does."""
    stored = line.client.execute_command("HGET", key, name)
    assert stored is not None
    line.client.execute_command("HSET", key, name, change(stored))


def count_up(cell: bytes) -> bytes:
    """The first 8 bytes behind the format byte are the count."""
    return cell[:1] + (int.from_bytes(cell[1:9], "little") + 1).to_bytes(8, "little") + cell[9:]


def first_entry(line: Line, key: str) -> Any:
    return line.client.xrange(key, count=1)


def result_key(line: Line, metric: str, start: int, end: int) -> str:
    return keys.result(metric, line.programs[metric].version, start, end)


def test_everything_a_line_has_kept_is_equal(server: RunningServer) -> None:
    line = filled(server)

    found = reports(line)

    assert list(found) == list(METRICS)
    for report in found.values():
        assert report.differences == []
        assert (report.unchecked, report.pending, report.expired, report.moved, report.not_checkable) == (None,) + (
            0,
        ) * 4
        assert report.events == 605
        assert report.windows > 3
        assert report.groups >= report.windows
        assert report.panes > 3
    assert next(report_lines(list(found.values()))).startswith("all equal: ")


def test_what_comes_in_meanwhile_is_left_out_and_the_rest_is_equal(server: RunningServer) -> None:
    line = filled(server)
    later = [row | {"ts": row["ts"] + 300_000} for row in visits(100, seed=3)]
    line.chunk("visits", later, times_ms=[row["ts"] for row in later])  # in the log, and not committed

    assert [report.n_differences for report in reports(line).values()] == [0] * 4

    line.settle()
    assert [report.n_differences for report in reports(line).values()] == [0] * 4


def test_one_cell_of_a_result_changed_by_hand_is_found_and_named(server: RunningServer) -> None:
    line = filled(server)
    set_cell(line, result_key(line, "dated", BASE_MS, BASE_MS + 60_000), b"b0", lambda block: _bump(block))

    [found] = differences(line, "dated")

    assert (found.metric, found.where, found.window, found.group, found.field) == (
        "dated",
        "result",
        (BASE_MS, BASE_MS + 60_000),
        "[]",
        "n",
    )
    assert found.stored == found.recomputed + 1


def _bump(block: bytes) -> bytes:
    """The one cell of a block with its count, the first 8 bytes of its fixed columns, one higher."""
    packed = decode_block(block)
    count = int.from_bytes(packed.records[:8], "little") + 1
    return encode_block(replace(packed, records=count.to_bytes(8, "little") + packed.records[8:]))


def test_one_cell_of_a_pane_changed_by_hand_is_found_and_named(server: RunningServer) -> None:
    line = filled(server)
    group = line.programs["by_page"].group
    key = keys.pane("visits", 1, group, PANE[0])
    set_cell(line, key, b'- ["/1"]', count_up)

    [found] = differences(line, "by_page")

    assert (found.where, found.partition, found.window) == ("pane", 1, PANE)
    assert (found.group, found.field) == ('- ["/1"]', "views")
    assert found.stored == found.recomputed + 1


def test_one_cell_changed_with_redis_cli_is_found(server: RunningServer) -> None:
    """As a person would, from outside: the value comes from standard input, since a cell is no text."""
    redis_cli = debian_binary().removesuffix("server") + "cli"
    line = filled(server)
    key = keys.pane("visits", 1, line.programs["by_page"].group, PANE[0])
    cell = line.client.execute_command("HGET", key, b'- ["/1"]')
    assert [report.n_differences for report in reports(line).values()] == [0] * 4

    socket = server.url.removeprefix("unix://")
    command = [redis_cli, "-s", socket, "-x", "HSET", key, '- ["/1"]']
    subprocess.run(command, input=count_up(cell), check=True, capture_output=True, timeout=20)

    [found] = differences(line, "by_page")
    assert (found.where, found.group, found.field) == ("pane", '- ["/1"]', "views")
    assert found.stored == found.recomputed + 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda line, key: line.client.execute_command("DEL", key), "window"),
        (lambda line, key: line.client.execute_command("HSET", key, "b0", "nonsense"), "block"),
        (lambda line, key: line.client.execute_command("HDEL", key, "b0"), "group"),
    ],
)
def test_a_result_that_is_gone_or_damaged_is_found(
    server: RunningServer, change: Callable[[Line, str], object], field: str
) -> None:
    line = filled(server)
    change(line, result_key(line, "by_page", *FIRST))

    found = differences(line, "by_page")

    assert {(each.where, each.field, each.window) for each in found} == {("result", field, FIRST)}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda line, panes, key: line.client.execute_command("DEL", key), "group"),
        (lambda line, panes, key: line.client.execute_command("HDEL", panes, PANE[0]), "pane"),
        (lambda line, panes, key: line.client.execute_command("HSET", key, '- ["/9"]', "nonsense"), "cell"),
        (lambda line, panes, key: line.client.execute_command("HDEL", key, '- ["/1"]'), "group"),
    ],
)
def test_a_pane_that_is_gone_or_damaged_is_found(
    server: RunningServer, change: Callable[[Line, str, str], object], field: str
) -> None:
    line = filled(server)
    group = line.programs["by_page"].group
    change(line, keys.panes("visits", 1, group), keys.pane("visits", 1, group, PANE[0]))

    found = differences(line, "by_page")

    assert {(each.where, each.field, each.partition, each.window) for each in found} == {("pane", field, 1, PANE)}


def test_a_window_that_the_log_does_not_have_is_found(server: RunningServer) -> None:
    line = filled(server)
    span = (BASE_MS - 10_000_000, BASE_MS - 9_990_000)
    line.client.execute_command(
        "ZADD", keys.windows("by_page", line.programs["by_page"].version), span[1], f"{span[0]}:{span[1]}"
    )

    [found] = differences(line, "by_page")

    assert (found.where, found.window, found.stored, found.recomputed) == ("result", span, "published", None)


@pytest.mark.parametrize("name", ["read", "accepted", "late", "partial", "max_seen_ms"])
def test_books_and_time_changed_by_hand_are_found(server: RunningServer, name: str) -> None:
    line = filled(server)
    key = keys.checkpoint("visits", 0, line.programs["hops"].group)
    stored = int(line.client.execute_command("HGET", key, name))
    line.client.execute_command("HSET", key, name, stored + 1)

    found = [each for each in differences(line, "hops") if each.where in ("ledger", "time")]

    assert [(each.field, each.stored, each.recomputed, each.partition) for each in found] == [
        (name, stored + 1, stored, 0)
    ]


def test_a_late_row_and_a_dead_letter_that_are_gone_or_too_many_are_found(server: RunningServer) -> None:
    line = filled(server)
    group = line.programs["by_page"].group
    late, dead = keys.late("visits", 0, group), keys.dead("visits", 0, group)
    [(late_id, row)] = first_entry(line, late)
    line.client.execute_command("XDEL", late, late_id)
    [(_, letter)] = first_entry(line, dead)
    line.client.xadd(dead, letter)

    found = differences(line, "by_page")

    place = f"{row[b'entry'].decode()}/{int(row[b'row'])}"
    assert [(each.where, each.field, each.stored, each.recomputed) for each in found] == [
        ("late", place, "nothing", "late"),
        ("dead", f"{letter[b'entry'].decode()}/0", "twice", "once"),
    ]


def test_after_a_trim_the_windows_behind_it_are_checked_and_those_before_are_counted(server: RunningServer) -> None:
    line = filled(server)
    trim_stream(
        server.client, Scripts(server.client), replace(STREAM, retention_ms=1), groups_of(CONFIG, "visits"), 2**61
    )
    more = [row | {"ts": row["ts"] + 400_000} for row in visits(200, seed=2)]
    for partition in (0, 1):
        line.chunk("visits", more, partition=partition, times_ms=[row["ts"] for row in more])
        line.tick("visits", BASE_MS + 600_000, partition=partition)
    line.settle()

    for report in reports(line).values():
        assert (report.n_differences, report.events) == (0, 400)
        assert report.not_checkable > 2
        assert report.windows > 0

    [newest] = store.published_windows(line.client, "by_page", line.programs["by_page"].version, limit=1)
    line.client.execute_command("DEL", result_key(line, "by_page", *newest))
    assert [each.window for each in differences(line, "by_page")] == [newest]
    said = list(report_lines(list(reports(line).values())))
    assert any("lost events to a trim of the log" in line for line in said)


def test_expired_results_are_counted_and_are_no_difference(server: RunningServer) -> None:
    line = filled(server)
    stage = CONFIG.stages["by_page"]
    assert isinstance(stage, Aggregate)
    kept = Kept(STREAM, stage, line.programs["by_page"].version)
    now_ms = store.redis_time_ms(line.client)
    assert expire_results(line.client, Scripts(line.client), kept, 0, now_ms + 1).results > 3
    short = Config(streams=CONFIG.streams, stages={**CONFIG.stages, "by_page": replace(stage, retention_ms=0)})

    [gone] = reports(line, "by_page", config=short).values()
    [early] = reports(line, "by_page").values()

    assert (gone.n_differences, gone.windows) == (0, 0)
    assert gone.expired > 3
    assert early.n_differences > 3, "with a day of retention nothing can have expired"


def test_windows_still_to_be_published_are_counted_and_are_no_difference(server: RunningServer) -> None:
    line = Line(CONFIG, server)
    rows = visits(100)
    line.chunk("visits", rows, times_ms=[row["ts"] for row in rows])
    for partition in (0, 1):
        line.tick("visits", BASE_MS + 300_000, partition=partition)
    line.settle()
    program = line.programs["by_page"]
    line.client.execute_command("DEL", result_key(line, "by_page", *FIRST))
    mark = line.client.execute_command("HGET", keys.panes("visits", 0, program.group), FIRST[0]).decode()
    line.client.execute_command("HSET", keys.due("visits", 0, program.group), FIRST[0], f"{mark} -")

    [report] = reports(line, "by_page").values()

    assert (report.n_differences, report.pending) == (0, 1)


def test_a_row_that_killed_its_worker_is_set_aside_here_too(server: RunningServer) -> None:
    line = filled(server)
    program = line.programs["by_page"]
    dead = keys.dead("visits", 0, program.group)
    [entry, *_] = line.entry_ids("by_page")
    letter = {
        "entry": entry,
        "row": 3,
        "n": 1,
        "code": "killed_worker",
        "error": "computing this row alone",
        "body": "{}",
    }
    line.client.xadd(dead, letter)  # type: ignore[arg-type]
    line.client.xadd(dead, letter | {"entry": "1-1", "row": 0, "error": "decoding this entry"})  # type: ignore[arg-type]
    killed: Killed = killed_rows(line.client, program, 0)
    assert killed == {entry.encode(): frozenset({3}), b"1-1": None}

    [report] = reports(line, "by_page").values()

    said = {(each.field, each.stored - each.recomputed) for each in report.differences if each.where == "ledger"}
    assert ("dead", -1) in said
    assert ("read", 0) not in said
    assert {each.field for each in report.differences if each.where == "time"} == set()


def test_windows_of_a_tier_are_compared_too(server: RunningServer) -> None:
    stage = CONFIG.stages["by_page"]
    assert isinstance(stage, Aggregate)
    tiered = replace(stage, rollups=(Rollup(60_000, 10**12),))
    config = Config(CONFIG.streams, {**CONFIG.stages, "by_page": tiered})
    line = filled(server, config)
    program = line.programs["by_page"]
    own = reports(line, "by_page")["by_page"].windows
    while TierCloser(program, line.client, Scripts(line.client)).close_once():
        pass

    [report] = reports(line, "by_page", config=config).values()
    assert (report.differences, report.pending) == ([], 0)
    assert report.windows > own

    [first, *_] = store.published_windows(line.client, "by_page", program.version, tier_ms=60_000)
    line.client.execute_command("DEL", result_key(line, "by_page", *first))
    [found] = reports(line, "by_page", config=config)["by_page"].differences
    assert (found.where, found.window, found.stored, found.recomputed) == ("tier", first, None, "published")


def test_lookups_with_reloads_in_the_log_and_exploded_lists_are_equal(server: RunningServer, tmp_path: Path) -> None:
    def write(owner: str) -> None:
        (tmp_path / "pages.csv").write_text("page,owner\n" + "".join(f"/{n},{owner}{n}\n" for n in range(4)))

    joined = Transform(
        "joined",
        "visits",
        lookup={"owner": Lookup("pages.csv", "page", "page", "owner", "string", "string")},
        explode="tags",
    )
    by_owner = Aggregate("by_owner", "joined", Tumbling(10_000), ("owner", "tags"), (AggregateSpec("n", "count"),))
    config = Config(CONFIG.streams, {"joined": joined, "by_owner": by_owner}, folder=str(tmp_path))
    write("ann")
    line, events = Line(config, server), visits(300)
    line.chunk("visits", events[:150], times_ms=[row["ts"] for row in events[:150]])
    line.settle()
    write("bob")
    announce_tables(line.client, Scripts(line.client), config)
    line.chunk("visits", events[150:], times_ms=[row["ts"] for row in events[150:]])
    for partition in (0, 1):
        line.tick("visits", BASE_MS + 300_000, partition=partition)
    line.settle()
    owners = {row["owner"] for row in line.rows("by_owner")}
    assert {"ann1", "bob1", None} <= owners

    [report] = reports(line, config=config).values()

    assert (report.differences, report.pending, report.events) == ([], 0, 300)
    assert report.windows > 5


def test_old_data_in_a_live_stream_is_counted_as_it_was(server: RunningServer) -> None:
    line = filled(server)
    backfill(line, visits(80, seed=5))
    for report in reports(line).values():
        assert (report.differences, report.pending, report.old_data) == ([], 0, 0)
        assert report.events == 605 + 80
    late = len(line.late("by_page"))

    stage = CONFIG.stages["by_page"]
    assert isinstance(stage, Aggregate)
    kept = Kept(STREAM, stage, line.programs["by_page"].version)
    expire_results(line.client, Scripts(line.client), kept, 0, store.redis_time_ms(line.client) + 1)
    backfill(line, visits(80, seed=6))
    assert len(line.late("by_page")) > late, "what has expired takes no old data"
    short = Config(CONFIG.streams, {**CONFIG.stages, "by_page": replace(stage, retention_ms=0)})
    [report] = reports(line, "by_page", config=short).values()
    assert (report.differences, report.old_data) == ([], 1)


def backfill(line: Line, rows: list[dict[str, Any]]) -> None:
    at_ms = store.redis_time_ms(line.client)
    fields = chunk_fields(rows, [row["ts"] for row in rows], position=1_000, at_ms=at_ms)
    line.entry("visits", fields | {"mode": "backfill"})
    line.settle()


def test_a_torn_partition_is_said_not_to_be_checked(server: RunningServer) -> None:
    line = filled(server)
    line.client.execute_command("HSET", keys.checkpoint("visits", 1, line.programs["by_page"].group), "torn", "1")

    [report] = reports(line, "by_page").values()

    assert report.unchecked is not None
    assert "partition 1 waits to be rebuilt" in report.unchecked


def test_only_the_first_differences_are_told_and_all_are_counted(server: RunningServer) -> None:
    line = filled(server)
    for key in line.client.scan_iter("{by_page}:result:*"):
        line.client.execute_command("HDEL", key, "b0")

    found = reports(line)

    report = found["by_page"]
    assert len(report.differences) == 20
    assert report.n_differences > 50
    assert f"  by_page: and {report.n_differences - 20} more" in list(report_lines(list(found.values())))
    assert json.loads(json.dumps(report_json(list(found.values()))))["equal"] is False


def test_an_unknown_metric_is_refused(server: RunningServer) -> None:
    with pytest.raises(BadRequestError, match="Did you mean 'by_page'"):
        reports(filled(server), "by_pag")


SHIPPED = """\
streams:
  visits:
    time: {field: ts, disorder: 2s}
    schema: {ts: timestamp, page: string}
    partitions: 1
stages:
  by_page: {from: visits, window: {tumbling: 10s}, group_by: [page], aggregates: {views: count}}
"""


def test_the_command_ends_with_0_when_all_is_equal_and_with_1_when_not(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.runtime.config import load_config

    path = tmp_path / "config.yaml"
    path.write_text(SHIPPED)
    line = Line(load_config(path, {}), server)
    line.post("visits", [{"ts": BASE_MS, "page": "/a"}, {"ts": BASE_MS + 30_000, "page": "/b"}])
    line.settle()
    arguments = ["verify", "--config", str(path), "--redis-url", server.url]

    assert cli.run(app, arguments) == 0
    assert capsys.readouterr().out == "all equal: 1 windows, 1 groups, 2 panes, 2 events\n"

    line.client.execute_command("DEL", result_key(line, "by_page", *FIRST))
    assert cli.run(app, [*arguments, "by_page"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "1 difference in 1 windows, 1 groups, 2 panes, 2 events",
        "  by_page, result, 2023-11-14T22:14:00.000+00:00 to 2023-11-14T22:14:10.000+00:00, window: "
        "stored None, recomputed 'published'",
    ]

    assert cli.run(app, [*arguments, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["total"]["n_differences"] == 1
    assert told["metrics"][0]["differences"][0]["window"] == list(FIRST)
    assert cli.run(app, [*arguments, "nothing"]) == 1
