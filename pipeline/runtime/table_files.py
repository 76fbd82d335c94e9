"""Files of lookup tables: CSV (all texts) and Parquet, read whole, within bounds, to the columns a lookup can take.

Invariant: one file gives one content, whichever process reads it; what is wrong with it is a `TableError`.
"""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

from pipeline.core.definitions import Config
from pipeline.core.table_names import TableError
from pipeline.runtime.table_places import table_path

MAX_ROWS = 1_000_000  # a join looks keys up in memory, in every worker
MAX_BYTES = 64_000_000  # of the file, and of its content in Redis
KINDS = (".csv", ".parquet")


def read_table(config: Config, table: str) -> pl.DataFrame:
    """The content of a table of a config, as it is in its file now.

    Raises:
        TableError: it cannot be used.
    """
    return read_table_file(table_path(config.folder, table))


def read_table_file(path: Path) -> pl.DataFrame:
    """The content of a file.

    Raises:
        TableError: it is not there, too large, or not what its name says.
    """
    if path.suffix.lower() not in KINDS:
        raise TableError(f"is not a table: a table is a file that ends in {' or '.join(KINDS)}.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TableError(f"cannot be read: {error.strerror}. A relative path starts at the config file.") from error
    if len(data) > MAX_BYTES:
        raise TableError(f"has more than {MAX_BYTES // 10**6} MB. A table is held in memory by every worker.")
    try:
        frame = _csv(data) if path.suffix.lower() == ".csv" else _parquet(data)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise TableError(f"is not a {path.suffix.lower()[1:]} file that can be read: {reason}.") from error
    if len(frame) > MAX_ROWS:
        raise TableError(f"has {len(frame):,} rows; a table has at most {MAX_ROWS:,}.")
    return frame


def _csv(data: bytes) -> pl.DataFrame:
    """All columns as texts, an empty cell as null."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableError(f"is not UTF-8 in line {line}. Save it as UTF-8.") from error
    if not data.strip():
        raise TableError("is empty. Its first line names the columns.")
    return pl.read_csv(io.BytesIO(data), infer_schema=False, null_values=[""])


def _parquet(data: bytes) -> pl.DataFrame:
    """The columns whose type a field can have, as that type; the others are left out."""
    frame = pl.read_parquet(io.BytesIO(data))
    kept = [column for each in frame if (column := _canonical(each)) is not None]
    return pl.DataFrame(kept)


def _canonical(column: pl.Series) -> pl.Series | None:
    seen = column.dtype
    if seen.is_integer():
        return column.cast(pl.Int64)
    if seen.is_float() or seen.is_decimal():
        return column.cast(pl.Float64)
    if isinstance(seen, (pl.String, pl.Categorical, pl.Enum)):
        return column.cast(pl.String)
    if isinstance(seen, pl.Datetime) and seen.time_zone is not None:
        return column.dt.convert_time_zone("UTC").dt.replace_time_zone(None).cast(pl.Datetime("ms"))
    if isinstance(seen, (pl.Datetime, pl.Date)):
        return column.cast(pl.Datetime("ms"))
    return column if seen == pl.Boolean else None
