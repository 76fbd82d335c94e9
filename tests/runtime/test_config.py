"""config.yaml: what it means, how its problems are reported, and what stands above it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.core import registry
from pipeline.core.definitions import (
    AGGREGATE_FUNCTIONS,
    DAY_MS,
    Aggregate,
    AggregateSpec,
    Calendar,
    Cumulating,
    Dedup,
    Field,
    Hopping,
    Rollup,
    Session,
    TimePolicy,
    Transform,
    Tumbling,
    Window,
)
from pipeline.core.programs import compile_programs
from pipeline.core.versions import encode_definition, version_of
from pipeline.errors import ConfigError
from pipeline.runtime.config import config_warnings, load_config
from pipeline.runtime.config_describe import describe

ROOT = Path(__file__).parents[2]

STREAMS = """\
streams:
  clicks:
    schema: {ts: timestamp, user: string, page: string, status: int, ms: float?, ok: bool, tags: "list[string]?"}
    time: {field: ts}
"""
STAGES = STREAMS + "stages:\n"
FULL = """\
redis: {url: "redis://:secret@localhost:6379/0"}
default_stream: clicks
streams:
  clicks:
    schema:
      ts: {type: timestamp, unit: us, zone: Europe/Paris}
      user: string
      page: string
      ms: {type: float?, unit: ms, description: time to load}
      tags: list[string]?
    time: {field: ts, disorder: 1m30s, max_future: 0s, max_age: 7d, idle_after: none}
    partition_by: user
    partitions: 8
    retention: {time: 2h, bytes: 500MB}
    extra: refuse
    compression: zstd
