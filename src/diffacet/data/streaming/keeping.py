"""Which rows of a partition filters leave, and what is left of it: repeats, ratings, users with too few rows.

The filters are those of `diffacet.data.filters`. What they ask of a user is seen in one partition; what they ask of an
item needs all, so the items that stay are told as a mask, and a pass over all partitions counts anew.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffacet.data.sequences import BoolArray, IntArray
from diffacet.data.streaming import sorting, spill
from diffacet.data.streaming.sorting import Columns


@dataclass(frozen=True)
class Least:
    """Items of the mask in the file `items` (N,) bool stay, then users with at least `count` rows on these."""

    count: int
    items: Path


@dataclass(frozen=True)
class Rule:
    """What stays: see `kept`; each step sees what the one before it left.

    Attributes:
        distinct: of rows that repeat user, item and time the first in canonical order.
        rating: rows rated this much or more; None: all.
        least: minimum counts, one after another.
    """

    distinct: bool = False
    rating: float | None = None
    least: tuple[Least, ...] = ()


@dataclass(frozen=True)
class Counting:
    """The task: what `rule` leaves of the sorted partition in `path`; item counts go into the folder."""

    number: int
    path: Path | None
    rule: Rule
    folder: Path


@dataclass(frozen=True)
class Counted:
    """What is left of a partition.

    Attributes:
        number: of the partition.
        rows, users: how many.
        counts: a file: items (m,), those with a row, and how many rows each has (m,).
        most: rows of the busiest user, before users with too few left.
        ratings: lowest and highest rating before those too low left; None where there are none.
    """

    number: int
    rows: int
    users: int
    counts: Path
    most: int
    ratings: tuple[float, float] | None


def kept(rows: Columns, rule: Rule) -> tuple[BoolArray, int]:
    """((n,) bool, the rows that stay, and how many rows the busiest user had before the last minimum)."""
    stay = ~rows.repeats() if rule.distinct else np.ones(len(rows.user), np.bool_)
    if rule.rating is not None and rows.rating is not None:
        stay &= rows.rating >= rule.rating
    users, most = int(rows.user[-1]) + 1 if len(rows.user) else 0, 0
    for least in rule.least:
        stay &= np.load(least.items, mmap_mode="r")[rows.item]
        each = np.bincount(rows.user[stay], minlength=users)
        most = int(each.max(initial=0))
        stay &= (each >= least.count)[rows.user]
    return stay, most


def count(task: Counting) -> Counted:
    """What a rule leaves of a partition. Raises BadLog, OSError."""
    rows = sorting.read(task.path)
    stay, most = kept(rows, task.rule)
    left = rows.taken(stay)
    each = np.bincount(left.item)
    items = np.flatnonzero(each)
    path = task.folder / f"left-{task.number:05}.npy"
    with spill.placed(path) as place, place.open("wb") as file:
        np.save(file, np.stack([items, each[items]]))
    spread = None
    if rows.rating is not None and len(rows.rating):
        seen = rows.rating[kept(rows, Rule(task.rule.distinct))[0]]
        spread = (float(seen.min()), float(seen.max()))
    return Counted(task.number, len(left.user), int(left.begins().sum()), path, most, spread)


def total(some: list[Counted], items: int) -> IntArray:
    """(N,) how often each of so many items is left in all partitions."""
    counts = np.zeros(items, np.int64)
    for one in some:
        found, each = np.load(one.counts)
        counts[found] += each
    return counts
