"""The contents that lookups join a DataFrame with: those its log names, and else the files as they are now.

Invariant: what the log says of a table is what is joined, whatever its file says by now.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from polars.exceptions import PolarsError

from pipeline.core.definitions import Config
from pipeline.core.frame_log import FrameLog
from pipeline.core.process import prepare
from pipeline.core.programs import Program
from pipeline.core.steps import tables_of
from pipeline.core.table_names import TableError, content_hash
from pipeline.core.tables import Contents, Table, decode
from pipeline.core.twin import Compute
from pipeline.errors import FrameError
from pipeline.runtime.table_announcing import table_content


@dataclass(frozen=True, slots=True)
class Joined:
    """What programs join with: contents by hash, and the hash of the file of each table that some partition does not
    name."""

    contents: Contents
    files: Mapping[str, str]

    @classmethod
    def of(cls, config: Config, programs: Iterable[Program], log: FrameLog) -> Joined:
        """Gather what programs join with.

        Raises:
            FrameError: a content is damaged, or is not there: neither in the frame nor in the file of its table.
        """
        tables = {table for program in programs for table in tables_of(program.steps)}
        named = {row: reload for row, reload in log.reloads.items() if reload[0] in tables}
        said = {(int(log.partitions[row]), table) for row, (table, _) in named.items()}
        contents = {each: _brought(each, log.contents[each]) for _, each in named.values() if each in log.contents}
        files: dict[str, str] = {}
        for table in sorted(tables):
            lacking = {each for name, each in named.values() if name == table} - contents.keys()
            if not lacking and all((number, table) in said for number in log.partition_numbers()):
                continue
            content = _of_file(config, table)
            files[table] = content_hash(content)
            contents[files[table]] = decode(content)
            if lacking - {files[table]}:
                raise FrameError(
                    f"the log joins with a content of {table} that is not the one its file has now, and the DataFrame "
                    "does not bring it: the column _content of client.raw does"
                )
        return cls(contents, files)

    def computing(self, program: Program) -> Compute:
        """The computation of a program, joined with these contents."""
        return lambda batch, before: prepare(program, batch, before, self.contents)


def _brought(named: str, text: str) -> Table:
    try:
        content = base64.b64decode(text, validate=True)
        if content_hash(content) == named:
            return decode(content)
        why = "it is not the content of its _hash"
    except (binascii.Error, ValueError, PolarsError) as error:
        why = str(error)
    raise FrameError(f"column '_content': the content of {named} is damaged: {why}")


def _of_file(config: Config, table: str) -> bytes:
    try:
        return table_content(config, table)
    except TableError as error:
        raise FrameError(f"the rows are joined with a lookup table as its file is now: {error}") from error
