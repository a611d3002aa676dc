"""Sequences: the items of many users in one flat array, with offsets; oldest first."""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]


def _positions(starts: IntArray, counts: IntArray) -> IntArray:
    """The runs starts[u], starts[u] + 1, ... of counts[u] positions each, one after another: (sum of counts,) int64."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Sequences:
    """U item sequences, oldest item first; row u is items[offsets[u]:offsets[u + 1]].

    Attributes:
        items: (n,) int64 item numbers, 1..N.
        offsets: (U + 1,) int64, from 0 to n, never descending.
        users: (U,) int64 user numbers of the log.
        times: (n,) int64 times of the items, or None.
    """

    items: IntArray
    offsets: IntArray
    users: IntArray
    times: IntArray | None = None

    @classmethod
    def from_rows(cls, rows: IntArray, items: IntArray, times: IntArray | None, n_rows: int) -> "Sequences":
        """Sequences of users 0..n_rows - 1 from flat arrays (n,) that are sorted by `rows`, oldest first in a row."""
        offsets = np.zeros(n_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=n_rows), out=offsets[1:])
        return cls(items, offsets, np.arange(n_rows, dtype=np.int64), times)

    def __len__(self) -> int:
        """U, the number of sequences (not of items)."""
        return len(self.users)

    def lengths(self) -> IntArray:
        """(U,) int64, the number of items of each sequence."""
        return np.diff(self.offsets)

    def row(self, i: int) -> IntArray:
        """The items (len,) int64 of sequence i, oldest first; raises IndexError when there is none."""
        if not 0 <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)}")
        return self.items[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: IntArray) -> "Sequences":
        """The sequences `rows` (B,), in that order (repeats allowed)."""
        return self._gather(rows, self.offsets[rows], self.lengths()[rows])

    def head(self, ends: IntArray) -> "Sequences":
        """Each sequence up to its position ends[u] (U,), which is left out; raises ValueError outside 0..len."""
        self._check(slice(None), ends)
        return self._gather(slice(None), self.offsets[:-1], ends)

    def tail(self, starts: IntArray) -> "Sequences":
        """Each sequence from its position starts[u] (U,) on; raises ValueError outside 0..len."""
        self._check(slice(None), starts)
        return self._gather(slice(None), self.offsets[:-1] + starts, self.lengths() - starts)

    def windows(self, rows: IntArray, ends: IntArray, length: int) -> IntArray:
        """For each b the last `length` items of sequence rows[b] before its position ends[b].

        Args:
            rows: (B,) int64, rows of these sequences.
            ends: (B,) int64, positions 0..len within them; the item at the position is left out.
            length: L, the width of the answer.

        Returns:
            (B, L) int64, a new array: oldest item first, padded with 0 on the right.

        Raises:
            ValueError: an end lies outside its sequence.
            IndexError: a row does not exist.
        """
        return self._window(self.items, rows, ends, length)

    def window_times(self, rows: IntArray, ends: IntArray, length: int) -> IntArray | None:
        """The times of what `windows` gives, (B, L) int64, 0 at padding; None without times."""
        return None if self.times is None else self._window(self.times, rows, ends, length)

    def steps(self, first: int = 1) -> tuple["Prefixes", "Sequences"]:
        """Every item from position `first` on, 0-based, as the one item of a row of its own, and what is before it.

        Sequence by sequence, oldest item first: as many rows as there are such items.
        """
        counts = np.maximum(self.lengths() - first, 0)
        rows = np.repeat(np.arange(len(self), dtype=np.int64), counts)
        return self._followed(rows, _positions(np.full(len(self), first, dtype=np.int64), counts))

    def last_steps(self) -> tuple["Prefixes", "Sequences"]:
        """The last item of each sequence of two or more, in a row of its own, and what is before it."""
        lengths = self.lengths()
        rows = np.flatnonzero(lengths >= 2)
        return self._followed(rows, lengths[rows] - 1)

    def last(self, rows: IntArray, length: int) -> IntArray:
        """The last `length` items of the sequences `rows` (B,): (B, length) int64, padded with 0 on the right."""
        return self.windows(rows, self.lengths()[rows], length)

    def last_times(self, rows: IntArray, length: int) -> IntArray | None:
        """The times of what `last` gives, (B, length) int64, 0 at padding; None without times."""
        return self.window_times(rows, self.lengths()[rows], length)

    def _window(self, flat: IntArray, rows: IntArray, ends: IntArray, length: int) -> IntArray:
        """(B, L) the last `length` entries of `flat` (n,) before position ends[b] of sequence rows[b]; then 0."""
        self._check(rows, ends)
        counts = np.minimum(ends, length)
        starts = self.offsets[rows] + ends - counts  # (B,)
        steps = np.arange(length, dtype=np.int64)
        if not len(flat):
            return np.zeros((len(rows), length), dtype=np.int64)
        window = flat.take(starts[:, None] + steps, mode="clip")  # (B, L)
        window[steps >= counts[:, None]] = 0
        return window

    def _followed(self, rows: IntArray, ends: IntArray) -> tuple["Prefixes", "Sequences"]:
        """The beginnings up to ends[c] of rows[c], and the items there, one a row."""
        at = self.offsets[rows] + ends
        times = None if self.times is None else self.times[at]
        items = Sequences(self.items[at], np.arange(len(at) + 1, dtype=np.int64), self.users[rows], times)
        return Prefixes(self, rows, ends), items

    def _check(self, rows: IntArray | slice, ends: IntArray) -> None:
        lengths = self.offsets[1:][rows] - self.offsets[:-1][rows]
        if ((ends < 0) | (ends > lengths)).any():
            raise ValueError("a position lies outside its sequence")

    def _gather(self, rows: IntArray | slice, starts: IntArray, counts: IntArray) -> "Sequences":
        flat = _positions(starts, counts)
        offsets = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        times = None if self.times is None else self.times[flat]
        return Sequences(self.items[flat], offsets, self.users[rows], times)


@dataclass(frozen=True, eq=False)
class Prefixes:
    """C beginnings of sequences, read like sequences of their own, but not copied: that would be quadratic.

    Beginning c is what stands before position ends[c] of sequence rows[c].

    Attributes:
        base: the whole sequences.
        rows: (C,) int64 rows of `base`.
        ends: (C,) int64, 0..len.

    Raises:
        ValueError: an end lies outside its sequence.
    """

    base: Sequences
    rows: IntArray
    ends: IntArray

    def __post_init__(self) -> None:
        """Refuse ends that there are not."""
        self.base._check(self.rows, self.ends)

    def __len__(self) -> int:
        """C, the number of beginnings."""
        return len(self.rows)

    @cached_property
    def users(self) -> IntArray:
        """(C,) int64 user numbers of the log; a user comes as often as it has beginnings."""
        return self.base.users[self.rows]

    def lengths(self) -> IntArray:
        """(C,) int64, the number of items of each."""
        return self.ends

    def row(self, i: int) -> IntArray:
        """The items (len,) int64 of beginning i, oldest first; raises IndexError when there is none."""
        if not 0 <= i < len(self):
            raise IndexError(f"beginning {i} of {len(self)}")
        return self.base.row(int(self.rows[i]))[: self.ends[i]]

    def last(self, rows: IntArray, length: int) -> IntArray:
        """The last `length` items of the beginnings `rows` (B,): (B, length) int64, padded with 0 on the right."""
        return self.base.windows(self.rows[rows], self.ends[rows], length)

    def last_times(self, rows: IntArray, length: int) -> IntArray | None:
        """The times of what `last` gives, (B, length) int64, 0 at padding; None without times."""
        return self.base.window_times(self.rows[rows], self.ends[rows], length)

    def copied(self) -> Sequences:
        """The beginnings as sequences of their own."""
        return self.base._gather(self.rows, self.base.offsets[self.rows], self.ends)
