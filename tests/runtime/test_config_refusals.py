"""One mistake, one message, at its place: every refusal of config.yaml.

In the examples `¦` stands just before the place that the message must point to; it is taken out before reading.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.rim import keys
from pipeline.runtime.config import load_config
from pipeline.runtime.config_stages import KEY_WORDS

STREAMS = """\
streams:
  clicks:
    schema: {ts: timestamp, user: string, page: string, status: int, ms: float?, ok: bool, tags: "list[string]?"}
    time: {field: ts}
"""
STAGES = STREAMS + "stages:\n"
AGGREGATE = STAGES + "  hits: {from: clicks, window: {tumbling: 10s}, aggregates: {n: count}"


def problems_of(tmp_path: Path, text: str) -> list[str]:
    """Return the messages about a config, with its folder left out."""
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


REFUSED_STREAMS = [
    ("¦streams: {}", "streams: needs at least one stream."),
    ("¦redis: {url: embedded}", "the file: needs `streams`."),
    ("¦[1]", "the file: must be a mapping, not a list."),
    (STREAMS + "¦stream: 1", "stream: unknown setting. Did you mean 'streams'?"),
    (STREAMS + "default_stream: ¦click", "default_stream: unknown stream 'click'. Did you mean 'clicks'?"),
    (STREAMS + "redis: {¦uri: x}", "redis.uri: unknown setting. Did you mean 'url'?"),
    (STREAMS + "redis: {url: ¦http://x}", "redis.url: is not a Redis URL."),
    (STREAMS + "redis: {url: ¦redis+cluster://h}", "redis.url: `redis+cluster://` is not built yet in this version."),
    (STREAMS + "redis: {url: ¦redis+sentinel://h}", "redis.url: `redis+sentinel://` is not built yet in this version."),
    ("streams: {¦Clicks: {schema: {a: int}}}", "streams.Clicks: the name 'Clicks' must be lower-case letters"),
    ("streams: {¦s: }", "streams.s: must be a mapping, not nothing."),
    ("streams: {¦s: {partitions: 1}}", "streams.s: needs `schema`."),
    ("streams: {s: {¦schema: {}}}", "streams.s.schema: needs at least one field."),
    ("streams: {s: {schema: {¦_k: int}}}", "streams.s.schema._k: the name '_k' must be letters"),
    ("streams: {s: {schema: {a: ¦flaot}}}", "streams.s.schema.a.type: unknown type 'flaot'. Did you mean 'float'?"),
    ("streams: {s: {schema: {a: ¦list}}}", "streams.s.schema.a.type: unknown type 'list'."),
    ("streams: {s: {schema: {a: ¦5}}}", "streams.s.schema.a: must be a type such as float?, or a mapping"),
    (
        "streams: {s: {schema: {a: {type: int, ¦untt: h}}}}",
        "streams.s.schema.a.untt: unknown setting. Did you mean 'unit'?",
    ),
    ("streams: {s: {schema: {a: {type: string, ¦unit: K}}}}", "streams.s.schema.a.unit: a string has no unit"),
    (
        "streams: {s: {schema: {a: {type: timestamp, unit: ¦h}}}}",
        "streams.s.schema.a.unit: the unit of a timestamp must be",
    ),
    ("streams: {s: {schema: {a: {type: int, ¦zone: UTC+1}}}}", "streams.s.schema.a.zone: only a timestamp has a zone."),
    (
        "streams: {s: {schema: {a: {type: timestamp, zone: ¦Mars}}}}",
        "streams.s.schema.a.zone: unknown time zone 'Mars'.",
    ),
    ("streams: {s: {schema: {a: int}, time: {field: ¦b}}}", "streams.s.time.field: unknown field 'b'. There are: a."),
    (
        "streams: {s: {schema: {a: int}, time: {field: ¦a}}}",
        "streams.s.time.field: 'a' is int; event time is a timestamp.",
    ),
    ("streams: {s: {schema: {a: 'timestamp?'}, time: {field: ¦a}}}", "streams.s.time.field: 'a' may be null"),
    (
        "streams: {s: {schema: {a: int}, time: {disorder: ¦5}}}",
        "streams.s.time.disorder: must be a duration with a unit",
    ),
    ("streams: {s: {schema: {a: int}, time: {disorder: ¦-5s}}}", "streams.s.time.disorder: '-5s' is not a duration."),
    ("streams: {s: {schema: {a: int}, time: {max_age: ¦0s}}}", "streams.s.time.max_age: must be longer than 0"),
    ("streams: {s: {schema: {a: int}, time: {¦max_futur: 1s}}}", "streams.s.time.max_futur: unknown setting."),
    (
        "streams: {s: {schema: {a: int}, partitions: ¦0}}",
        "streams.s.partitions: must be a whole number from 1 to 256, not 0.",
    ),
    (
        "streams: {s: {schema: {a: int}, partitions: ¦257}}",
        "streams.s.partitions: must be a whole number from 1 to 256",
    ),
    ("streams: {s: {schema: {a: int}, partitions: ¦true}}", "streams.s.partitions: must be a whole number"),
    ("streams: {s: {schema: {a: int}, partition_by: ¦b}}", "streams.s.partition_by: unknown field 'b'."),
    (
        "streams: {s: {schema: {a: float}, partition_by: ¦a}}",
        "streams.s.partition_by: 'a' is float; events are partitioned by",
    ),
    ("streams: {s: {schema: {a: 'int?'}, partition_by: ¦a}}", "streams.s.partition_by: 'a' may be null"),
    (
        "streams: {s: {schema: {a: int}, retention: {bytes: ¦1XB}}}",
        "streams.s.retention.bytes: must be a number of bytes",
    ),
    ("streams: {s: {schema: {a: int}, retention: ¦24h}}", "streams.s.retention: must be a mapping, not '24h'."),
    ("streams: {s: {schema: {a: int}, extra: ¦dorp}}", "streams.s.extra: must be drop or refuse, not 'dorp'."),
    (
        "streams: {s: {schema: {a: int}, extra: ¦keep}}",
        "streams.s.extra: `extra: keep` is not built yet in this version.",
    ),
    ("streams: {s: {schema: {a: int}, ¦dedup: {}}}", "streams.s.dedup: `dedup` is not built yet in this version."),
    ("streams: {s: {schema: {a: int}, ¦archive: x}}", "streams.s.archive: `archive` is not built yet in this version."),
    ("streams: {s: {schema: {a: int}, ¦compression: lz4}}", "streams.s.compression: `compression` is not built yet"),
]

REFUSED_STAGES = [
    (STAGES + "  ¦clicks: {from: clicks}", "stages.clicks: a stream is named 'clicks' too"),
    (STAGES + "  ¦door: {from: clicks, publish: true}", "stages.door: 'door' is the name of a key of ours"),
    (STAGES + "  ¦a-b: {from: clicks}", "stages.a-b: the name 'a-b' must be lower-case letters"),
    (STAGES + "  ¦x: {publish: true}", "stages.x: needs `from`."),
    (STAGES + "  x: {from: ¦clicsk}", "stages.x.from: unknown stream or stage 'clicsk'. Did you mean 'clicks'?"),
    (STAGES + "  x: {from: ¦y}\n  y: {from: x}", "stages.x.from: stages read one another in a circle: x -> y -> x."),
    (STAGES + "  x: {from: ¦x}", "stages.x.from: stages read one another in a circle: x -> x."),
    (AGGREGATE + "}\n  x: {from: ¦hits}", "stages.x.from: 'hits' is a metric; a stage reads a stream or a transform."),
    (STAGES + "  x: {from: clicks, publish: ¦1}", "stages.x.publish: must be true or false, not 1."),
    (STAGES + "  x: {from: clicks, filter: ¦status}", "stages.x.filter: a filter must be true or false"),
    (STAGES + "  x: {from: clicks, filter: ¦sum(status) > 3}", "stages.x.filter: aggregates are not possible"),
    (
        STAGES + "  x: {from: clicks, filter: ¦stat > 3}",
        "stages.x.filter: unknown field 'stat'. Did you mean 'status'?",
    ),
    (STAGES + "  x: {from: clicks, derive: {¦page: '1'}}", "stages.x.derive.page: 'page' is a field already."),
    (STAGES + "  x: {from: clicks, derive: {¦a b: '1'}}", "stages.x.derive.a b: the name 'a b' must be letters"),
    (STAGES + "  x: {from: clicks, derive: {a: ¦1}}", "stages.x.derive.a: must be text, not 1."),
    (STAGES + "  x: {from: clicks, derive: {a: ¦ts - ts}}", "stages.x.derive.a: this expression gives a duration"),
    (
        STAGES + "  x: {from: clicks, derive: {a: status, b: ¦a + 1}}",
        "stages.x.derive.b: 'a' is derived in this same stage.",
    ),
    (STAGES + "  x: {from: clicks, ¦group_by: [page]}", "stages.x.group_by: belongs to an aggregate"),
    (STAGES + "  x: {from: clicks, ¦windw: 1s}", "stages.x.windw: unknown setting."),
    (AGGREGATE + ", ¦filter: ok}", "stages.hits.filter: belongs to a transform"),
    (AGGREGATE + ", ¦groupby: [page]}", "stages.hits.groupby: unknown setting. Did you mean 'group_by'?"),
    (AGGREGATE + ", group_by: ¦page}", "stages.hits.group_by: must be a list, not 'page'."),
    (AGGREGATE + ", group_by: [page, ¦stat]}", "stages.hits.group_by[1]: unknown field 'stat'. Did you mean 'status'?"),
    (
        AGGREGATE + ", group_by: [¦ms]}",
        "stages.hits.group_by[0]: 'ms' is float; groups are string, int, bool or timestamp.",
    ),
    (AGGREGATE + ", group_by: [¦tags]}", "stages.hits.group_by[0]: 'tags' is list[string]"),
    (AGGREGATE + ", group_by: [page, ¦page]}", "stages.hits.group_by[1]: 'page' is here twice."),
    (AGGREGATE + ", emit: ¦on_update}", "stages.hits.emit: `emit: on_update` is not built yet in this version."),
    (AGGREGATE + ", emit: ¦never}", "stages.hits.emit: must be on_close, not 'never'."),
    (AGGREGATE + ", allowed_lateness: ¦1m}", "stages.hits.allowed_lateness: `allowed_lateness` is not built yet"),
    (AGGREGATE + ", retention: ¦none}", "stages.hits.retention: 'none' is not a duration."),
    (STAGES + "  ¦x: {from: clicks, window: {tumbling: 1s}}", "stages.x: needs `aggregates`."),
    (STAGES + "  ¦x: {from: clicks, aggregates: {n: count}}", "stages.x: needs `window`."),
    (
        STAGES + "  x: {from: clicks, window: {tumbling: ¦10}, aggregates: {n: count}}",
        "stages.x.window.tumbling: must be a",
    ),
    (
        STAGES + "  x: {from: clicks, window: {tumbling: 1s}, ¦aggregates: {}}",
        "stages.x.aggregates: needs at least one",
    ),
]

UNBUILT_STAGE_SETTINGS = ("select", "rollups", "max_groups", "output")
UNBUILT_WINDOWS = ("hopping", "session", "cumulating", "calendar")
UNBUILT_AGGREGATES = (
    *("var(ms)", "stddev(ms)", "quantile(ms, 0.95)", "histogram(ms)", "distinct(user)", "distinct_exact(user)"),
    *("topk(page, 5)", "rate(status)", "increase(status)", "time_weighted_mean(ms)"),
)
NULL_AND_WORDS = [
    *(
        (
            STAGES + f"  x: {{from: clicks, filter: ¦'{text}'}}",
            "stages.x.filter: a comparison with NULL is null for every",
        )
        for text in ("ms = NULL", "ms <> NULL", "NULL < ms", "status > 1 OR ms != NULL", "ms = CAST(NULL AS DOUBLE)")
    ),
    *(
        (STAGES + f"  x: {{from: clicks, derive: {{u: ¦{text}}}}}", f"stages.x.derive.u: '{word}' is a word of SQL")
        for text, word in (("CASE WHEN", "CASE"), ("NOT", "NOT"), ("case", "case"))
    ),
]
NOT_BUILT = [
    *(
        (AGGREGATE + f", ¦{name}: x}}", f"stages.hits.{name}: `{name}` is not built yet")
        for name in UNBUILT_STAGE_SETTINGS
    ),
    *(
        (STAGES + f"  x: {{from: clicks, ¦{name}: x}}", f"stages.x.{name}: `{name}` is not built yet")
        for name in UNBUILT_STAGE_SETTINGS
    ),
    *(
        (
            STAGES + f"  x: {{from: clicks, window: {{¦{name}: 1m, every: 1s}}, aggregates: {{n: count}}}}",
            f"stages.x.window.{name}: `{name}` is not built yet",
        )
        for name in UNBUILT_WINDOWS
    ),
]

REFUSED_AGGREGATES = [
    *((f'a: ¦"{call}"', f"a: `{call.partition('(')[0]}` is not built yet") for call in UNBUILT_AGGREGATES),
    ("a: ¦count where status > 1", "a: `where` is not built yet"),
    ("a: ¦{count: x, where: ok}", "a: `where` is not built yet"),
    ("a: ¦mena(ms)", "a: unknown aggregate 'mena'. Did you mean 'mean'?"),
    ("a: ¦sum", "a: sum needs a field: sum(name)."),
    ('a: ¦"count(*)"', "a: write `count` without brackets."),
    ("a: ¦sum(status * 2)", "a: sum takes the name of one field, not 'status * 2'."),
    ("a: ¦sum(stats)", "a: unknown field 'stats'. Did you mean 'status'?"),
    ("a: ¦sum(page)", "a: sum needs int or float, and 'page' is string."),
    ("a: ¦mean(ok)", "a: mean needs int or float, and 'ok' is bool."),
    ("a: ¦min(page)", "a: min needs int, float or timestamp, and 'page' is string."),
    ("a: ¦last(tags)", "a: last needs string, int, float, bool or timestamp, and 'tags' is list[string]."),
    ("a: ¦5", "a: must be an aggregate such as count or mean(bytes), not 5."),
    ("¦page: count", "page: 'page' is the name of a field of group_by."),
    ("¦window_start: count", "window_start: 'window_start' is the name of a column of every result."),
    ("¦state: count", "state: 'state' is the name of a column of every result."),
    ("¦a.b: count", "a.b: the name 'a.b' must be letters"),
]


def expected_place(marked: str) -> str:
    before = marked[: marked.index("¦")]
    return f"config.yaml:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "


MARKED = [*REFUSED_STREAMS, *REFUSED_STAGES, *NULL_AND_WORDS, *NOT_BUILT]


@pytest.mark.parametrize(("marked", "sentence"), MARKED)
def test_one_mistake_is_one_message_at_its_line_and_column(tmp_path: Path, marked: str, sentence: str) -> None:
    (problem,) = problems_of(tmp_path, marked.replace("¦", ""))

    assert problem.startswith(expected_place(marked) + sentence)


@pytest.mark.parametrize(("line", "sentence"), REFUSED_AGGREGATES)
def test_a_wrong_aggregate_is_one_message_at_its_line_and_column(tmp_path: Path, line: str, sentence: str) -> None:
    head = STAGES + "  hits:\n    from: clicks\n    group_by: [page]\n    window: {tumbling: 1s}\n    aggregates:\n"
    marked = f"{head}      n: count\n      {line}\n"

    (problem,) = problems_of(tmp_path, marked.replace("¦", ""))

    assert problem.startswith(f"{expected_place(marked)}stages.hits.aggregates.{sentence}")


def test_no_stage_can_have_the_name_of_a_key() -> None:
    """The words are read from the module of keys, so that a new key cannot be forgotten."""
    documented = re.findall(r"^    \{\w[.\w]*\}:(\w+)", keys.__doc__ or "", re.MULTILINE)

    words = {word for word in documented if word != "TRANSFORM"}

    assert {"raw", "door", "cp", "result", "record"} <= words
    assert sorted(words - KEY_WORDS) == []
