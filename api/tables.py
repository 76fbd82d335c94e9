"""Answers as tables in a terminal.

Invariant: the table is on stdout, remarks about it on stderr.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.core.ndjson import iso_time
from pipeline.runtime.doctor import Check

PIPE_COLUMNS = 1_000
WINDOW_COLUMNS = ("window_start", "window_end")


def print_metric(answer: Mapping[str, Any]) -> None:
    """Print a metric's rows, with times as text."""
    rows, meta = answer["data"], answer["meta"]
    table = Table(*(rows[0] if rows else ("no rows",)), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(iso_time(v) if name in WINDOW_COLUMNS else _cell(v) for name, v in row.items()))
    _print(table)
    complete_to, watermark = iso_time(meta.get("complete_to")), iso_time(meta.get("watermark"))
    typer.echo(f"{len(rows)} rows, complete to {complete_to}, watermark {watermark}", err=True)
    if answer.get("next") is not None:
        typer.echo("There are more rows: narrow the range, or raise --limit.", err=True)


def print_aside(answer: Mapping[str, Any]) -> None:
    """Print rows that were put aside, newest first, and how many there are for which reason."""
    table = Table("id", "time", "reason", "replayed", "what", box=None, pad_edge=False)
    for row in answer["rows"]:
        what = row["event"] if "event" in row else row["body"]
        shown = what if isinstance(what, str) else json.dumps(what, ensure_ascii=False)
        why = row["reason"] + (f": {row['error']}" if row.get("error") else "")
        when = iso_time(row["time"]) if "time" in row else iso_time(int(row["id"].partition(":")[2].partition("-")[0]))
        table.add_row(row["id"], when, escape(why), "yes" if row["replayed"] else "", escape(shown))
    _print(table)
    counts = ", ".join(f"{reason} {count:,}" for reason, count in answer["reasons"].items()) or "none"
    among = "" if answer["counted"] == answer["total"] else f" of the newest {answer['counted']:,}"
    typer.echo(f"{answer['total']:,} rows; by reason{among}: {counts}", err=True)
    if answer["next"] is not None:
        typer.echo("There are more rows: raise --limit.", err=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return escape(json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value))


def print_checks(checks: Sequence[Check], as_json: bool) -> None:
    """Print what `doctor` found."""
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
        return
    table = Table("", "check", "seen", "what to do", box=None, pad_edge=False)
    for check in checks:
        table.add_row("ok" if check.ok else "FAIL", check.name, check.seen, check.fix)
    _print(table)


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:  # rich would cut the rows of a pipe at 80 columns
        console = Console(width=PIPE_COLUMNS)
    console.print(table)
