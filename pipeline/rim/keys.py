"""Every key of ours: pattern, type, fields and when it goes. No other module puts a key together.

Invariant: the hash tag comes first, so all keys of one stream partition, or of one metric, share a slot; a value a user
sends is never part of a key, only of a field.

    s  stream        p  partition number, from 0        g  consumer group, `<stage>@<version>`
    m  metric (the name of an aggregate stage)          v  version

A partition of a stream. Kept as long as the stream is, unless said.

    {s.p}:raw          stream  rows, chunks, ticks, control entries; trimmed behind the slowest group by `retention`
    {s.p}:door         hash    last_id max_seen_ms max_ts_ms last_arrival_ms last_tick_ms received stored duplicate
                               rejected undeclared bytes last_backfill_ms
    {s.p}:idem         hash    idempotency key → `FINGERPRINT JUDGED_MS ARRIVAL_MS ID,ID` of the first; 24 h or 100,000
    {s.p}:idem_times   zset    idempotency key by arrival ms; with `idem`
    {s.p}:ids          hash    of a stream with `dedup`: 8-byte hash of an event's id → its arrival ms; for `within`
    {s.p}:ids_order    list    `ARRIVAL_MS ` and the hashes of one append, oldest first; with `ids`
    {s.p}:quarantine   stream  rows refused at the door: reason code field index body, of CSV header; trimmed
    {s.p}:replayed     hash    id of a quarantined row → the request that replayed it; with the row
    {s.p}:lease        string  worker that works on the partition; PX 5 s
    {s.p}:cp:g         hash    checkpoint and ledger: cursor max_seen_ms max_ts_ms load_ms commit position torn read …
                               table:TABLE, and how many fields panes, due and live_sessions have: panes due sessions
    {s.p}:panes:g      hash    pane start → mark of the last commit that changed it; with the results that use the pane
    {s.p}:due:g        hash    pane start → `MARK FROM_END`: windows that end there or later; until published
    {s.p}:pane:g:START hash    cells: `FROM_END GROUPJSON` → packed partial, sketches beside; with its results
    {s.p}:live_sessions:g hash live sessions: `FIRST GROUPJSON` → last, forebears, packed partial; until final; many of
                               them as `#N` → a block and `!N` → those of it that are no more; `n` → how many are live
    {s.p}:late:g       stream  late rows; trimmed by the scheduler
    {s.p}:dead:g       stream  dead letters; trimmed by the scheduler
    {s.p}:replayed:g   hash    `ENTRY ROW` of a late row or dead letter → the request that replayed it; with the row
    {s.p}:suspect:g    hash    `ID FIRST AFTER` or `ID decoding` → attempts on an entry that may kill; until a commit
    {s.p}:cuts         zset    sampled places a trim may cut at, by arrival ms; until passed by a trim
    {s.p}:cut          hash    where the last trim cut: largest event time and watermark before it, and `table:TABLE` →
                               hash of the content that each lookup table had there
    {s.p}:tables       list    `ID HASH TABLE` of each reload of a lookup table in the log; those trimmed are in the cut
    {s.p}:TRANSFORM    stream  rows of a transform with `publish: true`; trimmed by the scheduler
    {s}:record         hash    partitions: how many there were when the stream was first set up

A metric. Results go `retention` after they were last published.

    {m}:versions             hash    active, and per version `definition:v` (JSON) and `targets:v`
    {m}:result:v:START:END   hash    revision marks state groups published_ms, and blocks of rows
    {m}:windows:v            zset    `START:END` by end; of sessions: bucket by the greatest closes_at in it
    {m}:ages:v               zset    `START:END` (of sessions: bucket) by published_ms
    {m}:published:v          hash    partition → greatest published mark
    {m}:expired:v            hash    `windows` → the greatest start of those that expired (of sessions: `first`), SIZE →
                                     of a tier's; kept
    {m}:tier:v:SIZE          zset    `START:END` of a tier's windows by end; their results are keyed as the others
    {m}:tier_ages:v:SIZE     zset    likewise by published_ms
    {m}:tier_due:v:SIZE      hash    tier window start → `0-N -`, N the newest publication of a window in it
    {m}:session_rows:v:BUCKET hash   sessions by first: `FIRST:LAST GROUPJSON` → `STATE REVISION PUBLISHED_MS`,
                                     PARTITION and packed partial; with the bucket
    {m}:session_accounts:v   hash    partition → `TO OWN OLDEST`: how far its sessions are published (session_store)
    {m}:emit:v               list    windows whose rows still go downstream
    {m}:rows                 stream  downstream rows; trimmed by the scheduler
    {m}:latest               hash    group JSON → JSON of the newest closed window's finished values
    {m}:staging:TOKEN        hash    a result being put together by one closer; EX a minute, renamed by the publish
    {m}:staging_latest:TOKEN hash    likewise, for `latest`

The installation.

    streamgauge:workers      zset    live workers by Redis time of their last beat
    streamgauge:ledger       hash    the scheduler's last look at the books: checked_ms ok findings (JSON)
    {streamgauge}:table:HASH string  a content of a lookup table (Parquet); while a log or a cut names it
    {streamgauge}:tables     hash    `HASH STREAM PARTITION` → when the content was stored for it, ms; with the content
"""

