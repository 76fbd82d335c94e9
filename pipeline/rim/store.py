"""Reads of the state: checkpoints, panes and published results, as plain values; nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile

import numpy as np
import redis

from pipeline.core.accumulators import Column
from pipeline.core.blocks import BLOCK_MARK, KnownNames, Packed, decode_block
from pipeline.core.cell_fields import ALWAYS, from_end_order
from pipeline.core.cell_layout import Layout
from pipeline.core.names import Names
from pipeline.rim import keys, replies
from pipeline.rim.commit import Checkpoint, Mark
from pipeline.rim.scripts import Operands, Scripts

SMALL_PANE = 50  # fields read by one HGETALL: as many blocks are 4 MB, some 2 ms of the server
PANES_A_READ = 500  # panes of a partition looked at together, each a microsecond of the server
ENOUGH_BYTES = 1_000_000  # of small panes read together: then others get their turn
SMALL_RESULT = 10_000  # groups of a published window that is read in a script: some 300 kB
RESULTS_A_READ = 500
BLOCKS_A_READ = 20
FIELDS_A_READ = 2_000  # of a cell each
READ_ROUNDS = 10  # over a large pane that changes meanwhile: each reads what is new
EXPIRED_WINDOWS = "windows"  # of a metric's own windows, in the hash of what expired


def redis_time_ms(client: redis.Redis) -> int:
    """Redis's clock: the only clock that decides anything."""
    seconds, microseconds = client.execute_command("TIME")
    return int(seconds) * 1_000 + int(microseconds) // 1_000


def load_checkpoint(client: redis.Redis, stream: str, partition: int, group: str) -> Checkpoint:
    return Checkpoint.parse(
        replies.parse_hash(client.execute_command("HGETALL", keys.checkpoint(stream, partition, group)))
    )


def load_expired_ms(client: redis.Redis, stream: str, partition: int, group: str) -> int | None:
    """Up to where the windows of a stage may be gone in a partition; None while none has expired."""
    text = client.execute_command("HGET", keys.checkpoint(stream, partition, group), "expired_ms")
    return None if text is None else int(text)


def load_checkpoints(client: redis.Redis, stream: str, partitions: int, group: str) -> list[Checkpoint]:
    """The checkpoints of all partitions, in one round trip."""
    pipe = client.pipeline(transaction=False)
    for partition in range(partitions):
        pipe.execute_command("HGETALL", keys.checkpoint(stream, partition, group))
    return [Checkpoint.parse(replies.parse_hash(reply)) for reply in pipe.execute()]


def pane_marks(client: redis.Redis, stream: str, partition: int, group: str) -> dict[int, Mark]:
    """Every pane of a partition and the mark of the last commit that changed it."""
    stored = replies.parse_hash(client.execute_command("HGETALL", keys.panes(stream, partition, group)))
    return {int(start): Mark.parse(mark) for start, mark in stored.items()}


@dataclass(frozen=True, slots=True)
class Due:
    """A pane that changed: the commit that changed it, and the end of its first window still to be published."""

    mark: Mark
    from_end_ms: int

    @classmethod
    def parse(cls, text: bytes) -> Due:
        mark, _, from_end = text.partition(b" ")
        return cls(Mark.parse(mark), from_end_order(from_end or ALWAYS))


def due_texts(client: redis.Redis, stream: str, partitions: int, group: str) -> list[dict[int, bytes]]:
    """For each partition the panes that changed since their windows were last published, each with a `Due` to parse."""
    pipe = client.pipeline(transaction=False)
    for partition in range(partitions):
        pipe.execute_command("HGETALL", keys.due(stream, partition, group))
    return [_by_start(replies.parse_hash(reply)) for reply in pipe.execute()]


def due_panes(client: redis.Redis, stream: str, partitions: int, group: str) -> list[dict[int, Due]]:
    """The same, parsed."""
    return list(map(parsed_due, due_texts(client, stream, partitions, group)))


