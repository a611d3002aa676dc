"""A partition's rows out of all spill files: ids become numbers, and rows stand in canonical order."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from diffacet.data.sequences import BoolArray, IntArray
from diffacet.data.streaming import catalogue, ordering, spill
from diffacet.data.streaming.coding import coded
from diffacet.data.streaming.ordering import FloatArray

COARSE = (1, 10**3)
"""Units of time that are tried instead of a finer one: seconds, milliseconds."""


@dataclass(frozen=True)
class Sorting:
    """The task.

    Attributes:
        number: of the partition.
        segments: where its rows lie, in the order in which they were read.
        unit: the finest unit of times in the log.
        whole: whether ids of users, of items, are Int64; else String.
        items: the file by which items are found, see `catalogue.write`.
        folder: where the sorted rows go.
    """

    number: int
    segments: tuple[spill.Segment, ...]
    unit: int
    whole: tuple[bool, bool]
    items: Path
    folder: Path


@dataclass(frozen=True)
class Sorted:
    """A sorted partition.

    Attributes:
        number: of the partition.
        rows, users: how many it has.
        path: the rows: user (Int32, from 0 in this partition), item (Int32, its place from 0 by raw counts), time
            (Int64), maybe rating (Float64); None where there are none.
        ids: the file of the users' ids, by number.
        ties: rows that have the time of an earlier row of their user.
        repeats: rows that have the item, too.
        lost: by coarser unit: rows whose time would become that of an earlier row of their user.
        ranks: by unit: whether each user's times are 0, 1, 2, ...
    """

    number: int
    rows: int = 0
    users: int = 0
    path: Path | None = None
    ids: Path | None = None
    ties: int = 0
    repeats: int = 0
    lost: tuple[tuple[int, int], ...] = ()
    ranks: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True)
class Columns:
    """Sorted rows as arrays of int64 and float64; see `Sorted.path`."""

    user: IntArray
    item: IntArray
    time: IntArray
    rating: FloatArray | None

    def taken(self, rows: IntArray | BoolArray) -> "Columns":
        """Some of the rows, or all in another order."""
        rating = None if self.rating is None else self.rating[rows]
        return Columns(self.user[rows], self.item[rows], self.time[rows], rating)

    def begins(self) -> BoolArray:
        """(n,) whether a row is the first of its user."""
        return _differs(self.user)

    def repeats(self) -> BoolArray:
        """(n,) whether a row has user, time and item of the row before it."""
        return ~(_differs(self.user) | _differs(self.time) | _differs(self.item))


def read(path: Path | None) -> Columns:
    """The rows that `sort` wrote."""
    if path is None:
        empty = np.zeros(0, np.int64)
        return Columns(empty, empty, empty, None)
    frame = pl.read_ipc(path)
    user, item = (frame[name].to_numpy().astype(np.int64) for name in ("user", "item"))
    rating = frame["rating"].to_numpy() if "rating" in frame.columns else None
    return Columns(user, item, frame["time"].to_numpy(), rating)


def sort(task: Sorting) -> Sorted:
    """Number a partition's ids and sort its rows. Raises BadLog, OSError."""
    if not task.segments:
        return Sorted(task.number)
    users, items = (pl.Int64() if whole else pl.String() for whole in task.whole)
    frame = spill.gather(task.segments, task.unit, users=users, items=items)
    ids, user = _users(frame["user"])
    distinct, codes = coded(frame["item"])
    item = catalogue.numbers(distinct, task.items)[codes]
    rating = frame["rating"].to_numpy() if "rating" in frame.columns else None
    timed = "time" in frame.columns
    time = frame["time"].to_numpy() if timed else np.arange(len(user))  # the order in which they were read
    del frame, codes
    rows = Columns(user, item, time, rating).taken(ordering.canonical(user, time, item, rating))
    if not timed:
        rows = Columns(rows.user, rows.item, _positions(rows.begins()), rows.rating)
    path, named = (task.folder / f"{what}-{task.number:05}.arrow" for what in ("rows", "users"))
    columns = {"user": pl.Series(rows.user, dtype=pl.Int32), "item": pl.Series(rows.item, dtype=pl.Int32)}
    columns["time"] = pl.Series(rows.time)
    if rows.rating is not None:
        columns["rating"] = pl.Series(rows.rating)
    with spill.placed(path) as place:
        pl.DataFrame(columns).write_ipc(place)
    with spill.placed(named) as place:
        pl.DataFrame({"user": ids}).write_ipc(place)
    return _told(task, rows, len(ids), path, named)


def _users(column: pl.Series) -> tuple[pl.Series, IntArray]:
    """(the distinct ids by hash, the number of each row's)."""
    ids, codes = coded(column)
    order = ordering.by_hash(ids)
    number = np.empty(len(ids), np.int64)
    number[order] = np.arange(len(ids))
    return ids.gather(order), number[codes]


def _told(task: Sorting, rows: Columns, users: int, path: Path, ids: Path) -> Sorted:
    begins, moves = rows.begins(), _differs(rows.time)
    position = _positions(begins)
    coarse = {unit: rows.time // (task.unit // unit) for unit in COARSE if unit < task.unit}
    lost = tuple((unit, int((~begins & moves & ~_differs(time)).sum())) for unit, time in coarse.items())
    every = {task.unit: rows.time, **coarse}
    ranks = tuple((unit, bool((time == position).all())) for unit, time in every.items())
    ties, repeats = int((~begins & ~moves).sum()), int(rows.repeats().sum())
    return Sorted(task.number, len(position), users, path, ids, ties, repeats, lost, ranks)


def _differs(values: IntArray) -> BoolArray:
    """(n,) whether a value is another than the one before it; the first one is."""
    return np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]


def _positions(begins: BoolArray) -> IntArray:
    """(n,) the place of a row among those since the last beginning."""
    row = np.arange(len(begins))
    return row - np.maximum.accumulate(np.where(begins, row, 0))
