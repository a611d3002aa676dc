"""Raw tables of a click log: one file or several, any form; and which of their columns is what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from diffacet.data.formats import columns
from diffacet.data.formats.delimited import with_header
from diffacet.data.formats.generic import looks_like
from diffacet.data.formats.jsonlines import with_keys
from diffacet.data.formats.parquet import with_schema
from diffacet.data.formats.raw import listing
from diffacet.data.formats.source import Table
from diffacet.errors import BadLog, nearest

USER, ITEM = columns.USER, columns.ITEM
TIME = (*(name for name in columns.TIME if name not in ("position", "rank")), "shown_at")
LABEL = ("label", "clicked", "is_click", "click", "is_clicked", "clk", "y")
TYPE = ("behaviour_type", "behavior_type", "btag", "event_type", "action_type", "action", "event", "type")
GROUP = ("impression_id", "request_id")
CATEGORY = columns.CATEGORIES

_OPEN: dict[str, Callable[[Path], Table]] = {"csv": with_header, "jsonl": with_keys, "parquet": with_schema}


@dataclass(frozen=True, eq=False)
class Rows:
    """Some columns of a table, all files one after another; `where` says which row of which file an index is."""

    frame: pl.DataFrame
    where: Callable[[int], str]


@dataclass(frozen=True, eq=False)
class Sheet:
    """A table of which nothing but the head is read.

    Attributes:
        option: the option that named it, for messages.
        tables: its files, in order.
    """

    option: str
    tables: tuple[Table, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns; every file has them."""
        return self.tables[0].columns

    @property
    def path(self) -> Path:
        """The first file."""
        return self.tables[0].path

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files."""
        return tuple(str(table.path) for table in self.tables)

    def read(self, names: Sequence[str]) -> Rows:
        """Those columns of all files; where files disagree in a type, as text. Raises BadLog."""
        names = list(dict.fromkeys(names))
        blocks = [table.read(names) for table in self.tables]
        frames = [block.frame.select(names) for block in blocks]
        for name in names:
            if len({frame.schema[name] for frame in frames}) > 1:
                frames = [frame.with_columns(pl.col(name).cast(pl.String)) for frame in frames]
        ends = [sum(frame.height for frame in frames[: place + 1]) for place in range(len(frames))]

        def where(index: int) -> str:
            place = next(place for place, end in enumerate(ends) if index < end)
            row = blocks[place].row(index - (ends[place] - frames[place].height))
            return f"{self.tables[place].path}, row {row}"

        return Rows(pl.concat(frames, rechunk=True), where)


def open_sheet(option: str, paths: Sequence[Path]) -> Sheet:
    """The table in `paths` (files, or directories of files); raises BadLog for what is missing or of another form."""
    tables = tuple(_OPEN[looks_like(path)](path) for path in listing(paths))
    for table in tables[1:]:
        for name in tables[0].columns:
            if name not in table.columns:
                raise BadLog(
                    f"{table.path} has no column '{name}'{nearest(name, table.columns)}, which {tables[0].path} has; "
                    f"the files of {option} are one table"
                )
    return Sheet(option, tables)


def find(sheet: Sheet, given: str | None, known: Sequence[str]) -> str | None:
    """The column `given`, also when it is written otherwise (User-ID for user_id); else the first of `known`; or None.

    Where a file lacks the column that was given for another one, its own usual name will do.
    """
    if given is not None and given in sheet.columns:
        return given
    return (columns.find(sheet.columns, [given]) if given else None) or columns.find(sheet.columns, known)


def need(sheet: Sheet, given: str | None, known: Sequence[str], option: str, *, own: bool = True) -> str:
    """The column that `find` gives; raises BadLog when there is none, with the columns that there are.

    `own`: the option speaks of this file, so a name that was given must be there.
    """
    found = find(sheet, given, () if own and given is not None else known)
    if found is not None:
        return found
    there = f"its columns are: {columns.listed(sheet.columns)}"
    if given is not None:
        raise BadLog(
            f"{sheet.path} has no column '{given}'{nearest(given, sheet.columns)}, which {option} names; {there}"
        )
    raise BadLog(
        f"{sheet.path}: no column is named like {known[0]!r}{nearest(known[0], sheet.columns)}; {there}; "
        f"pass {option} COL"
    )