stages:
  per_section:                # reads a stage that stands below it
    from: sections
    window: {tumbling: 10s, offset: -6s}
    group_by: [section]
    aggregates:
      views: count
      timed: count(ms)
      load: mean( ms )
      slow: count where ms > 500
      p95: quantile(ms, .95)
      top_users: "topk( user, 3 )  WHERE page LIKE '%where (%'"
    select: {share: "slow / views", calm: "1 - slow / views"}
    emit: on_update
    output: chunks
    max_groups: 1_000
    allowed_lateness: 1m
    rollups: {1h: 90d, 1m: 7d}
    retention: 30d
  humans:
    from: clicks
    filter: "page <> '/robots.txt'"
  sections:
    from: humans
    derive: {section: "SPLIT_PART(page, '/', 2)"}
    publish: true
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """Return the messages about a config, with its folder left out."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {})
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_a_full_config_is_read_to_frozen_values(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL), {})

    clicks = config.streams["clicks"]
    assert config.redis_url == "redis://:secret@localhost:6379/0"
    assert config.default_stream == "clicks"
    assert clicks.fields == (
        Field("ts", "timestamp", unit="us", zone="Europe/Paris"),
        Field("user", "string"),
        Field("page", "string"),
        Field("ms", "float", nullable=True, measure="ms", description="time to load"),
        Field("tags", "list", nullable=True, item="string"),
    )
    assert clicks.time == TimePolicy("ts", 90_000, 0, 7 * 86_400_000, None)
    assert (clicks.partition_by, clicks.partitions, clicks.extra) == ("user", 8, "refuse")
    assert (clicks.retention_ms, clicks.retention_bytes, clicks.compression) == (7_200_000, 500_000_000, "zstd")
    assert "kept        2h or 500MB, chunks compressed with zstd" in describe(config)
    assert load_config(write(tmp_path, STREAMS), {}).streams["clicks"].compression == "none"
    assert list(config.stages) == ["per_section", "humans", "sections"]
    assert config.stages["sections"] == Transform(
        "sections", "humans", None, {"section": "SPLIT_PART(page, '/', 2)"}, publish=True
    )
    assert config.stages["per_section"] == Aggregate(
        name="per_section",
        source="sections",
        window=Tumbling(10_000, -6_000),
        group_by=("section",),
        aggregates=(
            AggregateSpec("views", "count"),
            AggregateSpec("timed", "count", "ms"),
            AggregateSpec("load", "mean", "ms"),
            AggregateSpec("slow", "count", where="ms > 500"),
            AggregateSpec("p95", "quantile", "ms", 0.95),
            AggregateSpec("top_users", "topk", "user", 3, "page LIKE '%where (%'"),
        ),
        retention_ms=30 * 86_400_000,
        select={"share": "slow / views", "calm": "1 - slow / views"},
        allowed_lateness_ms=60_000,
        emit="on_update",
        output="chunks",
        max_groups=1_000,
        rollups=(Rollup(60_000, 7 * 86_400_000), Rollup(3_600_000, 90 * 86_400_000)),
    )


WINDOWS: list[tuple[str, Window, str]] = [
    ("tumbling: 10s", Tumbling(10_000), "tumbling 10s"),
    ("tumbling: 10s, offset: -6s", Tumbling(10_000, -6_000), "tumbling 10s, offset -6s"),
    ("hopping: 1m, every: 10s", Hopping(60_000, 10_000), "hopping 1m every 10s"),
    ("hopping: 1m, every: 25s, offset: 5m", Hopping(60_000, 25_000, 300_000), "hopping 1m every 25s, offset 5m"),
    ("hopping: 1m, every: 1m", Hopping(60_000, 60_000), "hopping 1m every 1m"),
    ("session: 30m", Session(1_800_000), "session, events at most 30m apart"),
    ("session: 30m, max: 4h", Session(1_800_000, 14_400_000), "session, events at most 30m apart, at most 4h long"),
    ("cumulating: 1d, every: 1h", Cumulating(86_400_000, 3_600_000), "cumulating 1d every 1h"),
    (
        "cumulating: 1d, every: 1h, offset: 6h",
        Cumulating(86_400_000, 3_600_000, 21_600_000),
        "cumulating 1d every 1h, offset 6h",
    ),
    ("calendar: day, tz: Europe/Paris", Calendar("day", "Europe/Paris"), "calendar day in Europe/Paris"),
    ("calendar: week, tz: UTC", Calendar("week", "UTC"), "calendar week in UTC"),
    ("calendar: month, tz: America/New_York", Calendar("month", "America/New_York"), "calendar month in America/New"),
]


@pytest.mark.parametrize(("text", "window", "said"), WINDOWS)
def test_every_kind_of_window_is_read_described_and_without_a_warning(
    tmp_path: Path, text: str, window: Window, said: str
) -> None:
    stream = "streams: {s: {schema: {user: string}, partition_by: user}}\nstages:\n"
    stage = f"  x: {{from: s, window: {{{text}}}, group_by: [user], aggregates: {{n: count}}}}\n"

    config = load_config(write(tmp_path, stream + stage), {})

    assert config.aggregates()[0].window == window
    assert config_warnings(config) == []
    assert f"window    {said}" in describe(config)


CALLS: list[tuple[str, AggregateSpec]] = [
    ("count", AggregateSpec("a", "count")),
    ("count(tags)", AggregateSpec("a", "count", "tags")),
    ("count where ok", AggregateSpec("a", "count", where="ok")),
    ("count\n  WHERE\n  ok", AggregateSpec("a", "count", where="ok")),
    ("sum(status)where ok", AggregateSpec("a", "sum", "status", where="ok")),
    ("sum( status ) Where status IN (1, 2)", AggregateSpec("a", "sum", "status", where="status IN (1, 2)")),
    ("last(where)", AggregateSpec("a", "last", "where")),
    ("last(where) where \"where\" = 'x'", AggregateSpec("a", "last", "where", where="\"where\" = 'x'")),
    ("quantile(ms, 0)", AggregateSpec("a", "quantile", "ms", 0.0)),
    ("quantile(ms, 1)", AggregateSpec("a", "quantile", "ms", 1.0)),
    ("quantile(ms,0.999)", AggregateSpec("a", "quantile", "ms", 0.999)),
    ("topk(ok, 1000)", AggregateSpec("a", "topk", "ok", 1_000)),
    *((f"{name}(status)", AggregateSpec("a", name, "status")) for name in AGGREGATE_FUNCTIONS[:9]),
    *((f"{name}(ms)", AggregateSpec("a", name, "ms")) for name in ("histogram", "distinct", "increase", "rate")),
    ("distinct_exact(ts)", AggregateSpec("a", "distinct_exact", "ts")),
    ("time_weighted_mean(status)", AggregateSpec("a", "time_weighted_mean", "status")),
]


@pytest.mark.parametrize(("text", "spec"), CALLS)
def test_the_text_of_an_aggregate_is_read(tmp_path: Path, text: str, spec: AggregateSpec) -> None:
    stream = STREAMS.replace("page: string", "page: string, where: string")
    stage = f"  x:\n    from: clicks\n    window: {{tumbling: 1s}}\n    aggregates:\n      a: {json.dumps(text)}\n"

    config = load_config(write(tmp_path, f"{stream}stages:\n{stage}"), {})

    assert config.aggregates()[0].aggregates == (spec,)


def test_a_registered_aggregate_is_an_aggregate_and_its_source_decides_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aggregate = "{g: geomean(ms), n: count}"
    text = STAGES + f"  x: {{from: clicks, window: {{tumbling: 1s}}, aggregates: {aggregate}}}"
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match="unknown aggregate 'geomean'"):
        load_config(path, {})

    monkeypatch.setitem(registry.aggregates, "geomean", registered("one"))
    config = load_config(path, {})
    first = version_of(config, "x")
    monkeypatch.setitem(registry.aggregates, "geomean", registered("two"))
    second = version_of(config, "x")

    assert config.aggregates()[0].aggregates[0] == AggregateSpec("g", "geomean", "ms")
    assert first != second
    (problem,) = problems_of(tmp_path, text.replace("geomean", "geomen"))
    assert "unknown aggregate 'geomen'. Did you mean 'geomean'?" in problem
    (problem,) = problems_of(tmp_path, text.replace("geomean(ms)", "geomean(tags)"))
    assert "geomean needs string, int, float, bool or timestamp, and 'tags' is list[string]." in problem


class Product:
    def lift(self, value: Any) -> Any:
        return value

    def merge(self, a: Any, b: Any) -> Any:
        return a * b

    def finish(self, partial: Any) -> Any:
        return partial


def registered(source_hash: str) -> registry.RegisteredAggregate:
    return registry.RegisteredAggregate(function=Product(), source_hash=source_hash, returns="float")


WHAT_DECIDES = [
    ("window: {tumbling: 1s}", "window: {hopping: 1s, every: 1s}"),
    ("window: {tumbling: 1s}", "window: {tumbling: 1s, offset: 100ms}"),
    ("max_groups: 7", "max_groups: 8"),
    ("allowed_lateness: 1m", "allowed_lateness: 2m"),
    ("quantile(ms, 0.5)", "quantile(ms, 0.6)"),
    ("count where ok", "count where NOT ok"),
    ("count where ok", "count"),
]
WHAT_DOES_NOT = [
    ("emit: on_close", "emit: on_update"),
    ("output: rows", "output: none"),
    ("rollups: {1m: 7d}", "rollups: {1h: 7d}"),
    ("retention: 1d", "retention: 2d"),
    ("share: n / 2", "part: n / 3"),
    ("quantile(ms, 0.5)", "quantile(ms, .50)"),
    ("count where ok", "count  WHERE  ok"),
]
HASHED = STAGES + (
    "  x:\n    from: clicks\n    window: {tumbling: 1s}\n    allowed_lateness: 1m\n    max_groups: 7\n"
    "    aggregates:\n      m: quantile(ms, 0.5)\n      n: count where ok\n"
    "    emit: on_close\n    output: rows\n    rollups: {1m: 7d}\n    retention: 1d\n    select:\n      share: n / 2\n"
)


@pytest.mark.parametrize(("old", "new"), [*WHAT_DECIDES, *WHAT_DOES_NOT])
def test_what_decides_the_numbers_and_nothing_else_makes_another_version(tmp_path: Path, old: str, new: str) -> None:
    assert old in HASHED
    if "hopping" in new:
        before, after = (text.replace("    rollups: {1m: 7d}\n", "") for text in (HASHED, HASHED.replace(old, new)))
    else:
        before, after = HASHED, HASHED.replace(old, new)

    versions = [version_of(load_config(write(tmp_path, text), {}), "x") for text in (before, after)]

    assert (versions[0] != versions[1]) == ((old, new) in WHAT_DECIDES)


def test_a_definition_kept_beside_results_is_read_back_whole(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL), {})
    (stage,) = config.aggregates()

    text = encode_definition(config, stage)

    assert decode_stage(text) == stage


def decode_stage(text: bytes) -> Aggregate:
    return msgspec.convert(msgspec.json.decode(text)["stage"], Aggregate)


def test_what_is_left_out_has_the_defaults_of_the_definitions(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "streams: {s: {schema: {a: int}}}"), {})

    stream = config.streams["s"]
    assert stream == type(stream)("s", (Field("a", "int"),))
    assert (config.redis_url, config.default_stream, config.stages) == ("embedded", None, {})


def test_yaml_is_1_2(tmp_path: Path) -> None:
    text = "streams: {no: {schema: {on: int, y: bool}, partitions: 012, retention: {bytes: 1_000}}}"

    stream = load_config(write(tmp_path, text), {}).streams["no"]

    assert [field.name for field in stream.fields] == ["on", "y"]
    assert (stream.partitions, stream.retention_bytes) == (12, 1_000)


@pytest.mark.parametrize("style", [">-", ">", "|-", "|"])
def test_an_expression_may_be_a_block_of_several_lines(tmp_path: Path, style: str) -> None:
    text = f"""