def parsed_due(panes: Mapping[int, bytes], starts: Iterable[int] | None = None) -> dict[int, Due]:
    """The due panes of a partition, or those of `starts`, parsed."""
    wanted = panes if starts is None else [start for start in starts if start in panes]
    return {start: Due.parse(panes[start]) for start in wanted}


def load_progress(
    client: redis.Redis, stream: str, partitions: int, group: str
) -> tuple[list[Checkpoint], list[dict[int, Due]]]:
    """Every partition's checkpoint, and after all of them its due panes, in one round trip."""
    pipe = client.pipeline(transaction=False)
    for key_of in (keys.checkpoint, keys.due):
        for partition in range(partitions):
            pipe.execute_command("HGETALL", key_of(stream, partition, group))
    found = [replies.parse_hash(reply) for reply in pipe.execute()]
    return list(map(Checkpoint.parse, found[:partitions])), [parsed_due(_by_start(each)) for each in found[partitions:]]


def _by_start(stored: Mapping[bytes, bytes]) -> dict[int, bytes]:
    return {int(start): due for start, due in stored.items()}


def load_pane(client: redis.Redis, stream: str, partition: int, group: str, start: int) -> dict[bytes, bytes]:
    """The fields of one pane's hash, read in steps when it is large."""
    return load_panes(client, stream, partition, group, [start])[start]


def load_panes(
    client: redis.Redis, stream: str, partition: int, group: str, starts: Sequence[int]
) -> dict[int, dict[bytes, bytes]]:
    """The fields of several panes of a partition."""
    panes = load_panes_of_all(client, stream, [partition], group, starts)
    return {start: panes[partition, start] for start in starts}


def load_panes_of_all(
    client: redis.Redis, stream: str, partitions: Sequence[int], group: str, starts: Sequence[int]
) -> dict[tuple[int, int], dict[bytes, bytes]]:
    """The fields of panes by (partition, start), in one round trip where they are small.

    Those of one partition are then of one moment too: no commit is in one of them and not yet in another.
    """
    found: dict[tuple[int, int], dict[bytes, bytes]] = {}
    large: list[tuple[int, int]] = []
    waiting = {partition: list(starts) for partition in partitions if starts}
    while waiting:
        calls = [
            Operands(
                [keys.pane(stream, partition, group, start) for start in left[:PANES_A_READ]],
                (SMALL_PANE, ENOUGH_BYTES),
            )
            for partition, left in waiting.items()
        ]
        replies_of = dict(zip(waiting, Scripts(client).read_each("hashes", calls), strict=True))
        for partition, panes in replies_of.items():
            for start, fields in zip(waiting[partition], panes, strict=False):  # those behind are for the next round
                if fields is None:
                    large.append((partition, start))
                else:
                    found[partition, start] = replies.parse_hash(fields)
        waiting = {p: left[len(replies_of[p]) :] for p, left in waiting.items() if len(replies_of[p]) < len(left)}
    for partition, start in large:
        found[partition, start] = _load_large(client, keys.pane(stream, partition, group, start))
    return found


def _load_large(client: redis.Redis, key: str) -> dict[bytes, bytes]:
    """The fields of a large pane, in steps: every block there is when the last step ends.

    A block never changes, so those read before still are what they were. A cell may move from one block to another
    meanwhile: the later one is read then as well. A reader that needs one moment compares marks before and after.
    """
    stored: dict[bytes, bytes] = {}
    for _ in range(READ_ROUNDS):
        there = client.execute_command("HKEYS", key)
        wanted = [name for name in there if name not in stored]
        if not wanted:
            return {name: stored[name] for name in there}
        blocks = [name for name in wanted if name[:1] == BLOCK_MARK]
        others = [name for name in wanted if name[:1] != BLOCK_MARK]
        for names, step in ((blocks, BLOCKS_A_READ), (others, FIELDS_A_READ)):
            for at in range(0, len(names), step):
                part = names[at : at + step]
                values = client.execute_command("HMGET", key, *part)
                stored |= {name: value for name, value in zip(part, values, strict=True) if value is not None}
    return replies.parse_hash(client.execute_command("HGETALL", key))  # it changes faster than it is read in steps


