"""Publishing a closed window: staged beside, put in place by one short script, then its rows sent downstream in steps.

Idempotent and without an owner (DESIGN 8.5): whoever publishes carries the vector of marks it merged; the script takes
it only if it is ahead of the stored one. A crash after any step is continued by whoever comes next.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import redis

from pipeline.core.names import Names
from pipeline.rim import keys
from pipeline.rim.commit import Mark
from pipeline.rim.packed_arguments import PackedArguments
from pipeline.rim.packed_columns import packed_columns
from pipeline.rim.scripts import Argument, Scripts

STAGING_BYTES = 200_000  # a transaction: under 2 ms of the server's time
LATEST_STEP = 2_000  # fields of the latest hash written by one command
EMIT_ROWS = 500  # rows a step downstream: XADD is about 1.4 µs a row in a script (FACTS 8)
STAGING_TTL_MS = 60_000  # what a publisher that died left staged goes away


Row = Sequence[bytes | str]  # an entry of a metric's downstream stream: field and value in turn


@dataclass(frozen=True, slots=True)
class RowColumns:
    """Rows that have the same fields: those and their values in turn, bytes where they are the same in all rows."""

    parts: Sequence[bytes | Names]
    count: int

    def __len__(self) -> int:
        return self.count


Rows = Sequence[Row] | RowColumns


@dataclass(frozen=True, slots=True)
class Closed:
    """A merged window, ready to be published: its groups, their cells in blocks, and their finished values as JSON for
    the `latest` hash (empty where a newer window follows at once). `emits`: its rows go downstream."""

    metric: str
    version: str
    start_ms: int
    end_ms: int
    state: str
    marks: Sequence[Mark]
    groups: Names
    blocks: Sequence[bytes]
    finished: Names
    emits: bool = True
    tiers: Mapping[int, int] = field(default_factory=dict)  # size of each tier → start of its window this one is in


def publish(client: redis.Redis, scripts: Scripts, window: Closed) -> int | None:
    """Put a window in place; return its revision, or None when its marks are not ahead of the stored ones (or what was
    staged ran out, because we were paused)."""
    metric, version = window.metric, window.version
    token = secrets.token_hex(8)
    staged, staged_latest = keys.staging(metric, token), keys.staging_latest(metric, token)
    latest = (slice(at, at + LATEST_STEP) for at in range(0, len(window.finished), LATEST_STEP))
    steps = chain(
        ((staged, block) for block in _blocks(window)),
        ((staged_latest, _pairs(window.groups[part], window.finished[part])) for part in latest),
    )
    _stage(client, steps)
    revision = scripts.run(
        "publish",
        keys=[
            staged,
            keys.result(metric, version, window.start_ms, window.end_ms),
            keys.windows(metric, version),
            keys.ages(metric, version),
            keys.published(metric, version),
            keys.emit(metric, version),
            staged_latest,
            keys.latest(metric),
            keys.versions(metric),
            *(keys.tier_due(metric, version, size_ms) for size_ms in window.tiers),
        ],
        args=[
            version,
            window.start_ms,
            window.end_ms,
            window.state,
            len(window.groups),
            int(window.emits),
            len(window.tiers),
            *window.tiers.values(),
            *map(str, window.marks),
        ],
    )
    if int(revision) < 0:
        client.execute_command("UNLINK", staged, staged_latest)
        return None
    return int(revision)


@dataclass(frozen=True, slots=True)
class TierWindow:
    """A merged window of a tier, ready to be published; `seq` is the newest publication among the `windows` in it."""

    metric: str
    version: str
    size_ms: int
    start_ms: int
    seq: int
    windows: int
    groups: Sequence[bytes]
    blocks: Sequence[bytes]


def publish_tier(client: redis.Redis, scripts: Scripts, window: TierWindow) -> int | None:
    """Put a tier's window in place; return its revision, or None when the one in place is as good."""
    metric, version, end_ms = window.metric, window.version, window.start_ms + window.size_ms
    staged = keys.staging(metric, secrets.token_hex(8))
    _stage(client, ((staged, block) for block in _blocks(window)))
    revision = scripts.run(
        "publish_tier",
        keys=[
            staged,
            keys.result(metric, version, window.start_ms, end_ms),
            keys.tier(metric, version, window.size_ms),
            keys.tier_ages(metric, version, window.size_ms),
        ],
        args=[window.start_ms, end_ms, len(window.groups), window.seq, window.windows],
    )
    if int(revision) < 0:
        client.execute_command("UNLINK", staged)
        return None
    return int(revision)


def _blocks(window: Closed | TierWindow) -> Iterator[PackedArguments]:
    for number, block in enumerate(window.blocks):
        yield packed_columns([b"b%d" % number, block], 1)


