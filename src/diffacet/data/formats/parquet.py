"""Parquet files: columns with their own types."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from diffacet.data.formats.source import Block
from diffacet.errors import BadLog


@dataclass(frozen=True)
class Parquet:
    """A Parquet file; rows are counted from 1."""

    path: Path
    columns: tuple[str, ...]

    def read(self, columns: Sequence[str]) -> Block:
        """`columns` with the types of the file; raises BadLog when it is damaged or has no rows."""
        try:
            frame = pl.read_parquet(self.path, columns=list(dict.fromkeys(columns)))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _damaged(self.path, error) from error
        if frame.height == 0:
            raise BadLog(f"{self.path} has columns but no rows; a log needs at least one")
        return Block(frame, lambda i: i + 1)

    def rows(self) -> int:
        """How many rows it has, by its footer; raises BadLog when it is damaged."""
        try:
            return int(pl.scan_parquet(self.path).select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _damaged(self.path, error) from error

    def part(self, columns: Sequence[str], start: int, rows: int) -> Block:
        """`columns` of `rows` rows from row `start` (from 0) on; of the file no more is read than their row groups."""
        wanted = pl.scan_parquet(self.path).select(list(dict.fromkeys(columns))).slice(start, rows)
        try:
            return Block(wanted.collect(), lambda i: start + i + 1)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _damaged(self.path, error) from error


def with_schema(path: Path) -> Parquet:
    """The table of a Parquet file; raises BadLog when it is none."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PAR1":
                raise BadLog(
                    f"{path} is not a Parquet file (it does not start with PAR1); "
                    "write it anew, or pass --format csv or jsonl if it is text"
                )
        return Parquet(path, tuple(pl.read_parquet_schema(path)))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BadLog:
    return BadLog(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); copy or write it again")
