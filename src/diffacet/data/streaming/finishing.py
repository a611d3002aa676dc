"""A partition as it is in the data directory: numbered over the whole log, written, and measured."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from diffacet.arrays import distinct
from diffacet.data import partitions
from diffacet.data.streaming import keeping, ordering, sorting
from diffacet.data.streaming.sorting import Columns


@dataclass(frozen=True)
class Finishing:
    """The task.

    Attributes:
        number: of the partition.
        path, ids: its sorted rows and its users' ids; None where it has none.
        rule: what stays of it.
        items: a file (N,) of each item's final number from 1, 0 for one that left; None: the sorted rows' places are
            final.
        n_items: the number of items in the end.
        first_user: users of the partitions before it, in the end.
        coarse: ticks of the sorted rows' times in one of the final unit.
        rated: whether the log has ratings.
        whole: whether ids of users are Int64; else String.
        folder: the data directory that is being made.
    """

    number: int
    path: Path | None
    ids: Path | None
    rule: keeping.Rule
    items: Path | None
    n_items: int
    first_user: int
    coarse: int
    rated: bool
    whole: bool
    folder: Path


@dataclass(frozen=True)
class Finished:
    """Figures of a finished partition.

    Attributes:
        number: of the partition.
        rows, users, pairs: how many; pairs are distinct ones of user and item.
        per_user: (rows, users that have so many), ascending.
        times: first and last; None where there is no row.
    """

    number: int
    rows: int
    users: int
    pairs: int
    per_user: tuple[tuple[int, int], ...]
    times: tuple[int, int] | None


def finish(task: Finishing) -> Finished:
    """Write a partition's files and say how large it is. Raises BadLog, OSError."""
    rows = sorting.read(task.path)
    every = task.rule == keeping.Rule()
    if not every:
        rows = rows.taken(keeping.kept(rows, task.rule)[0])
    begins = rows.begins()
    there, number = rows.user[begins], np.cumsum(begins) - 1
    item = rows.item + 1 if task.items is None else np.load(task.items, mmap_mode="r")[rows.item]
    rows = Columns(number, item, rows.time // task.coarse if task.coarse > 1 else rows.time, rows.rating)
    if task.items is not None:
        rows = rows.taken(ordering.canonical(rows.user, rows.time, rows.item, rows.rating))
    each = np.bincount(rows.user, minlength=len(there))
    ids = (
        pl.Series("user", [], pl.Int64 if task.whole else pl.String)
        if task.ids is None
        else pl.read_ipc(task.ids)["user"]
    )
    users = pl.DataFrame(
        {"user_id": ids if every else ids.gather(there), "interactions": pl.Series(each, dtype=pl.Int64)}
    )
    partitions.write_partition(task.folder, task.number, users, _frame(rows, task))
    sizes, many = np.unique(each, return_counts=True)
    pairs = len(distinct(rows.user * (task.n_items + 1) + rows.item))
    times = (int(rows.time.min()), int(rows.time.max())) if len(rows.time) else None
    spread = tuple(zip(sizes.tolist(), many.tolist(), strict=True))
    return Finished(task.number, len(rows.user), len(there), pairs, spread, times)


def _frame(rows: Columns, task: Finishing) -> pl.DataFrame:
    columns = {
        "user": pl.Series(rows.user + task.first_user, dtype=pl.Int64),
        "item": pl.Series(rows.item, dtype=pl.Int32),
        "timestamp": pl.Series(rows.time, dtype=pl.Int64),
    }
    if task.rated:
        rating = np.zeros(0) if rows.rating is None else rows.rating
        columns["rating"] = pl.Series(rating, dtype=pl.Float64)
    return pl.DataFrame(columns)
