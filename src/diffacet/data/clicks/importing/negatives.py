"""Sampled negatives: items that a user might have been shown, for logs that only know what was taken."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data.sequences import BoolArray, IntArray
from diffacet.seeds import stream

_ROUNDS = 30
_CELLS = 2**24
"""Cells of the table that the last few draws, which trying again does not serve, are made with."""


def sampled(log: pl.DataFrame, positives: IntArray, n: int, seed: int) -> tuple[pl.DataFrame, int]:
    """For each of `positives`, row numbers of `log`, `n` distinct items at the same time, uniform over what may be.

    That are the items that anyone met before the positive's time and its user did not meet until then, that time
    included. Where fewer than `n` are left, all of them are taken.

    Args:
        log: user_id, item_id, timestamp: everything that everyone met.
        positives: (P,) row numbers.
        n: negatives wanted for each.
        seed: of the draw; the same rows in another order are another draw.

    Returns:
        row (of the positive in `log`), user_id, item_id, timestamp of the negatives; and how many are missing.
    """
    pairs = _Pairs(log)
    who, when = pairs.user[positives], pairs.time[positives]
    seen = np.searchsorted(pairs.first, when, side="left")  # the candidates are items 0..seen-1, by their first time
    left = seen - (pairs.ends(who, when) - pairs.start[who])
    chosen = np.full((n, len(positives)), -1, np.int64)
    for column in range(n):
        active, draw = np.flatnonzero(left > column), stream(seed, "negatives", column)
        for _ in range(_ROUNDS if len(active) else 0):
            item = draw.integers(0, seen[active])
            good = ~pairs.met(who[active], item, when[active]) & ~(chosen[:column, active] == item).any(0)
            chosen[column, active[good]] = item[good]
            active = active[~good]
            if not len(active):
                break
        width = int(seen[active].max()) if len(active) else 0
        for rows in np.array_split(active, len(active) * width // _CELLS + 1):
            allowed = np.arange(width) < seen[rows, None]
            allowed[pairs.until(who[rows], when[rows])] = False
            for before in chosen[:column, rows]:
                allowed[np.arange(len(rows)), before] = False
            counts = allowed.cumsum(1)
            if len(rows):
                chosen[column, rows] = (counts <= draw.integers(0, counts[:, -1])[:, None]).sum(1)
    place, column_of = np.nonzero(chosen.T >= 0)
    rows = positives[place]
    drawn = {
        "row": pl.Series(rows, dtype=pl.Int64),
        "user_id": log["user_id"].gather(rows),
        "item_id": pairs.items.gather(chosen.T[place, column_of]),
        "timestamp": log["timestamp"].gather(rows),
    }
    return pl.DataFrame(drawn), n * len(positives) - len(rows)


class _Pairs:
    """When each user first met each item; items are numbered by the time when anyone met them first."""

    def __init__(self, log: pl.DataFrame) -> None:
        items = log.group_by("item_id", maintain_order=True).agg(pl.col("timestamp").min())
        items = items.sort("timestamp", maintain_order=True)
        self.items, self.first = items["item_id"], items["timestamp"].to_numpy()
        number = pl.Series(range(len(self.items)), dtype=pl.Int64)
        item = log["item_id"].replace_strict(self.items, number, return_dtype=pl.Int64).to_numpy()
        self.user: IntArray = log["user_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
        self.time: IntArray = log["timestamp"].to_numpy()
        key = self.user * len(self.items) + item
        order = np.lexsort((self.time, key))
        new = np.flatnonzero(np.diff(key[order], prepend=-1))
        self.key, self.since = key[order][new], self.time[order][new]
        # A pair takes a candidate away from its time on; one that brings the item into the world, only after it,
        # since the item was no candidate before. Times are doubled to tell the two.
        owner, thing = np.divmod(self.key, len(self.items))
        moment = 2 * self.since + (self.first[thing] == self.since)
        order = np.lexsort((moment, owner))
        self.owner, self.thing, self.moment = owner[order], thing[order], moment[order]
        self.start: IntArray = np.searchsorted(self.owner, np.arange(self.user.max() + 1))

    def met(self, user: IntArray, item: IntArray, time: IntArray) -> BoolArray:
        """Whether each user had met the item by then."""
        key = user * len(self.items) + item
        place = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
        found: NDArray[np.bool_] = (self.key[place] == key) & (self.since[place] <= time)
        return found

    def ends(self, user: IntArray, time: IntArray) -> IntArray:
        """Where those of the user's pairs end that take a candidate away by then; they begin at `start`."""
        distinct, ranks = np.unique(np.concatenate([self.moment, 2 * time]), return_inverse=True)
        n, width = len(self.moment), len(distinct)
        return np.searchsorted(self.owner * width + ranks[:n], user * width + ranks[n:], side="right")

    def until(self, user: IntArray, time: IntArray) -> tuple[IntArray, IntArray]:
        """(row, item) of everything that is taken away from each row's user by then."""
        count = self.ends(user, time) - self.start[user]
        row = np.repeat(np.arange(len(user)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return row, self.thing[self.start[user][row] + within]


def from_second_on(log: pl.DataFrame) -> IntArray:
    """(P,) the rows of a log, sorted by user and time, but for the first of each user."""
    user = log["user_id"].rank("dense").to_numpy()
    rows: IntArray = np.flatnonzero(np.diff(user.astype(np.int64), prepend=-1) == 0)
    return rows