@dataclass(frozen=True, slots=True)
class MarkedPane:
    """One pane of one partition at one moment: its mark, and the fields of its hash; None where they are known."""

    partition: int
    start_ms: int
    mark: Mark
    stored: Mapping[bytes, bytes] | None


def read_marked_panes(
    client: redis.Redis,
    stream: str,
    partitions: int,
    group: str,
    starts: Sequence[int],
    known: Mapping[tuple[int, int], Mark],
) -> dict[int, list[MarkedPane] | None]:
    """The panes that there are at some starts, by partition; None for a start where one changed while it was read.

    Marks are read before and after the cells, and an unchanged mark means unchanged cells: each pane is of one moment.
    The cells of a (partition, start) that still has its `known` mark are not read.
    """
    before = _marks(client, stream, partitions, group, starts)
    marks = {
        (partition, start): Mark.parse(mark)
        for start in starts
        for partition, mark in enumerate(before[start])
        if mark is not None
    }
    panes = []
    for partition in range(partitions):
        wanted = [start for p, start in marks if p == partition and known.get((p, start)) != marks[p, start]]
        panes.append(load_panes(client, stream, partition, group, wanted))
    after = _marks(client, stream, partitions, group, starts)
    return {
        start: [
            MarkedPane(partition, start, marks[partition, start], panes[partition].get(start))
            for partition, mark in enumerate(before[start])
            if mark is not None
        ]
        if before[start] == after[start]
        else None
        for start in starts
    }


def _marks(
    client: redis.Redis, stream: str, partitions: int, group: str, starts: Sequence[int]
) -> dict[int, list[bytes | None]]:
    pipe = client.pipeline(transaction=False)
    for partition in range(partitions):
        pipe.execute_command("HMGET", keys.panes(stream, partition, group), *starts)
    by_partition = pipe.execute()
    return {start: [marks[number] for marks in by_partition] for number, start in enumerate(starts)}


def stored_marks(
    client: redis.Redis, metric: str, version: str, windows: Sequence[tuple[int, int]]
) -> list[list[Mark]]:
    """The marks that the windows' results in place were merged from, one for each partition; none without a result."""
    pipe = client.pipeline(transaction=False)
    for start, end in windows:
        pipe.execute_command("HGET", keys.result(metric, version, start, end), "marks")
    texts = pipe.execute() if windows else []
    return [[] if text is None else [Mark.parse(mark) for mark in text.split(b" ")] for text in texts]


@dataclass(frozen=True, slots=True)
class Result:
    """One published window: how often it was revised, and its groups with their cells, still packed."""

    start_ms: int
    end_ms: int
    revision: int
    state: str
    published_ms: int
    seq: int  # number of its publication among those of the metric's version
    groups: list[bytes]
    blocks: list[Packed]

    def columns(self, layout: Layout) -> dict[str, Column]:
        """The columns of its cells, in the order of its groups.

        Raises:
            ValueError: a block is damaged, or of another stage.
        """
        return layout.unpack_blocks(self.blocks)

    def cells(self, layout: Layout) -> list[bytes]:
        """Each cell packed by itself, to be compared."""
        return layout.pack(self.columns(layout), np.arange(len(self.groups)))


def published_windows(
    client: redis.Redis,
    metric: str,
    version: str,
    from_ms: int | None = None,
    to_ms: int | None = None,
    *,
    limit: int | None = None,
    tier_ms: int | None = None,
) -> list[tuple[int, int]]:
    """(start, end) of the published windows with from_ms < end <= to_ms, oldest first; the newest `limit` of them.

    `tier_ms`: of the tier of that size, and not of the metric itself.
    """
    key = keys.windows(metric, version) if tier_ms is None else keys.tier(metric, version, tier_ms)
    lowest = "-inf" if from_ms is None else f"({from_ms}"
    highest = "+inf" if to_ms is None else to_ms
    if limit is None:
        members = client.execute_command("ZRANGEBYSCORE", key, lowest, highest)
    else:
        members = client.execute_command("ZREVRANGEBYSCORE", key, highest, lowest, "LIMIT", 0, limit)[::-1]
    pairs = (member.partition(b":") for member in members)
    return [(int(start), int(end)) for start, _, end in pairs]


