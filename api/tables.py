"""Answers as tables in a terminal.

Invariant: the table is on stdout, remarks about it on stderr.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from api.sparklines import sparklines
from api.terminal_texts import terminal_text
from api.top import Top
from pipeline.core.definitions import SESSION_TYPES
from pipeline.core.ndjson import iso_time
from pipeline.runtime.doctor import Check

PIPE_COLUMNS = 1_000
TIME_COLUMNS = ("window_start", "window_end", *SESSION_TYPES)


def print_metric(answer: Mapping[str, Any]) -> None:
    """Print a metric's rows, with times as text; in a terminal too narrow for that, each row as a block of lines."""
    rows, meta = answer["data"], answer["meta"]
    names = list(rows[0]) if rows else ["no rows"]
    cells = [[_cell(_short_time(v) if name in TIME_COLUMNS else v) for name, v in row.items()] for row in rows]
    table = Table(*names, box=None, pad_edge=False)
    for row in cells:
        table.add_row(*row)
    console = _console()
    if console.measure(table, options=console.options.update(width=PIPE_COLUMNS)).maximum <= console.width:
        console.print(table)
    else:
        _print_blocks(console, names, cells)
    complete_to, watermark = _short_time(meta.get("complete_to")), _short_time(meta.get("watermark"))
    typer.echo(f"{len(rows)} rows, complete to {complete_to}, watermark {watermark}", err=True)
    if answer.get("next") is not None:
        typer.echo("There are more rows: narrow the range, or raise --limit.", err=True)


def _print_blocks(console: Console, names: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    """As psql's `\\x auto` does it: nothing is cut, and a value stands beside its name."""
    for row in rows:
        block = Table(box=None, pad_edge=False, show_header=False)
        block.add_column()
        block.add_column(overflow="fold")
        for name, cell in zip(names, row, strict=True):
            block.add_row(name, cell)
        console.print(block, end="\n\n")


def print_sparklines(answer: Mapping[str, Any]) -> None:
    """Print a line for each group and value of an answer that has several windows."""
    step = answer["meta"].get("step")
    lines = sparklines(answer["data"], list(answer["meta"]["unit"]), step if isinstance(step, int) else None)
    if not lines:
        return
    table = Table("group", "value", "oldest to newest", "least", "most", "last", box=None, pad_edge=False)
    for line in lines:
        numbers = (f"{number:,.6g}" for number in (line.least, line.most, line.last))
        table.add_row(_cell(line.group), line.value, line.drawn, *numbers)
    typer.echo()
    _print(table)


def print_top(top: Top) -> None:
    """Print one look at everything."""
    for part in _top_parts(top):
        _print(part)


def top_screen(top: Top, url: str) -> Group:
    """The same as a screen."""
    return Group(Text(f"{url}    q ends", style="dim"), Text(), *_top_parts(top))


def _top_parts(top: Top) -> tuple[Text | Table, ...]:
    memory = f"Redis {top.redis_memory_bytes / 1e6:,.1f} MB, {top.workers} worker{'' if top.workers == 1 else 's'}"
    streams = _numbers("stream", "events/s", "stored", "duplicate", "rejected", "quarantined")
    for stream in top.streams:
        counts = (stream.stored, stream.duplicate, stream.rejected, stream.quarantined)
        streams.add_row(stream.stream, f"{stream.events_per_s:,.1f}", *(f"{count:,}" for count in counts))
    stages = _numbers("stage", "events/s", "lag", "lag s", "watermark delay", "pending", "late", "dead", "books")
    for stage in top.stages:
        delay = "" if stage.watermark_delay_s is None else f"{stage.watermark_delay_s:,.1f} s"
        stages.add_row(
            *(stage.stage, f"{stage.events_per_s:,.1f}", f"{stage.lag_events:,}", f"{stage.lag_s:,.1f}", delay),
            *(f"{count:,}" for count in (stage.pending, stage.late, stage.dead)),
            "ok" if stage.books_add_up else "DIFFER",
        )
    return Text(memory), Text(), streams, Text(), stages


def _numbers(name: str, *columns: str) -> Table:
    table = Table(name, box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def print_aside(answer: Mapping[str, Any]) -> None:
    """Print rows that were put aside, newest first, and how many there are for which reason."""
    table = Table("id", "time", "reason", "replayed", "what", box=None, pad_edge=False)
    for row in answer["rows"]:
        what = row["event"] if "event" in row else row["body"]
        why = row["reason"] + (f": {row['error']}" if row.get("error") else "")
        when = iso_time(row["time"]) if "time" in row else iso_time(int(row["id"].partition(":")[2].partition("-")[0]))
        table.add_row(row["id"], when, _cell(why), "yes" if row["replayed"] else "", _cell(what))
    _print(table)
    counts = ", ".join(f"{reason} {count:,}" for reason, count in answer["reasons"].items()) or "none"
    among = "" if answer["counted"] == answer["total"] else f" of the newest {answer['counted']:,}"
    typer.echo(f"{answer['total']:,} rows; by reason{among}: {counts}", err=True)
    if answer["next"] is not None:
        typer.echo("There are more rows: raise --limit.", err=True)


def _short_time(time_ms: int | None) -> str | None:
    """`2015-05-20T21:05:59Z`, with the milliseconds where there are some: `query` takes it back as start or end."""
    text = iso_time(time_ms)
    return None if text is None else text.replace("+00:00", "Z").replace(".000Z", "Z")


def _cell(value: Any) -> Text:
    """A value as it is, never as rich's markup or a terminal's commands."""
    match value:
        case None:
            return Text()
        case list() | dict():
            return Text(terminal_text(json.dumps(value, ensure_ascii=False)))
        case _:
            return Text(terminal_text(str(value)))


def print_checks(checks: Sequence[Check], as_json: bool) -> None:
    """Print what `doctor` found."""
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
        return
    table = Table("", "check", "seen, and what to do", box=None, pad_edge=False)
    for check in checks:
        table.add_row("ok" if check.ok else "FAIL", _cell(check.name), _cell(check.seen))
        if check.fix:
            table.add_row("", "", _cell(f"-> {check.fix}"))
    _print(table)


def _print(table: Table | Text) -> None:
    _console().print(table)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_COLUMNS)  # rich would cut a pipe's rows at 80 columns