streams: {{s: {{schema: {{a: int, b: string}}}}}}
stages:
  few:
    from: s
    filter: {style}
      a > 0
      AND b <> '\\a'
"""
    few = load_config(write(tmp_path, text), {}).stages["few"]

    assert isinstance(few, Transform)
    assert (few.filter or "").split() == ["a", ">", "0", "AND", "b", "<>", "'\\a'"]
    assert "\a" not in (few.filter or "")


def test_the_shipped_config_loads_compiles_and_warns_of_nothing() -> None:
    config = load_config(ROOT / "config.yaml", {})

    assert config.default_stream == "events"
    assert config.streams["weblog"].time.disorder_ms == 60_000
    assert config.streams["machine_temperature"].partitions == 1
    assert set(compile_programs(config)) == {stage.name for stage in config.aggregates()}
    assert config_warnings(config) == []


def test_a_stream_with_dedup_is_partitioned_by_its_ids_unless_it_says_by_what(tmp_path: Path) -> None:
    schema = "schema: {id: string, maybe: 'int?', user: string}"
    text = f"streams:\n  a: {{{schema}, dedup: {{key: id}}}}\n"
    text += f"  b: {{{schema}, partition_by: user, dedup: {{key: maybe, within: 7d}}}}\n  c: {{{schema}}}\n"

    config = load_config(write(tmp_path, text), {})

    a, b, c = config.streams.values()
    assert (a.dedup, a.partition_by) == (Dedup("id", 600_000), "id")
    assert (b.dedup, b.partition_by) == (Dedup("maybe", 7 * DAY_MS), "user")
    assert (c.dedup, c.partition_by) == (None, None)
    assert "  dedup       by id, within 10m" in describe(config).splitlines()


def test_a_message_shows_the_line_with_a_caret(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, STAGES + "  x:\n    from: clicks\n    filtr: ok\n")

    assert problem == (
        "config.yaml:8:5: stages.x.filtr: unknown setting. Did you mean 'filter'?\n    8 |     filtr: ok\n      |     ^"
    )


def test_every_problem_is_named_in_one_run_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "redis: {url: http://x, ur: 1}\n"
        "streams:\n"
        "  a: {schema: {x: int, y: flaot}, archive: 1}\n"
        "  b: {schema: {x: int}, partition_by: y, archive: 1}\n"
        "  c: {schema: {x: int}}\n"
        "stages:\n"
        "  s: {from: c, filter: x, derive: {z: yy}, python: f}\n"
        "  t: {from: c, window: {hopping: 5m}, group_by: [q], aggregates: {n: sum(q), r: rate(y)}}\n"
        "  u: {from: a, filter: nowhere > 1}\n"
    )

    places = [problem.split(": ")[0].removeprefix("config.yaml:") for problem in problems_of(tmp_path, text)]

    assert places == [
        "1:14",
        "1:24",
        "3:27",
        "3:35",
        "4:39",
        "4:42",
        "7:24",
        "7:39",
        "7:52",
        "8:24",
        "8:50",
        "8:70",
        "8:81",
        "9:24",
    ]


def test_what_reads_a_broken_stage_is_not_reported_as_well(tmp_path: Path) -> None:
    text = (
        STAGES + "  a: {from: clicks, derive: {z: yy}}\n  b: {from: a, filter: z > 1}\n  c: {from: b, filter: z > 1}\n"
    )

    assert len(problems_of(tmp_path, text)) == 1


def test_a_stage_of_a_broken_stream_is_checked_with_the_fields_that_are_good(tmp_path: Path) -> None:
    text = (
        "streams: {s: {schema: {ts: timestamp, name: string, value: flaot}, time: {field: tss}}}\n"
        "stages:\n"
        "  t: {from: s, filter: value > 1 AND nmae = 'a', derive: {twice: value * 2, bad: name +, ok: name}}\n"
        "  m:\n"
        "    from: t\n"
        "    window: {tumbling: 10s, offset: 1m}\n"
        "    group_by: [value, twice, ok, okk]\n"
        "    aggregates: {a: median(value), b: sum(twice), c: sum(ok), d: mean(bad), e: max(vlaue)}\n"
    )

    problems = [problem.partition("\n")[0].split(": ", 1)[1] for problem in problems_of(tmp_path, text)]

    assert [problem.partition(":")[0] for problem in problems] == [
        "streams.s.schema.value.type",
        "stages.t.filter",
        "stages.t.derive.bad",
        "stages.m.group_by[3]",
        "stages.m.aggregates.a",
        "stages.m.aggregates.c",
        "stages.m.aggregates.e",
    ]
    assert "unknown field 'nmae'. Did you mean 'name'?" in problems[1]
    assert "unknown aggregate 'median'" in problems[4]


def test_conditions_and_selects_on_what_has_a_problem_of_its_own_are_checked_as_far_as_they_can_be(
    tmp_path: Path,
) -> None:
    text = (
        "streams: {s: {schema: {name: string, value: flaot}}}\n"
        "stages:\n"
        "  m:\n"
        "    from: s\n"
        "    window: {tumbling: 10s}\n"
        "    aggregates:\n"
        "      a: count where value > 1\n"
        "      b: count where value > 1 AND nmae = 'x'\n"
        "      c: sum(name)\n"
        "      d: sum(value)\n"
        "    select: {e: c / a, f: c / aa, g: d + 1, h: b}\n"
    )

    problems = [problem.partition("\n")[0].split(": ", 1)[1] for problem in problems_of(tmp_path, text)]

    assert [problem.partition(":")[0] for problem in problems] == [
        "streams.s.schema.value.type",
        "stages.m.aggregates.b",
        "stages.m.aggregates.c",
        "stages.m.select.f",
    ]
    assert "where: unknown field 'nmae'. Did you mean 'name'?" in problems[1]
    assert "unknown aggregate 'aa'. Did you mean 'a'?" in problems[3]


def test_a_stage_of_a_stream_without_a_schema_is_checked_as_far_as_it_can_be(tmp_path: Path) -> None:
    text = (
        "streams: {s: {partitions: 0}}\n"
        "stages:\n"
        "  m: {from: s, window: {tumbling: 10s}, group_by: [x], aggregates: {a: sum(y), b: median(y)}}\n"
    )

    places = [problem.split(": ")[1] for problem in problems_of(tmp_path, text)]

    assert places == ["streams.s", "streams.s.partitions", "stages.m.aggregates.b"]


def test_aggregates_are_checked_beside_a_window_that_does_not_fit(tmp_path: Path) -> None:
    text = STAGES + (
        "  a: {from: clicks, window: {tumbling: 0s}, aggregates: {}}\n"
        "  b: {from: clicks, window: {tumbling: 1}, group_by: [pge], aggregates: {n: sum(page)}}\n"
        "  c: {from: clicks, group_by: [pge], aggregates: {n: sum(page)}}\n"
        "  d: {from: clicks, window: {tumbling: 1s}, group_by: [pge]}\n"
        "  e: {from: clikcs, window: {tumbling: 1s}, group_by: [a], aggregates: {}}\n"
    )

    places = [problem.split(": ")[1] for problem in problems_of(tmp_path, text)]

    assert sorted(places) == [
        "stages.a.aggregates",
        "stages.a.window.tumbling",
        "stages.b.aggregates.n",
        "stages.b.group_by[0]",
        "stages.b.window.tumbling",
        "stages.c",
        "stages.c.aggregates.n",
        "stages.c.group_by[0]",
        "stages.d",
        "stages.d.group_by[0]",
        "stages.e.aggregates",
        "stages.e.from",
    ]


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        ("", "1:1", "the file is empty"),
        ("# only a comment\n", "1:1", "the file is empty"),
        ("a: [1", "1:6", "this is not YAML"),
        ("a: b: c", "1:5", "this is not YAML"),
        ("a: 1\n\tb: 1", "2:1", "this is not YAML"),
        ("a: 1\n---\nb: 1", "2:1", "a second document begins here"),
        ("a: &x [1]\nb: *x", "2:4", "aliases (*name) are not allowed"),
        ("a: " + "[" * 30 + "]" * 30, "1:23", "the file is nested more than 20 deep"),
        ("a: \x07", "1:1", "this is not YAML"),
        ("a: [" + "1," * 30_000 + "1]", "1:40003", "the file holds more than 20,000 names and values"),
    ],
)
def test_what_cannot_be_read_as_one_bounded_document_is_refused(
    tmp_path: Path, text: str, place: str, sentence: str
) -> None:
    (problem,) = problems_of(tmp_path, text)

    assert problem.startswith(f"config.yaml:{place}: {sentence}")


def test_an_alias_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )

    (problem,) = problems_of(tmp_path, bomb)

    assert problem.startswith("config.yaml:2:10: aliases (*name) are not allowed.")


def test_a_duplicate_key_names_the_place_of_the_first(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "streams:\n  s:\n    schema: {a: int}\n    schema: {b: int}\n")

    assert problem.startswith("config.yaml:4:5: streams.s.schema: is here twice; the first is at 3:5.")


def test_tags_and_keys_that_are_not_text_are_refused(tmp_path: Path) -> None:
    tagged, odd = problems_of(tmp_path, STREAMS + "default_stream: !!python/name:os.system clicks\n? [a]\n: 1\n")

    assert tagged.startswith("config.yaml:5:17: default_stream: tags (tag:yaml.org,2002:python/name:os.system)")
    assert odd.startswith("config.yaml:6:3: top level: a name must be plain text.")


def test_a_file_that_is_too_large_not_utf8_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match=r"cannot be read: No such file"):
        load_config(path, {})
    path.write_bytes(b"# " + b"x" * 1_000_000)
    with pytest.raises(ConfigError, match=r"at most 1,000,000"):
        load_config(path, {})
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"config.yaml:2:1: the file is not UTF-8"):
        load_config(path, {})


def test_the_environment_stands_above_the_redis_url_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    secret = tmp_path / "url"
    secret.write_text("unix:///run/redis.sock\n")

    assert load_config(path, {"STREAMGAUGE_REDIS__URL": "rediss://h"}).redis_url == "rediss://h"
    assert load_config(path, {"STREAMGAUGE_REDIS__URL_FILE": str(secret)}).redis_url == "unix:///run/redis.sock"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (
            {"STREAMGAUGE_REDIS_URL": "x"},
            "STREAMGAUGE_REDIS_URL: unknown setting. Did you mean 'STREAMGAUGE_REDIS__URL'?",
        ),
        ({"STREAMGAUGE_STREAMS__X": "x"}, "STREAMGAUGE_STREAMS__X: unknown setting."),
        (
            {"STREAMGAUGE_REDIS__URL": "redis+cluster://u:pw@h"},
            "STREAMGAUGE_REDIS__URL: `redis+cluster://` is not built yet",
        ),
        ({"STREAMGAUGE_REDIS__URL": "http://u:pw@h"}, "STREAMGAUGE_REDIS__URL: is not a Redis URL."),
        ({"STREAMGAUGE_REDIS__URL_FILE": "/nowhere"}, "STREAMGAUGE_REDIS__URL_FILE: the file /nowhere cannot be read"),
        ({"STREAMGAUGE_REDIS__URL": "a", "STREAMGAUGE_REDIS__URL_FILE": "b"}, "STREAMGAUGE_REDIS__URL and"),
    ],
)
def test_a_mistake_in_the_environment_is_a_config_error(tmp_path: Path, environ: dict[str, str], sentence: str) -> None:
    (problem,) = problems_of(tmp_path, STREAMS, environ)

    assert problem.startswith(f"environment: {sentence}")
    assert "pw" not in problem


def test_variables_of_tests_and_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    load_config(write(tmp_path, STREAMS), {"STREAMGAUGE_TEST_REDIS__URL": "x", "STREAMGAUGE_COLOUR": "x", "HOME": "/"})


def test_a_password_is_in_no_message_and_in_no_description(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, STREAMS + "redis: {url: 'redis+cluster://user:hunter2@h'}")

    assert "hunter2" not in problem
    assert "secret" not in describe(load_config(write(tmp_path, FULL), {}))


def test_a_filter_that_drops_nulls_is_a_warning(tmp_path: Path) -> None:
    text = STAGES + (
        "  a: {from: clicks, derive: {slow: ms > 100, calm: 'COALESCE(ms, 0) < 1'}}\n"
        "  b: {from: a, filter: slow}\n"
        "  c: {from: a, filter: calm AND status > 1}\n"
        "  d: {from: clicks, filter: ms IS NULL OR ms > 5}\n"
    )

    (warning,) = config_warnings(load_config(write(tmp_path, text), {}))

    assert warning.startswith("stages.b.filter: events without 'slow' are filtered out, since null is not true.")


def test_a_condition_of_an_aggregate_that_leaves_out_nulls_or_stops_is_a_warning(tmp_path: Path) -> None:
    text = STAGES + (
        "  t: {from: clicks, derive: {slow: ms > 100}}\n"
        "  x:\n    from: t\n    window: {tumbling: 1s}\n    aggregates:\n"
        "      a: count where slow\n      b: count where COALESCE(slow, FALSE)\n      c: sum(ms) where status > 1\n"
        "      d: count where CAST(page AS BIGINT) > 1\n"
    )

    warnings = config_warnings(load_config(write(tmp_path, text), {}))

    assert [warning.partition(",")[0] for warning in warnings] == [
        "stages.x.aggregates.a: events without 'slow' are left out of it",
        "stages.x.aggregates.d: fails on values that do not convert",
    ]


@pytest.mark.parametrize(
    ("window", "count"),
    [
        ("hopping: 1h, every: 7s", "3,600"),  # panes of a second, since 7 s does not divide the hour
        ("hopping: 1001s, every: 1s", "1,001"),
        ("cumulating: 30d, every: 1m", "43,200"),
    ],
)
def test_windows_of_more_than_a_thousand_panes_are_a_warning(tmp_path: Path, window: str, count: str) -> None:
    text = STAGES + f"  x: {{from: clicks, window: {{{window}}}, aggregates: {{n: count}}}}\n"

    (warning,) = config_warnings(load_config(write(tmp_path, text), {}))

    assert warning.startswith(f"stages.x.window: one window is merged from {count} panes, each time it closes")


def test_a_thousand_panes_are_no_warning(tmp_path: Path) -> None:
    windows = ("hopping: 1000s, every: 1s", "hopping: 1h, every: 30s", "cumulating: 1000m, every: 1m")
    stages = [
        f"  x{number}: {{from: clicks, window: {{{window}}}, aggregates: {{n: count}}}}\n"
        for number, window in enumerate(windows)
    ]

    assert config_warnings(load_config(write(tmp_path, STAGES + "".join(stages)), {})) == []


def test_a_cast_that_stops_on_a_value_is_a_warning(tmp_path: Path) -> None:
    text = STAGES + "  a: {from: clicks, derive: {n: CAST(page AS BIGINT), m: TRY_CAST(page AS BIGINT)}}\n"

    (warning,) = config_warnings(load_config(write(tmp_path, text), {}))

    assert warning.startswith("stages.a.derive.n: fails on values that do not convert")


def test_a_description_shows_the_graph_with_its_keys(tmp_path: Path) -> None:
    assert (
        describe(load_config(write(tmp_path, FULL), {}))
        == """\
redis redis://***@localhost:6379/0

clicks (POST /publish writes here)
  fields      ts timestamp, user string, page string, ms float? ms, tags list[string]?
  time        of ts, disorder 90s, at most 0s ahead, at most 1w old, silence never moves it
  partitions  8, by user: {clicks.0..7}:raw
  kept        2h or 500MB, chunks compressed with zstd
  └─ humans
     │ filter    page <> '/robots.txt'
     └─ sections
        │ derive    section = SPLIT_PART(page, '/', 2)
        │ publish   {clicks.0..7}:sections
        └─ per_section
             window    tumbling 10s, offset -6s
             group by  section, at most 1,000 in a partition
             values    views = count, timed = count(ms), load = mean(ms), slow = count where ms > 500, \
p95 = quantile(ms, 0.95), top_users = topk(user, 3) where page LIKE '%where (%'
             select    share = slow / views
             select    calm = 1 - slow / views
             late      counted up to 1m after the end, as a revision
             emit      open windows too, whenever they change
             rollups   1m kept 1w, 1h kept 90d
             kept      30d: {per_section}:rows in chunks, {per_section}:latest"""
    )
