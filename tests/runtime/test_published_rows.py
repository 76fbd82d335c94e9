"""What a transform with `publish: true` writes for outside readers: each row once, with its version and its place."""

from __future__ import annotations

from pipeline.core.definitions import Config, Field, Stream, TimePolicy, Transform
from pipeline.rim import keys, replies
from pipeline.runtime.stage_groups import stage_groups
from tests.line import Line
from tests.servers import RunningServer

FIELDS = (Field("ts", "timestamp", unit="ms"), Field("v", "int"), Field("version", "string", nullable=True))


def config(over: int, *fields: Field) -> Config:
    stream = Stream("s", (*FIELDS[:2], *fields), TimePolicy("ts"), partitions=1)
    return Config({"s": stream}, {"large": Transform("large", "s", filter=f"v > {over}", publish=True)})


def published(line: Line) -> list[dict[str, str]]:
    return line.stream(keys.published_transform("s", 0, "large"))


def version_of(line: Line) -> str:
    return stage_groups(line.config)["large"].partition("@")[2]


def test_a_changed_transform_publishes_the_log_again_under_its_own_version(server: RunningServer) -> None:
    # Given rows of a definition
    old = Line(config(10), server)
    old.chunk("s", [{"ts": 1_000 + v, "v": v} for v in (5, 15, 25)])
    old.settle()
    [stored] = replies.parse_entries(server.client.execute_command("XRANGE", keys.raw("s", 0), "-", "+"))
    entry = stored.id.decode()
    before = published(old)
    assert [(row["version"], row["entry"], row["row"], row["v"]) for row in before] == [
        (version_of(old), entry, "1", "15"),
        (version_of(old), entry, "2", "25"),
    ]

    # When it is changed, and more comes
    new = Line(config(20), server)
    new.chunk("s", [{"ts": 2_000, "v": 30}])
    new.settle()

    # Then the old rows stay as they were, and the new version's tell themselves apart
    rows = published(new)
    assert rows[:2] == before
    assert version_of(new) != version_of(old)
    assert [(row["version"], row["v"]) for row in rows[2:]] == [(version_of(new), "25"), (version_of(new), "30")]


def test_a_column_of_the_name_keeps_it(server: RunningServer) -> None:
    line = Line(config(0, FIELDS[2]), server)
    line.chunk("s", [{"ts": 1_000, "v": 1, "version": "1.2"}])
    line.settle()
    [row] = published(line)
    assert (row["version"], row["_version"], row["row"]) == ("1.2", version_of(line), "0")
