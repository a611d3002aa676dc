"""The rows of one block, cast and checked as the readers of whole logs do it."""

from dataclasses import dataclass, replace

import polars as pl

from diffacet.data.formats import times, values
from diffacet.data.formats.columns import NONE
from diffacet.data.formats.delimited import shorten
from diffacet.data.formats.source import Block, Names
from diffacet.errors import BadLog

_PLAIN = 10**18  # whole numbers below are plain as text, too: see `values.numbered`


@dataclass(frozen=True)
class Kind:
    """What is known of a column of ids.

    Attributes:
        whole: its type was integer everywhere.
        plain: every id is, as text, a whole number in plain form.
    """

    whole: bool = True
    plain: bool = True

    @property
    def numbers(self) -> bool:
        """Whether the ids are Int64 in the end, as `values.numbered` decides it for all rows together."""
        return self.whole or self.plain

    def __and__(self, other: "Kind") -> "Kind":
        """Of the rows of both."""
        return Kind(self.whole and other.whole, self.plain and other.plain)


@dataclass(frozen=True)
class Rows:
    """Cast rows.

    Attributes:
        frame: user and item (each Int64 where all values of the block allow it, else String), time (Int64; not
            there when there are none), maybe rating (Float64).
        unit: ticks of `time` a second.
        user, item: what is known of the ids.
        dropped: rows without a time that were dropped.
    """

    frame: pl.DataFrame
    unit: int
    user: Kind
    item: Kind
    dropped: int


@dataclass(frozen=True)
class First:
    """The first time of a file, as it stands there, and its row: they say how all others are read."""

    value: pl.Series
    row: int


def wanted(found: Names) -> list[str]:
    """The columns of a log that are read."""
    timed = [] if found.time in (None, NONE) else [found.time]
    return [name for name in (found.user, found.item, *timed, found.rating) if name]


def first_time(block: Block, found: Names) -> First | None:
    """The first time in `block`; None where there is none, or times are not read."""
    if found.time in (None, NONE):
        return None
    column = block.frame[found.time]
    there = column.is_not_null().arg_max()
    return None if there is None or column[there] is None else First(column[there : there + 1], block.row(there))


def cast(block: Block, path: object, found: Names, *, drop_timeless: bool, first: First | None) -> Rows:
    """The rows of `block`, which is of the file `path`, with columns `found`; raises BadLog with file and row.

    `first` is the first time of the file. It decides, as for a whole file, whether times are numbers or dates, and no
    block may have another unit.
    """
    user, item, time, rating = found.user or "", found.item or "", found.time or "", found.rating
    timed = time != NONE
    frame, dropped, kept = block.frame, 0, None
    if drop_timeless and timed:
        kept = frame[time].is_not_null().arg_true()
        dropped, frame = frame.height - len(kept), frame[kept]

    def where(index: int) -> str:
        return f"{path}, row {block.row(int(kept[index]) if kept is not None else index)}"

    users, user_kind = _ids(values.ids(frame[user], where, user))
    items, item_kind = _ids(values.ids(frame[item], where, item))
    columns, unit = [users.alias("user"), items.alias("item")], 1
    if timed:
        read = _times(frame[time], where, found, path, first)
        columns.append(read.values.alias("time"))
        unit = read.unit
    if rating:
        columns.append(values.ratings(frame[rating], where, rating).alias("rating"))
    return Rows(pl.DataFrame(columns), unit, user_kind, item_kind, dropped)


def _ids(column: pl.Series) -> tuple[pl.Series, Kind]:
    whole = column.dtype.is_integer()
    (found,) = values.numbered(column)
    plain = found.dtype == pl.Int64
    if whole and len(found):
        plain = bool(((found < _PLAIN) & (found > -_PLAIN)).all())
    return found, Kind(whole, plain)


def _times(column: pl.Series, where: times.Where, found: Names, path: object, first: First | None) -> times.Times:
    """The times, read as in the file that begins with `first`; raises BadLog."""
    name, form = found.time or "", found.form
    if first is None or not len(column):
        return times.parse(column, where, name, form=form)
    both = pl.concat([first.value.alias(""), column.alias("")])
    read = times.parse(both, lambda i: where(i - 1) if i else f"{path}, row {first.row}", name, form=form)
    alone = times.parse(first.value, lambda _: f"{path}, row {first.row}", name, form=form)
    if int(read.values[0]) * alone.unit != int(alone.values[0]) * read.unit:
        size = read.values[1:].abs()
        index = size.arg_max() or 0
        raise BadLog(
            f"{where(index)}: column '{name}': {shorten(column[index])} is in a finer unit than "
            f"{shorten(first.value[0])} in row {first.row}; give all in one unit, or drop the row"
        )
    return replace(read, values=read.values[1:])
