"""Which users of a log a file names: one id a line, or a column user_id of a CSV or Parquet file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from diffacet.data.formats import delimited, parquet, raw
from diffacet.data.ids import Ids
from diffacet.data.sequences import IntArray
from diffacet.errors import BadLog

COLUMN = "user_id"
_SHOWN = 5


def chosen(path: Path, users: Ids, data: Path) -> IntArray:
    """The users that `path` names, in its order, each once: (m,) int64 numbers.

    Args:
        path: a Parquet file, or text, plain or gzip; its first line may name the columns, of which user_id counts.
        users: of the log.
        data: its directory, for messages.

    Raises:
        BadLog: the file cannot be read, has no such column or no id, or names a user that the log has not.
    """
    ids, row = _read(path)
    if ids.null_count():
        empty = int(ids.is_null().arg_max() or 0)
        raise BadLog(f"{path}, row {row(empty)}: {COLUMN} is missing; complete or remove the row")
    if not (ids.dtype.is_integer() or ids.dtype == pl.Utf8):
        raise BadLog(f"{path}: {COLUMN} must hold integers or strings, not {ids.dtype}; cast it")
    numbers = users.find(ids)
    unknown = np.flatnonzero(numbers < 0)
    if len(unknown):
        named = ", ".join(f"{ids[place]} (row {row(place)})" for place in unknown[:_SHOWN].tolist())
        more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
        examples = ", ".join(users.values.head(3).cast(pl.Utf8))
        raise BadLog(f"{path} names users that {data} has not: {named}{more}; its ids look like {examples}")
    return pl.Series(numbers).unique(maintain_order=True).to_numpy()


def _read(path: Path) -> tuple[pl.Series, Callable[[int], int]]:
    """The ids of a file, and the row of the file in which each stands."""
    if path.suffix.lower() in (".parquet", ".pq"):
        table = parquet.with_schema(path)
        _need(path, table.columns)
        block = table.read([COLUMN])
        return block.frame[COLUMN], block.row
    _, names, _ = delimited.header(path)
    if COLUMN in names:
        block = delimited.with_header(path).read([COLUMN])
        return block.frame[COLUMN], block.row
    if len(names) > 1 and not path.name.removesuffix(".gz").endswith(".txt"):
        _need(path, names)
    return _lines(path)


def _need(path: Path, names: tuple[str, ...]) -> None:
    if COLUMN not in names:
        raise BadLog(f"{path} has no column '{COLUMN}'; it has {', '.join(names[:30])}")


def _lines(path: Path) -> tuple[pl.Series, Callable[[int], int]]:
    data = raw.read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    try:
        lines = [line.strip() for line in data.decode().split("\n")]
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise delimited.not_utf8(path, row, error.start, data[error.start]) from error
    rows = [number for number, line in enumerate(lines, 1) if line]
    return pl.Series([lines[row - 1] for row in rows], dtype=pl.Utf8), lambda place: rows[place]
