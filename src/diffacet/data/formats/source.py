"""What a reader yields, and what it needs for that: files as tables of strings, and the names of their columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import polars as pl


@dataclass(frozen=True)
class RawLog:
    """A log as it was read: nothing filtered, nothing sorted, every row in input order.

    Attributes:
        frame: `user_id` and `item_id` (each Int64 when all its values are whole numbers in plain form, else String),
            `timestamp` (Int64: seconds since 1970 in UTC, or what `notes` says: milliseconds, positions) and, where
            the source has ratings, `rating` (Float64), where it is split, `part` (String: train, valid or test).
        items: one row per described item: `item_id` (dtype as in `frame`), where known `title` (String) and
            `categories` (List of String); None when no item file was read.
        files: the files that were read, in order.
        format: the format they were read as, never "auto".
        rows: the number of rows of `frame`.
        notes: what was decided while reading, in words.
        catalogue: `items` are all items that there are, in their order, and not only descriptions.
    """

    frame: pl.DataFrame
    items: pl.DataFrame | None
    files: tuple[str, ...]
    format: str
    rows: int
    notes: tuple[str, ...]
    catalogue: bool = False


@dataclass(frozen=True)
class Names:
    """The columns of a log; None: to be guessed. `time` and `rating` may be "none": not to be read.

    `form` is no column: how the times are written, if neither as numbers nor in ISO 8601; see `times.parse`.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    form: str | None = None

    def over(self, other: "Names") -> "Names":
        """These names, and those of `other` where this has none."""
        return Names(**{f.name: getattr(self, f.name) or getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True)
class Block:
    """The rows of one file and `row`: index in `frame` -> row number in the file, from 1, the header counted."""

    frame: pl.DataFrame
    row: Callable[[int], int]


class Table(Protocol):
    """A file that can be read as columns; nothing but its head is read before `read`."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns."""

    def read(self, columns: Sequence[str]) -> Block:
        """Those columns (String, or the file's own types where it has some); raises BadLog."""


@dataclass(frozen=True)
class Items:
    """Item descriptions before ids are matched: `item_id` String, where known `title`, `categories`; and their file."""

    frame: pl.DataFrame
    path: Path


@dataclass(frozen=True)
class Source:
    """What a format makes of its files.

    Attributes:
        tables: the files of the log, in order.
        names: what their columns are called in this format.
        items: reads the item descriptions that lie beside the log; None: there are none.
        notes: what was decided while choosing files.
        drop_timeless: rows without a time are a known gap of this data set: they are dropped and counted.
        parts: where the files are a split, the part of each of their rows, one after another.
        catalogue: the items that lie beside the log are all that there are, in their order.
    """

    tables: tuple[Table, ...]
    names: Names = Names()
    items: Callable[[], Items] | None = None
    notes: tuple[str, ...] = ()
    drop_timeless: bool = False
    parts: pl.Series | None = None
    catalogue: bool = False