from __future__ import annotations


def _of_partition(stream: str, partition: int, rest: str) -> str:
    return f"{{{stream}.{partition}}}:{rest}"


def _of_metric(metric: str, rest: str) -> str:
    return f"{{{metric}}}:{rest}"


def raw(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "raw")


def door(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "door")


def idem(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "idem")


def idem_times(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "idem_times")


def ids(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "ids")


def ids_order(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "ids_order")


def quarantine(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "quarantine")


def lease(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "lease")


def checkpoint(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"cp:{group}")


def panes(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"panes:{group}")


def due(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"due:{group}")


def pane(stream: str, partition: int, group: str, start_ms: int) -> str:
    return f"{pane_prefix(stream, partition, group)}{start_ms}"


def pane_prefix(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"pane:{group}:")


def live_sessions(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"live_sessions:{group}")


def late(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"late:{group}")


def dead(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"dead:{group}")


def replayed(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"replayed:{group}")


def quarantine_replayed(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "replayed")


def suspect(stream: str, partition: int, group: str) -> str:
    return _of_partition(stream, partition, f"suspect:{group}")


def cuts(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "cuts")


def cut(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "cut")


def tables(stream: str, partition: int) -> str:
    return _of_partition(stream, partition, "tables")


def published_transform(stream: str, partition: int, transform: str) -> str:
    return _of_partition(stream, partition, transform)


def record(stream: str) -> str:
    return f"{{{stream}}}:record"


def versions(metric: str) -> str:
    return _of_metric(metric, "versions")


def result(metric: str, version: str, start_ms: int, end_ms: int) -> str:
    return f"{result_prefix(metric, version)}{start_ms}:{end_ms}"


def result_prefix(metric: str, version: str) -> str:
    return _of_metric(metric, f"result:{version}:")


def windows(metric: str, version: str) -> str:
    return _of_metric(metric, f"windows:{version}")


def ages(metric: str, version: str) -> str:
    return _of_metric(metric, f"ages:{version}")


def published(metric: str, version: str) -> str:
    return _of_metric(metric, f"published:{version}")


def expired(metric: str, version: str) -> str:
    return _of_metric(metric, f"expired:{version}")


def tier(metric: str, version: str, size_ms: int) -> str:
    return _of_metric(metric, f"tier:{version}:{size_ms}")


def tier_ages(metric: str, version: str, size_ms: int) -> str:
    return _of_metric(metric, f"tier_ages:{version}:{size_ms}")


def tier_due(metric: str, version: str, size_ms: int) -> str:
    return _of_metric(metric, f"tier_due:{version}:{size_ms}")


def session_rows(metric: str, version: str, bucket_ms: int) -> str:
    return f"{session_rows_prefix(metric, version)}{bucket_ms}"


def session_rows_prefix(metric: str, version: str) -> str:
    return _of_metric(metric, f"session_rows:{version}:")


def session_accounts(metric: str, version: str) -> str:
    return _of_metric(metric, f"session_accounts:{version}")


def emit(metric: str, version: str) -> str:
    return _of_metric(metric, f"emit:{version}")


def rows(metric: str) -> str:
    return _of_metric(metric, "rows")


def latest(metric: str) -> str:
    return _of_metric(metric, "latest")


def staging(metric: str, token: str) -> str:
    return _of_metric(metric, f"staging:{token}")


def staging_latest(metric: str, token: str) -> str:
    return _of_metric(metric, f"staging_latest:{token}")


def workers() -> str:
    return "streamgauge:workers"


def ledger() -> str:
    return "streamgauge:ledger"


def table_content(content: str) -> str:
    return f"{{streamgauge}}:table:{content}"


def table_contents() -> str:
    return "{streamgauge}:tables"
