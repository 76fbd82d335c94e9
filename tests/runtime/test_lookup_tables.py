"""Lookup tables through the whole line: what was joined is joined again, whatever the file says by then."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.core.definitions import (
    HOUR_MS,
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Lookup,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
)
from pipeline.errors import ConfigError
from pipeline.rim import keys, store, tables
from pipeline.rim.replies import parse_entries
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import redis_time_ms
from pipeline.rim.tables import KEPT_UNNAMED_MS
from pipeline.runtime.runner import REST_S
from pipeline.runtime.scheduler import Housekeeping
from pipeline.runtime.setup import set_up
from tests.line import Line
from tests.servers import RunningServer

BASE_MS = 1_700_000_000_000
TABLE = "sites.csv"
STREAM = Stream(
    "s", (Field("ts", "timestamp"), Field("sensor", "string")), TimePolicy("ts", disorder_ms=0), partitions=2
)
COUNTS = Aggregate("m", "placed", Tumbling(10_000), ("site",), (AggregateSpec("n", "count"),))
SITES = Lookup(TABLE, "sensor", "sensor", "site", "string", "string")


def write(folder: Path, sites: Mapping[str, str]) -> None:
    """Put a table in place as one should: beside, then over the old one."""
    lines = ["sensor,site", *(f"{sensor},{site}" for sensor, site in sites.items())]
    fresh = folder / "fresh"
    fresh.write_text("\n".join(lines) + "\n")
    os.replace(fresh, folder / TABLE)


def config(folder: Path, *, partitions: int = 2, metric: Aggregate = COUNTS) -> Config:
    placed = Transform("placed", "s", lookup={"site": SITES}, publish=True)
    stream = replace(STREAM, partitions=partitions)
    return Config({"s": stream}, {"placed": placed, "m": metric}, folder=str(folder))


def send(line: Line, second: int, *sensors: str, partition: int = 0) -> None:
    times_ms = [BASE_MS + second * 1_000 + number for number in range(len(sensors))]
    line.chunk(
        "s",
        [{"ts": at_ms, "sensor": sensor} for at_ms, sensor in zip(times_ms, sensors, strict=True)],
        partition=partition,
        times_ms=times_ms,
    )


def counts(line: Line) -> dict[tuple[int, str | None], int]:
    return {((row["window_start"] - BASE_MS) // 1_000, row["site"]): row["n"] for row in line.rows("m")}


def reloads(line: Line, partition: int = 0) -> Iterator[str]:
    """The hashes that a log names, in order."""
    for entry in parse_entries(line.client.execute_command("XRANGE", keys.raw("s", partition), "-", "+")):
        if (entry.fields or {}).get(b"_k") == b"control":
            yield (entry.fields or {})[b"hash"].decode()


def test_rows_join_with_what_the_table_said_when_they_came_also_in_a_rebuild(
    server: RunningServer, tmp_path: Path
) -> None:
    # Given rows, then another content of the table, then more rows, and then yet another content and no more rows
    write(tmp_path, {"a": "attic", "b": "barn"})
    line = Line(config(tmp_path), server)
    house = Housekeeping(line.config, server.client)
    send(line, 0, "a", "b", "c")
    write(tmp_path, {"a": "annex", "c": "cellar"})
    assert house.reload_tables_once() == 2
    send(line, 1, "a", "b", "c")
    send(line, 1, "a", partition=1)
    line.settle()
    expected = {(0, "attic"): 1, (0, "barn"): 1, (0, None): 2, (0, "annex"): 2, (0, "cellar"): 1}
    assert counts(line) == expected
    published = line.stream(keys.published_transform("s", 0, "placed"))
    assert [row.get("site") for row in published] == ["attic", "barn", None, "annex", None, "cellar"]
    write(tmp_path, {"a": "elsewhere"})
    assert house.reload_tables_once() == 2

    # When a partition is torn, and rebuilt by a worker that never saw the old content
    group = line.programs["m"].group
    server.client.hset(keys.checkpoint("s", 0, group), "torn", "1")
    line.settle(line.worker("another"))

    # Then it gives the same numbers
    assert counts(line) == expected
    assert store.load_checkpoint(server.client, "s", 0, group).tables == {TABLE: list(reloads(line))[-1]}


def test_one_batch_may_hold_several_reloads_and_gives_what_many_batches_give(
    server: RunningServer, tmp_path: Path
) -> None:
    write(tmp_path, {"a": "one"})
    line = Line(config(tmp_path, partitions=1), server)
    house = Housekeeping(line.config, server.client)
    worker = line.worker()
    for number, name in enumerate(["one", "two", "three", "two"]):
        write(tmp_path, {"a": name})
        house.reload_tables_once()
        send(line, number, "a")
    line.settle(worker)
    expected = {(0, "one"): 1, (0, "two"): 2, (0, "three"): 1}
    assert counts(line) == expected

    group = line.programs["m"].group
    ids = line.entry_ids("m")
    server.client.hset(keys.checkpoint("s", 0, group), "torn", "1")
    again = line.worker("again")
    again.poll_once()
    again.poll_once()
    assert store.load_checkpoint(server.client, "s", 0, group).cursor.decode() == ids[-1]
    assert counts(line) == expected


def test_set_up_names_the_tables_once_before_there_is_a_group(server: RunningServer, tmp_path: Path) -> None:
    write(tmp_path, {"a": "attic"})

    line = Line(config(tmp_path), server)
    set_up(server.client, line.config)

    [first] = reloads(line)
    assert list(reloads(line, 1)) == [first]
    for name in ("placed", "m"):
        group = next(g for g in _groups(server) if g.startswith(f"{name}@"))
        assert store.load_checkpoint(server.client, "s", 0, group).tables == {TABLE: first}


def _groups(server: RunningServer) -> list[str]:
    return [group["name"].decode() for group in server.client.xinfo_groups(keys.raw("s", 0))]


def test_rows_that_came_before_a_stage_had_its_table_join_with_the_first_content(
    server: RunningServer, tmp_path: Path
) -> None:
    plain = Line(Config({"s": STREAM}, {"m": replace(COUNTS, source="s", group_by=())}), server)
    send(plain, 0, "a")
    plain.settle()

    write(tmp_path, {"a": "attic"})
    line = Line(config(tmp_path), server)
    write(tmp_path, {"a": "annex"})
    Housekeeping(line.config, server.client).reload_tables_once()
    send(line, 1, "a")
    line.settle()

    rows = line.stream(keys.published_transform("s", 0, "placed"))
    assert [row["site"] for row in rows] == ["attic", "annex"]


def test_a_trim_keeps_what_the_tables_were_at_its_cut(server: RunningServer, tmp_path: Path) -> None:
    # Given a log with two contents, trimmed behind both
    write(tmp_path, {"a": "attic"})
    short = replace(STREAM, retention_ms=1_000, partitions=1)
    whole = config(tmp_path, partitions=1)
    line = Line(replace(whole, streams={"s": short}), server)
    house = Housekeeping(line.config, server.client)
    send(line, 0, "a")
    write(tmp_path, {"a": "annex"})
    house.reload_tables_once()
    send(line, 0, "a")
    line.settle()
    _, second = reloads(line)
    house.trim_once()
    house.trim_once(redis_time_ms(server.client) + HOUR_MS)
    assert list(reloads(line)) == []
    assert server.client.lrange(keys.tables("s", 0), 0, -1) == []
    assert server.client.hget(keys.cut("s", 0), f"table:{TABLE}") == second.encode()

    # When a new version begins at the cut, and a row comes in a window that begins behind it
    changed = replace(COUNTS, aggregates=(*COUNTS.aggregates, AggregateSpec("again", "count")))
    new = Line(replace(config(tmp_path, partitions=1, metric=changed), streams={"s": short}), server)
    send(new, 20, "a")
    new.settle()

    # Then it joins with the content of the cut, without an entry that names it, and so does a rebuild
    assert list(reloads(new)) == []
    group = new.programs["m"].group
    for torn in (False, True):
        if torn:
            server.client.hset(keys.checkpoint("s", 0, group), "torn", "1")
            new.settle()
        metric = [row for row in new.rows("m") if row["window_start"] == BASE_MS + 20_000]
        assert [(row["site"], row["n"]) for row in metric] == [("annex", 1)]


def test_a_changed_file_that_cannot_be_used_is_refused_once_and_the_content_before_stays(
    server: RunningServer, tmp_path: Path
) -> None:
    write(tmp_path, {"a": "attic"})
    line = Line(config(tmp_path), server)
    house = Housekeeping(line.config, server.client)
    assert house.reload_tables_once() == 0
    (tmp_path / TABLE).write_text("sensor,site\na,attic\na,annex\n")

    with capture_logs() as logged:
        assert house.reload_tables_once() == 0
        assert house.reload_tables_once() == 0
    [said] = [entry for entry in logged if entry["log_level"] == "error"]
    assert "sites.csv has more than one row for 'a' in 'sensor', its key." in said["why"]

    (tmp_path / TABLE).unlink()
    with capture_logs() as logged:
        assert house.reload_tables_once() == 0
    assert "cannot be read" in logged[0]["why"]
    send(line, 0, "a")
    line.settle()
    assert counts(line) == {(0, "attic"): 1}
    with pytest.raises(ConfigError, match=r"sites\.csv cannot be read"):
        set_up(server.client, line.config)


def test_the_scheduler_waits_for_set_up(server: RunningServer, tmp_path: Path) -> None:
    write(tmp_path, {"a": "attic"})
    house = Housekeeping(config(tmp_path), server.client)

    assert house.reload_tables_once() == 0
    assert not server.client.exists(keys.raw("s", 0))


def test_a_content_goes_when_no_log_names_it_any_more(server: RunningServer, tmp_path: Path) -> None:
    write(tmp_path, {"a": "attic"})
    line = Line(config(tmp_path, partitions=1), server)
    house = Housekeeping(line.config, server.client)
    write(tmp_path, {"a": "annex"})
    house.reload_tables_once()
    old, new = reloads(line)
    now_ms = redis_time_ms(server.client)
    scripts = Scripts(server.client)

    assert tables.drop_unused(server.client, scripts, now_ms + 2 * KEPT_UNNAMED_MS) == 0
    # the reload to the old content goes with a trim; what it named is still younger than an hour
    server.client.lpop(keys.tables("s", 0))
    assert tables.drop_unused(server.client, scripts, now_ms) == 0
    assert tables.drop_unused(server.client, scripts, now_ms + 2 * KEPT_UNNAMED_MS) == 1
    assert not server.client.exists(keys.table_content(old))
    assert server.client.exists(keys.table_content(new))
    assert server.client.hkeys(keys.table_contents()) == [f"{new} s 0".encode()]


def test_a_content_that_was_stored_again_meanwhile_is_not_dropped(server: RunningServer) -> None:
    client, scripts = server.client, Scripts(server.client)
    client.set(keys.table_content("ab"), b"x")
    client.hset(keys.table_contents(), mapping={"ab s 0": 5, "abc s 0": 5})
    operands = [keys.table_content("ab"), keys.table_contents()]

    assert scripts.run("drop_table", keys=operands, args=["ab", "ab s 0", 4]) == 0
    assert scripts.run("drop_table", keys=operands, args=["ab"]) == 0
    assert client.exists(keys.table_content("ab"))
    assert scripts.run("drop_table", keys=operands, args=["ab", "ab s 0", 5]) == 1
    assert client.hkeys(keys.table_contents()) == [b"abc s 0"]


def test_a_log_that_names_a_content_already_gets_no_second_entry_whoever_asks(server: RunningServer) -> None:
    scripts = Scripts(server.client)
    operands = [keys.raw("s", 0), keys.door("s", 0), keys.tables("s", 0), keys.cut("s", 0)]

    def reload(content: str) -> bool:
        return bool(scripts.run("reload", keys=operands, args=["a table.csv", content]))

    assert [reload(content) for content in ("aa", "aa", "bb", "bb", "aa")] == [True, False, True, False, True]
    server.client.delete(keys.tables("s", 0))
    server.client.hset(keys.cut("s", 0), "table:a table.csv", "aa")
    assert not reload("aa")
    assert tables.known(server.client, ("s", 0)) == {"a table.csv": "aa"}


def test_a_partition_whose_content_is_gone_rests_and_goes_on_when_it_is_back(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"a": "attic"})
    line = Line(config(tmp_path, partitions=1), server)
    [content] = reloads(line)
    server.client.delete(keys.table_content(content))
    send(line, 0, "a")
    worker = line.worker()

    with capture_logs() as logged:
        worker.poll_once()
    said = [entry for entry in logged if entry["event"] == "stage rests"]
    assert {entry["stage"] for entry in said} == {"m", "placed"}
    assert {entry["seconds"] for entry in said} == {REST_S}
    assert all(keys.table_content(content) in entry["why"] for entry in said)
    assert not any(line.committed())

    set_up(server.client, line.config)
    monkeypatch.setattr("pipeline.runtime.runner.REST_S", 0.0)
    line.settle(line.worker("next"))
    assert counts(line) == {(0, "attic"): 1}


def test_a_reload_does_not_move_time_nor_hide_the_end_of_the_log_from_the_ticks(
    server: RunningServer, tmp_path: Path
) -> None:
    write(tmp_path, {"a": "attic"})
    line = Line(config(tmp_path, partitions=1), server)
    now_ms = redis_time_ms(server.client)
    line.post("s", [{"ts": now_ms, "sensor": "a"}])
    write(tmp_path, {"a": "annex"})
    house = Housekeeping(line.config, server.client)
    assert house.reload_tables_once() == 1

    assert server.client.hget(keys.door("s", 0), "last_id") == line.entry_ids("m")[-1].encode()
    assert house.tick_once() == []
    assert len(house.tick_once(now_ms + 30_000)) == 1
    line.settle()
    assert counts(line) == {((now_ms - BASE_MS) // 10_000 * 10, "attic"): 1}
    checkpoint = store.load_checkpoint(server.client, "s", 0, line.programs["m"].group)
    assert (checkpoint.entries, checkpoint.ticks, checkpoint.read) == (4, 1, 1)
