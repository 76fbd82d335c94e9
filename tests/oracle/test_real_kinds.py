"""Every kind of window with every aggregate over the real files, through the pure core, equals DuckDB's answer."""

from __future__ import annotations

import csv
from functools import cache
from typing import Any

import pytest

from pipeline.core.programs import compile_programs
from tests.laws.logs import Logged, as_bytes
from tests.line import chunk_fields
from tests.oracle import core_line, duck
from tests.oracle.every_kind import Kind
from tests.oracle.real_files import WEB_LOG, chunks, web_log_events
from tests.oracle.real_kinds import FILES, RealFile

ARRIVAL_MS = 2**45  # long after the newest of them
POSSIBLE = [pytest.param(file, kind, id=f"{file.stream.name}-{kind}") for file in FILES for kind in file.windows]


@cache
def the_log(file: RealFile) -> list[Logged]:
    """The file's lines as one partition's log."""
    log = []
    for number, rows in enumerate(chunks(events_of(file))):
        fields = chunk_fields(rows, [0], position=0, at_ms=ARRIVAL_MS)
        log.append(Logged(f"1700000000000-{number}", as_bytes(fields)))
    return log


def events_of(file: RealFile) -> list[Any]:
    if file.path == WEB_LOG:
        return web_log_events()
    with file.path.open(newline="") as lines:
        return [{"timestamp": row["timestamp"], "value": float(row["value"])} for row in csv.DictReader(lines)]


@pytest.mark.parametrize(("file", "kind"), POSSIBLE)
def test_the_core_gives_duckdbs_answer_over_a_real_file(file: RealFile, kind: Kind) -> None:
    stage, time = file.stage(kind), file.stream.time

    found = core_line.run(compile_programs(file.config())[stage.name], [the_log(file)], [(3, "go on")])

    expected = duck.windows(file.events(), stage, time)
    assert expected
    duck.assert_same_rows(found.rows, expected)
    judgement = duck.judge(file.events(), stage, time)
    assert [(row["time"], row["late_by_ms"]) for row in found.late] == [
        (row["event_ms"], row["late_by_ms"]) for row in judgement.late
    ]
    ledger, account = found.ledger, judgement.account
    assert (ledger.read, ledger.accepted, ledger.late, ledger.partial) == (
        account.read,
        account.accepted,
        account.late,
        account.partial,
    )