@dataclass(frozen=True, slots=True)
class Gone:
    """What of a metric has expired: the greatest start of its windows (of sessions: `first`), and of a tier's.

    `oldest_ms`: the start of the oldest window that the tier has.
    """

    start_ms: int | None
    tier_start_ms: int | None = None
    oldest_ms: int | None = None


def load_gone(client: redis.Redis, metric: str, version: str, tier_ms: int | None = None) -> Gone:
    """What has expired of a metric, and of one tier of it."""
    fields = [EXPIRED_WINDOWS, *([] if tier_ms is None else [tier_ms])]
    known = client.execute_command("HMGET", keys.expired(metric, version), *fields)
    starts = [None if start is None else int(start) for start in known]
    if tier_ms is None:
        return Gone(starts[0])
    oldest = client.execute_command("ZRANGE", keys.tier(metric, version, tier_ms), 0, 0)
    return Gone(starts[0], starts[1], int(oldest[0].partition(b":")[0]) if oldest else None)


def are_published(client: redis.Redis, metric: str, version: str, windows: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each of some windows has a result."""
    members = [f"{start}:{end}" for start, end in windows]
    return [score is not None for score in client.execute_command("ZMSCORE", keys.windows(metric, version), *members)]


def load_results(client: redis.Redis, metric: str, version: str, windows: Sequence[tuple[int, int]]) -> list[Result]:
    """The results of windows, in one round trip where they are small; windows that expired meanwhile are left out."""
    stored: dict[tuple[int, int], list[bytes | None]] = {}
    large: list[tuple[int, int]] = []
    left = list(windows)
    while left:
        names = [keys.result(metric, version, *window) for window in left[:RESULTS_A_READ]]
        looked = Scripts(client).run("results", keys=names, args=(SMALL_RESULT, ENOUGH_BYTES))
        for window, fields in zip(left, looked, strict=False):  # those behind are for the next round
            if fields is None:
                large.append(window)
            elif fields:
                stored[window] = fields
        left = left[len(looked) :]
    read = _ReadNames()
    results = {window: _result(window, fields, read) for window, fields in stored.items()}
    for window in large:
        if (found := _load_large_result(client, metric, version, window, read)) is not None:
            results[window] = found
    return [results[window] for window in windows if window in results]


def _load_large_result(
    client: redis.Redis, metric: str, version: str, window: tuple[int, int], read: _ReadNames
) -> Result | None:
    """A result with many groups, at one moment and without a copy of it in a script."""
    stored = replies.parse_hash(client.execute_command("HGETALL", keys.result(metric, version, *window)))
    about = [stored.get(name) for name in (b"groups", b"revision", b"state", b"published_ms", b"seq")]
    blocks = takewhile(lambda block: block is not None, (stored.get(b"b%d" % number) for number in count()))
    return _result(window, [*about, *blocks], read) if stored else None


@dataclass(slots=True)
class _ReadNames:
    """The names of the blocks read so far, and each column of them one by one: a thousand are not listed again."""

    columns: KnownNames = field(default_factory=dict)
    lists: dict[int, list[bytes]] = field(default_factory=dict)  # by the identity of a column, which is kept above

    def listed(self, names: Names) -> list[bytes]:
        if id(names) not in self.lists:
            self.lists[id(names)] = names.tolist()
        return self.lists[id(names)]


def _result(window: tuple[int, int], fields: Sequence[bytes | None], read: _ReadNames) -> Result:
    """The result of what `results.lua` says of it."""
    _groups, revision, state, published_ms, seq, *packed = fields
    if revision is None or state is None or published_ms is None:
        raise ValueError(f"the result of window {window} does not say when and how it was published")
    blocks = [decode_block(block, read.columns) for block in packed if block is not None]
    names = [read.listed(block.names) for block in blocks]
    return Result(
        *window,
        int(revision),
        state.decode(),
        int(published_ms),
        int(seq or b"0"),
        names[0] if len(names) == 1 else [name for each in names for name in each],
        blocks,
    )
