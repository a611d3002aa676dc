"""Sequences that are read by ranges of users: from memory, or from partitions on a disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diffacet.data.sequences import BoolArray, IntArray, Sequences

TOGETHER = 2**18
"""Interactions that are read together where some users are wanted and those between them are not, about."""


class Users(Protocol):
    """The sequences of users 0..U - 1, of whom some are read at a time; `Partitions` is one."""

    def lengths(self) -> IntArray:
        """(U,) int64, the number of items of each sequence."""

    def sequences(self, first: int, last: int) -> Sequences:
        """The sequences of the users `first`..`last` - 1; raises ValueError when these are not all there."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """Sequences in memory, read as those of partitions are; user u is row u.

    Attributes:
        whole: the sequences.
    """

    whole: Sequences

    def lengths(self) -> IntArray:
        """(U,) int64, the number of items of each sequence."""
        return self.whole.lengths()

    def sequences(self, first: int, last: int) -> Sequences:
        """The rows `first`..`last` - 1, not copied; raises ValueError when these are not all there."""
        if not 0 <= first <= last <= len(self.whole):
            raise ValueError(f"users lie in 0..{len(self.whole) - 1}; got {first}..{last - 1}")
        offsets = self.whole.offsets[first : last + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        times = None if self.whole.times is None else self.whole.times[rows]
        return Sequences(self.whole.items[rows], offsets - offsets[0], self.whole.users[first:last], times)


@dataclass(frozen=True, eq=False)
class Beginnings:
    """The beginnings of users' sequences, read by ranges of users.

    Attributes:
        source: the users with their whole sequences.
        counts: (U,) int64 how many items of each user's sequence are its beginning; 0: the user is left out.
    """

    source: Users
    counts: IntArray

    def read(self, first: int, last: int, wanted: BoolArray | None = None) -> Sequences:
        """The beginnings of those of the users `first`..`last` - 1 who have one, in order.

        wanted: (last - first,) bool, of whom no others are read out; None: everyone.
        """
        counts = self.counts[first:last]
        chosen = counts > 0 if wanted is None else wanted & (counts > 0)
        rows = np.flatnonzero(chosen)
        return self.source.sequences(first, last).take(rows).head(counts[rows])


def taken(source: Users, users: IntArray, lengths: IntArray) -> Sequences:
    """The whole sequences of `users` (B,), all different, in that order; of `source` little more is read.

    `lengths` (U,) are those of all users. Users who lie close together are read at once, with those between them.
    """
    order = np.argsort(users)
    ascending = users[order]
    groups = (np.cumsum(lengths) - lengths)[ascending] // TOGETHER
    ends = [*np.flatnonzero(groups[1:] != groups[:-1]) + 1, len(users)]
    parts, begin = [], 0
    for end in ends if len(users) else []:
        mine = ascending[begin:end]
        first = int(mine[0])
        parts.append(source.sequences(first, int(mine[-1]) + 1).take(mine - first))
        begin = end
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return joined(parts).take(back)


def joined(parts: Sequence[Sequences]) -> Sequences:
    """The sequences of `parts` one after another, with times if all of them have; one part is not copied."""
    if len(parts) == 1:
        return parts[0]
    return filled(parts, sum(map(len, parts)), sum(len(part.items) for part in parts))


def filled(parts: Iterable[Sequences], users: int, rows: int) -> Sequences:
    """As `joined`, of parts that have so many users and items together; of these one is in memory at a time."""
    items, times, numbers = (np.empty(size, np.int64) for size in (rows, rows, users))
    offsets, timed, user, row = np.zeros(users + 1, np.int64), True, 0, 0
    for part in parts:
        ends = user + len(part), row + len(part.items)
        items[row : ends[1]], numbers[user : ends[0]] = part.items, part.users
        offsets[user + 1 : ends[0] + 1] = part.offsets[1:] + row
        if part.times is None:
            timed = False
        else:
            times[row : ends[1]] = part.times
        user, row = ends
    return Sequences(items, offsets, numbers, times if timed else None)
