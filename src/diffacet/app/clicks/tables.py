"""Files of showings, behaviours, items and users for a trained model: CSV or Parquet, under the house's names."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from diffacet.data.clicks.importing import casting, sheets
from diffacet.data.formats import columns as known_columns
from diffacet.errors import BadLog, BadSetting, nearest

TEXT = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
PARQUET = (".parquet", ".pq")
OPTIONS = {"user_id": "--user", "item_id": "--item", "timestamp": "--time"}
"""Columns that a file may call otherwise, with the options that say how."""
_USUAL = {"user_id": sheets.USER, "item_id": sheets.ITEM, "timestamp": sheets.TIME}


@dataclass(frozen=True, eq=False)
class Table:
    """A file of which nothing but the head is read.

    Attributes:
        path: the file.
        frame: its rows with its own column names; text stays text.
        names: the house's name of a column -> the file's.
        first: the row of the file in which the first record stands, counted from 1.
    """

    path: Path
    frame: pl.LazyFrame
    names: Mapping[str, str]
    first: int

    def where(self, before: int = 0) -> Callable[[int], str]:
        """How a message calls row `index` of a block that begins after `before` records."""
        return lambda index: f"{self.path}, row {self.first + before + index}"

    def need(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Raise BadLog for the first of `wanted` (column, what needs it) that the file lacks."""
        for column, use in wanted:
            if column not in self.names:
                how = f"; name it by {OPTIONS[column]} COL" if column in OPTIONS else ""
                raise BadLog(
                    f"{self.path} has no column '{column}'{nearest(column, self.names)}, which is needed ({use}){how}; "
                    f"it has {', '.join(self.names.values())}"
                )

    def read(self, wanted: Iterable[str]) -> pl.DataFrame:
        """Those columns that the file has, under the house's names; raises BadLog when it cannot be read."""
        names = [name for name in dict.fromkeys(wanted) if name in self.names]
        try:
            return self.frame.select(pl.col(self.names[name]).alias(name) for name in names).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise unreadable(self.path, error) from error

    def ours(self, block: pl.DataFrame) -> pl.DataFrame:
        """A block of the file under the house's names."""
        return block.select(pl.col(theirs).alias(ours) for ours, theirs in self.names.items())

    def blocks(self, size: int, folder: Path) -> tuple[int, Iterator[pl.DataFrame]]:
        """The number of records, and the records in order, `size` at a time, under the file's own names.

        Text is first written to `folder` as Parquet, which can be read from any row on. Raises BadLog when the file
        cannot be read.
        """
        try:
            frame = self.frame
            if self.path.suffix.lower() in TEXT:
                frame.sink_parquet(folder / "records.parquet", maintain_order=True)
                frame = pl.scan_parquet(folder / "records.parquet")
            total = int(frame.select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise unreadable(self.path, error) from error
        return total, (frame.slice(begin, size).collect() for begin in range(0, total, size))


def open_table(path: Path, given: Mapping[str, str], keys: Iterable[str]) -> Table:
    """The table in `path`.

    Args:
        path: CSV, TSV or Parquet, by its ending.
        given: the house's name of a column -> the file's, as options say it.
        keys: those of user_id, item_id and timestamp that the file may have; the usual names for them are found.

    Raises:
        BadLog: it is missing, unreadable, or lacks a column of `given` that only it can have.
    """
    ending = path.suffix.lower()
    if ending not in TEXT and ending not in PARQUET:
        raise BadLog(f"{path} ends in '{ending}'; tables are read from {', '.join((*TEXT, *PARQUET))}")
    if not path.is_file():
        raise BadLog(f"{path}: no such file; check the path")
    try:
        if ending in PARQUET:
            frame = pl.scan_parquet(path)
        else:
            frame = pl.scan_csv(path, separator=TEXT[ending], infer_schema=False)
        there = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from error
    names = {name: name for name in there}
    for key in keys:
        asked = given.get(key)
        found = asked if asked in there else known_columns.find(there, [key, *_USUAL[key]])
        if asked is not None and asked not in there and found is None:
            raise BadLog(
                f"{path} has no column '{asked}'{nearest(asked, there)}, which {OPTIONS[key]} names; "
                f"it has {', '.join(there)}"
            )
        if found is not None and found != key:
            names = {ours: theirs for ours, theirs in names.items() if theirs != found and ours != key} | {key: found}
    return Table(path, frame, names, 1 if ending in PARQUET else 2)


def unreadable(path: Path, error: Exception) -> BadLog:
    """The refusal of a file that Polars or the disk refuses."""
    return BadLog(f"{path} cannot be read ({str(error).splitlines()[0]}); copy or write it again")


def cast(
    frame: pl.DataFrame, where: Callable[[int], str], *, keys: Iterable[str], dense: Iterable[str]
) -> pl.DataFrame:
    """`frame` with times in milliseconds, numbers where they are meant, and categories everywhere else.

    Args:
        frame: under the house's names.
        where: how a message calls a row.
        keys: columns that have a value in every row.
        dense: columns of numbers.

    Raises:
        BadLog: a time, a number or a key that is none, with its row.
    """
    made = []
    for column in frame.iter_columns():
        name = column.name
        if isinstance(column.dtype, pl.List):
            made.append(column)
        elif name == "timestamp":
            made.append(casting.milliseconds(column, where).alias(name))
        elif name in dense:
            made.append(casting.numbers(column, where).alias(name))
        else:
            made.append(casting.categories(column, where).alias(name))
    found = pl.DataFrame(made)
    for key in keys:
        casting.refuse(frame[key], found[key].is_null(), where, "is no id", "every row has one; drop the row")
    return found


def check_out(path: Path) -> None:
    """Refuse an output that is neither CSV nor Parquet, or in no folder; raises BadSetting."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise BadSetting(f"--out takes a file that ends in .parquet or .csv; got {path}")
    if path.is_dir() or not path.parent.is_dir():
        raise BadSetting(
            f"--out {path}: {'it is a folder' if path.is_dir() else 'its folder is not there'}; name a file"
        )
