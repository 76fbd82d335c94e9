"""One mistake, one message, at its place: every refusal of config.yaml.

In the examples `¦` stands just before the place that the message must point to; it is taken out before reading.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.core.definitions import Session
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
    (
        "streams: {s: {schema: {a: {type: timestamp, zone: ¦europe/berlin}}}}",
        "streams.s.schema.a.zone: unknown time zone 'europe/berlin'. Did you mean 'Europe/Berlin'?",
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
    ("streams: {s: {schema: {a: int}, ¦dedup: {}}}", "streams.s.dedup: needs `key`."),
    ("streams: {s: {schema: {a: int}, dedup: ¦a}}", "streams.s.dedup: must be a mapping, not 'a'."),
    ("streams: {s: {schema: {ab: int}, dedup: {key: ¦abc}}}", "streams.s.dedup.key: unknown field 'abc'. Did you mean"),
    (
        "streams: {s: {schema: {a: float}, dedup: {key: ¦a}}}",
        "streams.s.dedup.key: 'a' is float; an event is known again by a string or an int.",
    ),
    (
        "streams: {s: {schema: {a: 'int?'}, dedup: {key: ¦a}}}",
        "streams.s.dedup.key: 'a' may be null, and without `partition_by` the stream is partitioned by it.",
    ),
    ("streams: {s: {schema: {a: int}, dedup: {key: a, within: ¦0s}}}", "streams.s.dedup.within: must be longer than 0"),
    (
        "streams: {s: {schema: {a: int}, dedup: {key: a, within: ¦8d}}}",
        "streams.s.dedup.within: must be at most 1w, not 8d",
    ),
    ("streams: {s: {schema: {a: int}, dedup: {key: a, ¦for: 1d}}}", "streams.s.dedup.for: unknown setting."),
    ("streams: {s: {schema: {a: int}, ¦archive: x}}", "streams.s.archive: `archive` is not built yet in this version."),
    (
        "streams: {s: {schema: {a: int}, compression: ¦gzip}}",
        "streams.s.compression: must be none, lz4 or zstd, not 'gzip'.",
    ),
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
    (AGGREGATE + ", emit: ¦never}", "stages.hits.emit: must be on_close or on_update, not 'never'."),
    (AGGREGATE + ", output: ¦null}", "stages.hits.output: must be rows, chunks or none, not nothing."),
    (AGGREGATE + ", allowed_lateness: ¦-1m}", "stages.hits.allowed_lateness: '-1m' is not a duration."),
    (AGGREGATE + ", allowed_lateness: ¦5}", "stages.hits.allowed_lateness: must be a duration with a unit"),
    (AGGREGATE + ", max_groups: ¦0}", "stages.hits.max_groups: must be a whole number from 1 to 10,000,000, not 0."),
    (AGGREGATE + ", max_groups: ¦1e3}", "stages.hits.max_groups: must be a whole number from 1 to 10,000,000"),
    (AGGREGATE + ", max_groups: ¦10_000_001}", "stages.hits.max_groups: must be a whole number from 1 to 10,000,000"),
    (AGGREGATE + ", ¦max_group: 5}", "stages.hits.max_group: unknown setting. Did you mean 'max_groups'?"),
    (AGGREGATE + ", rollups: ¦[1m]}", "stages.hits.rollups: must be a mapping, not a list."),
    (AGGREGATE + ", rollups: {1m: ¦0d}}", "stages.hits.rollups.1m: must be longer than 0, not 0d."),
    (AGGREGATE + ", rollups: {¦5s: 1d}}", "stages.hits.rollups.5s: must be longer than the window, 10s"),
    (AGGREGATE + ", rollups: {¦10s: 1d}}", "stages.hits.rollups.10s: must be longer than the window, 10s"),
    (AGGREGATE + ", rollups: {¦12s: 1d}}", "stages.hits.rollups.12s: must be a multiple of the window, 10s. 20s is."),
    (
        AGGREGATE + ", rollups: {1h: 9d, ¦95s: 1d}}",
        "stages.hits.rollups.95s: must be a multiple of the window, 10s. 100s is.",
    ),
    (AGGREGATE + ", rollups: {1m: 1d, ¦60s: 2d}}", "stages.hits.rollups.60s: 60s is a tier already, written in"),
    (AGGREGATE + ", rollups: {¦hour: 1d}}", "stages.hits.rollups.hour: 'hour' is not a duration."),
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

AGGREGATE_SETTINGS = {
    "select": "{a: n}",
    "emit": "on_close",
    "output": "none",
    "max_groups": "5",
    "rollups": "{1m: 1d}",
    "allowed_lateness": "1m",
    "retention": "1d",
}
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
        (AGGREGATE + f", ¦{name}: x}}", f"stages.hits.{name}: belongs to a transform")
        for name in ("lookup", "explode", "python")
    ),
    *(
        (STAGES + f"  x: {{from: clicks, ¦{name}: {value}}}", f"stages.x.{name}: belongs to an aggregate")
        for name, value in AGGREGATE_SETTINGS.items()
    ),
]

# The window of a stage `x`, and what is said about it.
REFUSED_WINDOWS = [
    ("¦{}", ": needs one kind of window: tumbling: 10s, hopping: 1m, session: 30m, cumulating: 1d or calendar: day."),
    ("¦{every: 10s}", ": needs one kind of window: tumbling"),
    ("¦10s", ": must be a mapping, not '10s'."),
    ("{¦tumblin: 10s}", ".tumblin: unknown setting. Did you mean 'tumbling'?"),
    ("{tumbling: 10s, ¦evry: 5s}", ".evry: unknown setting. Did you mean 'every'?"),
    (
        "{tumbling: 1m, ¦session: 5m}",
        ".session: `tumbling` and `session` are two kinds of window, and a stage has one.",
    ),
    ("{tumbling: ¦0s}", ".tumbling: must be longer than 0, not 0s."),
    ("{tumbling: ¦-10s}", ".tumbling: must be longer than 0, not -10s."),
    ("{tumbling: ¦ten}", ".tumbling: 'ten' is not a duration."),
    ("{hopping: ¦0s, every: 1s}", ".hopping: must be longer than 0, not 0s."),
    ("{hopping: 1m, every: ¦0s}", ".every: must be longer than 0, not 0s."),
    ("{hopping: 1m, every: ¦-1s}", ".every: must be longer than 0, not -1s."),
    ("{hopping: 1m, ¦every: }", ".every: must be a duration with a unit, such as 10s or 5m, not nothing."),
    ("¦{hopping: 1m}", ": hopping windows need `every`, how often a window begins: {hopping: 1m, every: 10s}."),
    (
        "{hopping: 1m, every: ¦90s}",
        ".every: windows of 1m every 90s would leave out the events between them. Write at most 1m.",
    ),
    (
        "{hopping: 1d, every: ¦1ms}",
        ".every: one window would be merged from 86,400,000 panes, and at most 1,000,000 can be. Choose a longer one",
    ),
    ("¦{cumulating: 1d}", ": cumulating windows need `every`, how far each window reaches beyond the one before"),
    ("{cumulating: 1d, every: ¦7h}", ".every: must divide the window, 1d, and 7h does not. 1h would."),
    ("{cumulating: 1h, every: ¦2h}", ".every: must divide the window, 1h, and 2h does not. 1h would."),
    ("{session: ¦0s}", ".session: must be longer than 0, not 0s."),
    ("{session: 30m, max: ¦10m}", ".max: must be longer than the gap, 30m, not 10m."),
    ("{session: 30m, max: ¦30m}", ".max: must be longer than the gap, 30m, not 30m."),
    ("{session: 30m, ¦offset: 1m}", ".offset: a session begins with its first event and has no offset."),
    ("{calendar: ¦year, tz: UTC}", ".calendar: must be day, week or month, not 'year'."),
    ("¦{calendar: day}", ": calendar windows need a time zone: tz: Europe/Paris; UTC is one too."),
    ("{calendar: day, tz: ¦Europe/Pariss}", ".tz: unknown time zone 'Europe/Pariss'. Did you mean 'Europe/Paris'?"),
    ("{calendar: day, tz: ¦europe/paris}", ".tz: unknown time zone 'europe/paris'. Did you mean 'Europe/Paris'?"),
    ("{calendar: day, tz: ¦Berlin}", ".tz: unknown time zone 'Berlin'. Did you mean 'Europe/Berlin'?"),
    (
        "{calendar: day, tz: ¦+02:00}",
        ".tz: unknown time zone '+02:00'. Write an IANA name such as Europe/Paris, or UTC.",
    ),
    (
        "{calendar: day, tz: ¦CEST}",
        ".tz: unknown time zone 'CEST'. Abbreviations do not say when summer time is; write an IANA name such as "
        "Europe/Berlin, or UTC.",
    ),
    ("{calendar: day, tz: ¦UTC+2}", ".tz: unknown time zone 'UTC+2'. Write an IANA name such as Europe/Paris, or UTC."),
    ("{calendar: day, tz: ¦localtime}", ".tz: unknown time zone 'localtime'."),
    ("{calendar: day, ¦tz: }", ".tz: must be the name of a time zone such as Europe/Paris, not nothing."),
    ("{calendar: day, tz: UTC, ¦offset: 6h}", ".offset: calendar windows begin at local midnight"),
    (
        "{tumbling: 1m, ¦every: 10s}",
        ".every: belongs to hopping or cumulating windows, and this one is tumbling. Remove it, or write hopping or",
    ),
    ("{tumbling: 1m, ¦tz: UTC}", ".tz: belongs to calendar windows, and this one is tumbling."),
    ("{hopping: 1m, every: 1s, ¦max: 1h}", ".max: belongs to session windows, and this one is hopping."),
]

SESSIONS = "streams:\n  clicks: {schema: {user: string, page: string, ms: float, who: 'string?'}%s}\nstages:\n"
SPLIT_SESSIONS = [
    (
        *("", "", "[user]"),
        "the stream 'clicks' spreads its events evenly over 4 partitions. Set streams.clicks.partition_by: user.",
    ),
    (
        *("", "", "[]"),
        "the stream 'clicks' spreads its events evenly over 4 partitions. "
        "Set streams.clicks.partition_by: user, and group_by: [user] here.",
    ),
    (
        *("", "", "[who]"),  # it may be null, so no stream is partitioned by it
        "the stream 'clicks' spreads its events evenly over 4 partitions. "
        "Set streams.clicks.partition_by: user, and group_by: [user] here.",
    ),
    (
        *("", "{place: UPPER(page)}", "[place]"),  # known only after the log was partitioned
        "the stream 'clicks' spreads its events evenly over 4 partitions. "
        "Set streams.clicks.partition_by: user, and group_by: [user] here.",
    ),
    (
        *(", partition_by: user", "", "[page]"),
        "the stream 'clicks' is partitioned by 'user', which is not in group_by. "
        "Add user to group_by, or set streams.clicks.partition_by: page.",
    ),
    (
        *(", partition_by: user, partitions: 2", "", "[]"),
        "the stream 'clicks' is partitioned by 'user', which is not in group_by. Add user to group_by.",
    ),
]
WHOLE_SESSIONS = [
    (", partition_by: user", "", "[user]"),
    (", partition_by: user", "{section: UPPER(page)}", "[section, user]"),
    (", partitions: 1", "", "[]"),
    (", partitions: 1", "", "[who]"),
    (", partitions: 1, partition_by: user", "", "[page]"),
]

REFUSED_AGGREGATES = [
    ("a: ¦mena(ms)", "a: unknown aggregate 'mena'. Did you mean 'mean'?"),
    ("a: ¦sum", "a: sum needs a field: sum(name)."),
    ('a: ¦"count(*)"', "a: write `count` without brackets."),
    ("a: ¦sum(status * 2)", "a: sum takes the name of a field, not 'status * 2': sum(name). Compute it in a `derive`"),
    ("a: ¦sum(status, 2)", "a: sum takes one field and nothing else: sum(name)."),
    ("a: ¦Count", "a: unknown aggregate 'Count'. Did you mean 'count'?"),
    ("a: ¦median(ms)", "a: unknown aggregate 'median'. Did you mean 'quantile(name, 0.5)'?"),
    ("a: ¦p95(ms)", "a: unknown aggregate 'p95'. Did you mean 'quantile(name, 0.95)'?"),
    ("a: ¦p5(ms)", "a: unknown aggregate 'p5'. Did you mean 'quantile(name, 0.05)'?"),
    ("a: ¦avg(ms)", "a: unknown aggregate 'avg'. Did you mean 'mean'?"),
    (
        "a: ¦{aggregate: count, where: ok}",
        "a: must be an aggregate such as count, mean(bytes), quantile(load_ms, 0.95)",
    ),
    ("a: ¦count of clicks", "a: must be an aggregate such as count"),
    ("a: ¦quantile", "a: quantile needs a field: quantile(name, 0.95)."),
    (
        "a: ¦quantile(ms)",
        "a: quantile needs the part of the values that is below it, from 0 to 1: quantile(name, 0.95)",
    ),
    ("a: ¦quantile(ms, 95)", "a: quantile takes a number from 0 to 1, not '95'. Percentile 95 is 0.95."),
    ("a: ¦quantile(ms, 5)", "a: quantile takes a number from 0 to 1, not '5'. Percentile 5 is 0.05."),
    ("a: ¦quantile(ms, 1.01)", "a: quantile takes a number from 0 to 1, not '1.01'."),
    ("a: ¦quantile(ms, -0.5)", "a: quantile takes a number from 0 to 1, not '-0.5'."),
    ("a: ¦quantile(ms, nan)", "a: quantile takes a number from 0 to 1, not 'nan'."),
    ("a: ¦quantile(ms, 0.5, 0.9)", "a: quantile takes a number from 0 to 1, not '0.5, 0.9'."),
    ("a: ¦quantile(0.95, ms)", "a: quantile takes the name of a field, not '0.95': quantile(name, 0.95)."),
    ("a: ¦topk(page)", "a: topk needs how many values to keep, from 1 to 1,000: topk(name, 10)."),
    ("a: ¦topk(page, 0)", "a: topk keeps a whole number of values from 1 to 1,000, not '0'."),
    ("a: ¦topk(page, 1001)", "a: topk keeps a whole number of values from 1 to 1,000, not '1001'."),
    ("a: ¦topk(page, 2.5)", "a: topk keeps a whole number of values from 1 to 1,000, not '2.5'."),
    ("a: ¦rate(page)", "a: rate needs int or float, and 'page' is string."),
    ("a: ¦histogram(ts)", "a: histogram needs int or float, and 'ts' is timestamp."),
    ("a: ¦distinct(tags)", "a: distinct needs string, int, float, bool or timestamp, and 'tags' is list[string]."),
    ("a: ¦distinct_exact(ms)", "a: distinct_exact needs string, int, bool or timestamp, and 'ms' is float."),
    ("a: ¦topk(ms, 3)", "a: topk needs string, int, bool or timestamp, and 'ms' is float."),
    ("a: ¦countwhere status > 1", "a: must be an aggregate such as count"),
    ("a: ¦count where", "a: a condition is missing after `where`: count where status >= 500."),
    ("a: ¦count where stat > 1", "a: where: unknown field 'stat'. Did you mean 'status'?"),
    ("a: ¦count where status", "a: where: a filter must be true or false, and this one gives int."),
    ("a: ¦count where status >", "a: where: this is not a SQL expression that works here"),
    ("a: ¦count where n > 1", "a: where: unknown field 'n'."),
    ("a: ¦sum(status) WHERE sum(status) > 1", "a: where: aggregates are not possible"),
    ("a: ¦count where ms = NULL", "a: where: a comparison with NULL is null for every event"),
    ("a: ¦sum(stats)", "a: unknown field 'stats'. Did you mean 'status'?"),
    ("a: ¦sum(page)", "a: sum needs int or float, and 'page' is string."),
    ("a: ¦mean(ok)", "a: mean needs int or float, and 'ok' is bool."),
    ("a: ¦min(page)", "a: min needs int, float or timestamp, and 'page' is string."),
    ("a: ¦last(tags)", "a: last needs string, int, float, bool or timestamp, and 'tags' is list[string]."),
    (
        "a: ¦5",
        "a: must be an aggregate such as count, mean(bytes), quantile(load_ms, 0.95) or "
        "count where status >= 500, not 5.",
    ),
    ("¦page: count", "page: 'page' is the name of a field of group_by."),
    ("¦window_start: count", "window_start: 'window_start' is the name of a column of every result."),
    ("¦state: count", "state: 'state' is the name of a column of every result."),
    ("¦version: count", "version: 'version' is the name of a column of every result."),
    ("¦a.b: count", "a.b: the name 'a.b' must be letters"),
]


# Of a metric of `n: count`, `total: sum(status)` and `users: topk(user, 3)` by page.
REFUSED_SELECTS = [
    ("¦[a]", ": must be a mapping, not a list."),
    ("{a: ¦1}", ".a: must be text, not 1."),
    ("{¦a b: n}", ".a b: the name 'a b' must be letters"),
    ("{¦n: total}", ".n: 'n' is the name of an aggregate."),
    ("{¦page: total}", ".page: 'page' is the name of a field of group_by."),
    ("{¦revision: total}", ".revision: 'revision' is the name of a column of every result."),
    ("{a: ¦totl / n}", ".a: unknown aggregate 'totl'. Did you mean 'total'?"),
    ("{a: ¦status / n}", ".a: unknown aggregate 'status'."),
    ("{a: ¦page}", ".a: 'page' is a field of group_by, and a select computes with aggregates."),
    ("{a: total / n, b: ¦a * 2}", ".b: 'a' is a select too, and one cannot compute with another. Write it out in 'b'."),
    ("{a: ¦a + 1}", ".a: unknown aggregate 'a'."),
    ("{a: ¦users}", ".a: 'users' is a list, and a select computes with single values."),
    ('{a: ¦"ARRAY_LENGTH(users)"}', ".a: 'users' is a list, and a select computes with single values."),
    ("{a: ¦total /}", ".a: this is not a SQL expression that works here"),
    ("{a: ¦sum(total)}", ".a: aggregates are not possible"),
    ('{a: ¦"CAST(who AS BIGINT)"}', ".a: fails on values that do not convert, and `//` by 0. Write TRY_CAST"),
    ("{a: ¦\"STRING_TO_ARRAY(who, ',')\"}", ".a: must give a single value, and this gives list[string]."),
]


def expected_place(marked: str) -> str:
    before = marked[: marked.index("¦")]
    return f"config.yaml:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "


def in_a_window(text: str) -> str:
    return f"{STAGES}  x: {{from: clicks, window: {text}, aggregates: {{n: count}}}}"


def in_a_select(text: str) -> str:
    values = '{n: count, total: sum(status), who: first(user), users: "topk(user, 3)"}'
    stage = f"x: {{from: clicks, window: {{tumbling: 1s}}, group_by: [page], aggregates: {values}, select: {text}}}"
    return f"{STAGES}  {stage}"


MARKED = [*REFUSED_STREAMS, *REFUSED_STAGES, *NULL_AND_WORDS, *NOT_BUILT]


@pytest.mark.parametrize(("marked", "sentence"), MARKED)
def test_one_mistake_is_one_message_at_its_line_and_column(tmp_path: Path, marked: str, sentence: str) -> None:
    (problem,) = problems_of(tmp_path, marked.replace("¦", ""))

    assert problem.startswith(expected_place(marked) + sentence)


@pytest.mark.parametrize(("window", "sentence"), REFUSED_WINDOWS)
def test_a_window_that_cannot_be_is_one_message_at_its_line_and_column(
    tmp_path: Path, window: str, sentence: str
) -> None:
    (problem,) = problems_of(tmp_path, in_a_window(window.replace("¦", "")))

    assert problem.startswith(f"{expected_place(in_a_window(window))}stages.x.window{sentence}")


@pytest.mark.parametrize(("stream", "derive", "groups", "sentence"), SPLIT_SESSIONS)
def test_sessions_that_partitions_would_split_are_refused(
    tmp_path: Path, stream: str, derive: str, groups: str, sentence: str
) -> None:
    marked = session_config(stream, derive, groups)

    (problem,) = problems_of(tmp_path, marked.replace("¦", ""))

    head = "stages.x.window.session: one session would be split over partitions: "
    assert problem.partition("\n")[0] == f"{expected_place(marked)}{head}{sentence}"


@pytest.mark.parametrize(("stream", "derive", "groups"), WHOLE_SESSIONS)
def test_sessions_that_stay_in_one_partition_are_taken(tmp_path: Path, stream: str, derive: str, groups: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(session_config(stream, derive, groups).replace("¦", ""))

    assert load_config(path, {}).aggregates()[0].window == Session(300_000)


def session_config(stream: str, derive: str, groups: str) -> str:
    """A config of sessions, in which `¦` stands before the gap."""
    transform = f"  t: {{from: clicks, derive: {derive or '{}'}}}\n"
    stage = f"  x: {{from: t, window: {{session: ¦5m}}, group_by: {groups}, aggregates: {{n: count}}}}\n"
    return SESSIONS % stream + transform + stage


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "group_by: [user], aggregates: {n: count}, ¦max_groups: 5",
            "max_groups: sessions have no cap on their groups.",
        ),
        (
            "group_by: [user], aggregates: {n: count}, ¦emit: on_update",
            "emit: sessions are sent when they close, and again when they grow.",
        ),
        ("group_by: [user], aggregates: {¦sessions: count}", "aggregates.sessions: 'sessions' is the name of a column"),
        (
            "group_by: [user], aggregates: {n: count}, ¦rollups: {1h: 1d}",
            "rollups: are built from tumbling windows, and",
        ),
        ("group_by: [user], aggregates: {¦first: count}", "aggregates.first: 'first' is the name of a column of every"),
        (
            "group_by: [user], aggregates: {n: count}, select: {¦closes_at: n}",
            "select.closes_at: 'closes_at' is the name of a column of every result.",
        ),
        ("group_by: [¦usr], aggregates: {n: count}", "group_by[0]: unknown field 'usr'. Did you mean 'user'?"),
    ],
)
def test_what_sessions_cannot_have_is_one_message_at_its_line_and_column(
    tmp_path: Path, text: str, sentence: str
) -> None:
    marked = SESSIONS % ", partition_by: user" + f"  x: {{from: clicks, window: {{session: 5m}}, {text}}}\n"

    (problem,) = problems_of(tmp_path, marked.replace("¦", ""))

    assert problem.startswith(f"{expected_place(marked)}stages.x.{sentence}")


@pytest.mark.parametrize(
    ("window", "kind"),
    [
        ("hopping: 1m, every: 10s", "hopping"),
        ("cumulating: 1d, every: 1h", "cumulating"),
        ("calendar: day, tz: UTC",) * 2,
    ],
)
def test_rollups_of_windows_that_are_not_tumbling_are_refused(tmp_path: Path, window: str, kind: str) -> None:
    marked = in_a_window(f"{{{window}}}").removesuffix("}") + ", ¦rollups: {1h: 7d}}"

    (problem,) = problems_of(tmp_path, marked.replace("¦", ""))

    said = f"rollups: are built from tumbling windows, and this stage's are {kind.partition(':')[0]}. Remove them."
    assert problem.startswith(f"{expected_place(marked)}stages.x.{said}")


@pytest.mark.parametrize(("select", "sentence"), REFUSED_SELECTS)
def test_a_wrong_select_is_one_message_at_its_line_and_column(tmp_path: Path, select: str, sentence: str) -> None:
    (problem,) = problems_of(tmp_path, in_a_select(select.replace("¦", "")))

    assert problem.startswith(f"{expected_place(in_a_select(select))}stages.x.select{sentence}")


def test_a_value_cut_at_a_comma_is_told_to_stand_in_quotes(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path, STAGES + "  x: {from: clicks, window: {tumbling: 1s}, aggregates: {a: topk(page, 5)}}"
    )

    assert any("In {…} a comma ends a value: put the whole of it in quotes." in problem for problem in problems)


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