def _pairs(fields: Names, values: Names) -> PackedArguments:
    return packed_columns([fields, values], len(fields))


def _stage(client: redis.Redis, steps: Iterable[tuple[str, PackedArguments]]) -> None:
    """Write staged hashes, each step a transaction: at no moment is there a key without an end."""
    pipe = client.pipeline(transaction=True)
    size = 0
    for key, pairs in steps:
        pipe.execute_command("HSET", key, pairs)
        pipe.execute_command("PEXPIRE", key, STAGING_TTL_MS)
        size += len(pairs.data)
        if size > STAGING_BYTES:
            pipe.execute()
            size = 0
    pipe.execute()


def replace_latest(client: redis.Redis, metric: str, pairs: Sequence[tuple[bytes, bytes]]) -> None:
    """Make the `latest` hash that of another version, when that one begins to answer."""
    pipe = client.pipeline(transaction=True)
    pipe.execute_command("UNLINK", keys.latest(metric))
    for at in range(0, len(pairs), LATEST_STEP):
        step = pairs[at : at + LATEST_STEP]
        pipe.execute_command("HSET", keys.latest(metric), *(part for pair in step for part in pair))
    pipe.execute()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The head of a metric's list of windows on their way downstream: the next row to send is `row`."""

    start_ms: int
    end_ms: int
    revision: int
    row: int

    @property
    def window(self) -> tuple[int, int, int]:
        """Whose rows: start, end and revision."""
        return (self.start_ms, self.end_ms, self.revision)

    def __str__(self) -> str:
        return f"{self.start_ms}:{self.end_ms}:{self.revision}:{self.row}"


def outgoing(client: redis.Redis, metric: str, version: str, count: int = 100) -> list[Outgoing]:
    """The oldest windows whose rows are not all downstream yet, oldest first."""
    heads = client.execute_command("LRANGE", keys.emit(metric, version), 0, count - 1)
    return [Outgoing(*map(int, head.split(b":"))) for head in heads]


def emit(scripts: Scripts, metric: str, version: str, head: Outgoing, rows: Rows) -> bool:
    """Send the rest of a window's rows downstream in steps; False when another publisher is doing it.

    `rows` are all rows of the window, in the order every publisher finds them in (the stored blocks').
    """
    position = head
    while True:
        count, step = _emit_step(rows, position.row)
        end = position.row + count
        after = Outgoing(head.start_ms, head.end_ms, head.revision, end)
        args = [str(position), str(after) if end < len(rows) else "", count, *step]
        sent = scripts.run("emit", keys=[keys.emit(metric, version), keys.rows(metric)], args=args)
        if not int(sent):
            return False
        if end >= len(rows):
            return True
        position = after


def _emit_step(rows: Rows, first: int) -> tuple[int, list[Argument]]:
    """How many rows are in one script call, as many as it takes in a millisecond or two by number and bytes, and each
    with its number of fields before it."""
    if isinstance(rows, RowColumns):
        return _packed_step(rows, slice(first, min(first + EMIT_ROWS, len(rows))))
    args: list[Argument] = []
    size = count = 0
    for row in rows[first : first + EMIT_ROWS]:
        args += (len(row) // 2, *row)
        size += sum(map(len, row))
        count += 1
        if size > STAGING_BYTES:
            break
    return count, args


def _packed_step(rows: RowColumns, part: slice) -> tuple[int, list[Argument]]:
    count = part.stop - part.start
    columns = [each if isinstance(each, bytes) else each[part] for each in rows.parts]
    packed = packed_columns([b"%d" % (len(columns) // 2), *columns], count)
    if count > 1 and len(packed.data) > 2 * STAGING_BYTES:
        return _packed_step(rows, slice(part.start, part.start + count // 2))
    return count, [packed] if count else []


@dataclass(frozen=True, slots=True)
class Settled:
    """A due pane after a pass: the mark that was published, and the end of its next window to publish, if any."""

    start_ms: int
    mark: Mark
    next_end_ms: int | None


def settle(scripts: Scripts, stream: str, partition: int, group: str, panes: Sequence[Settled]) -> int:
    """Note what was published of due panes, unless they changed since; return how many are off the list."""
    return settle_key(scripts, keys.due(stream, partition, group), panes, keys.checkpoint(stream, partition, group))


def settle_key(scripts: Scripts, key: str, panes: Sequence[Settled], *counted_in: str) -> int:
    """The same of any list of what is due; `counted_in` the checkpoint that counts it, if one does."""
    if not panes:
        return 0
    args: list[int | str] = []
    for pane in panes:
        args += [pane.start_ms, str(pane.mark), "" if pane.next_end_ms is None else pane.next_end_ms]
    return int(scripts.run("settle", keys=[key, *counted_in], args=args))
