"""Histories of a partitioned data directory, read range by range when they are asked for: memory that does not grow."""

from functools import cached_property

import numpy as np
import polars as pl

from diffacet.data import user_ranges
from diffacet.data.ids import Ids
from diffacet.data.partitions import Partitions
from diffacet.data.sequences import IntArray, Sequences


class ByRange:
    """See `batch_work.Histories`. Users are best asked for in their order, for then they lie together."""

    def __init__(self, partitions: Partitions, items: Ids) -> None:
        """`items` are those of the run."""
        self.users, self.fingerprint = partitions.n_users, partitions.fingerprint
        values = partitions.items().values
        self.examples = values.head(3)
        self._number = np.concatenate([[-1], items.find(values)])
        self.unknown_items = int((self._number[1:] <= 0).sum())
        self._partitions = partitions

    def lengths(self) -> IntArray:
        """(U,) int64, the items of each user that the run knows."""
        if not self.unknown_items:
            return self._whole
        parts = [part for part in self._partitions.parts if part.end > part.first_user]
        return np.concatenate([self._read(part.first_user, part.end) for part in parts])

    def take(self, rows: IntArray) -> Sequences:
        """The histories of the users `rows` (B,), all different, in that order."""
        return self._known(user_ranges.taken(self._partitions, rows, self._whole))

    def ids(self, rows: IntArray) -> pl.Series:
        """The ids (B,) of the users `rows`."""
        owners = np.searchsorted([part.end for part in self._partitions.parts], rows, side="right")
        places, ids = list[IntArray](), list[pl.Series]()
        for owner in np.unique(owners).tolist():
            place = np.flatnonzero(owners == owner)
            first, last = int(rows[place].min()), int(rows[place].max())
            places.append(place)
            ids.append(self._partitions.user_ids(first, last + 1).gather(rows[place] - first))
        return pl.concat(ids).gather(np.argsort(np.concatenate(places)))

    def everybody(self) -> Ids:
        """All users' ids."""
        return Ids(self._partitions.user_ids(0, self.users), 0)

    @cached_property
    def _whole(self) -> IntArray:
        return self._partitions.lengths()

    def _read(self, first: int, end: int) -> IntArray:
        return self._known(self._partitions.sequences(first, end)).lengths()

    def _known(self, found: Sequences) -> Sequences:
        """The items that the run knows, in its numbers."""
        ours = self._number[found.items]
        if not self.unknown_items:
            return Sequences(ours, found.offsets, found.users)
        known = ours > 0
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])
        return Sequences(ours[known], before[found.offsets], found.users)
