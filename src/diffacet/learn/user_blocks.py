"""Training users in random order, out of a log that is not in memory.

A block is a run of consecutive users. In each epoch the blocks come in a fresh order, some of them make a buffer, and
a buffer's users come in a random order of their own: every user once an epoch. All orders depend on (seed, epoch) and
on the numbers of the users only, so they are the same for every number of partitions and for a log in memory.
In memory are a number for each user and one buffer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diffacet import seeds
from diffacet.data.sequences import Sequences
from diffacet.data.user_ranges import Beginnings, filled, joined
from diffacet.errors import BadLog

IntArray = NDArray[np.int64]
BLOCK, BLOCKS = 2**13, 32
"""Users of a block, and blocks of a buffer: a quarter of a million users are mixed at a time."""


@dataclass(eq=False)
class UserBlocks:
    """The training users of each step.

    Attributes:
        train: the beginnings of sequences that are learned from.
        least, most: how long a beginning is for its user to be learned from; `most` None: any length.
        batch_size: B, users of a step; the last one of an epoch has what is left.
        seed: of the orders.
        block: users of a block, with those who are not learned from.
        blocks: of a buffer.

    Raises:
        BadLog: nobody's beginning is as long.
    """

    train: Beginnings
    batch_size: int
    seed: int
    least: int = 2
    most: int | None = None
    block: int = BLOCK
    blocks: int = BLOCKS
    _held: dict[tuple[int, ...], Sequences] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Count the users of each block."""
        self._wanted = self.train.counts >= self.least
        if self.most is not None:
            self._wanted &= self.train.counts <= self.most
        starts = np.arange(0, len(self._wanted), self.block)
        rows = np.where(self._wanted, self.train.counts, 0)
        self._sizes, self._rows = (
            np.add.reduceat(each, starts, dtype=np.int64) if len(starts) else starts for each in (self._wanted, rows)
        )
        if not self.users:
            raise BadLog("no training sequence has two items, so there is no next item to learn; lower the filters")
        self._plan = lru_cache(2)(self._planned)
        self._order = lru_cache(2)(self._ordered)

    @property
    def users(self) -> int:
        """How many users are learned from."""
        return int(self._sizes.sum())

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(self.users / self.batch_size)

    def at(self, step: int) -> Sequences:
        """The beginnings of the users of `step`, in random order."""
        epoch, part = divmod(step, self.steps)
        begin = part * self.batch_size
        return joined([*self._between(epoch, begin, min(begin + self.batch_size, self.users))])

    def _between(self, epoch: int, begin: int, end: int) -> Iterator[Sequences]:
        """The users of an epoch from place `begin` of its order to place `end`."""
        order, ends = self._plan(epoch)
        while begin < end:
            buffer = int(np.searchsorted(ends, begin, side="right"))
            start, stop = int(ends[buffer - 1]) if buffer else 0, min(end, int(ends[buffer]))
            held = self._buffer(order[buffer * self.blocks : (buffer + 1) * self.blocks])
            yield held.take(self._order(epoch, buffer, len(held))[begin - start : stop - start])
            begin = stop

    def _planned(self, epoch: int) -> tuple[IntArray, IntArray]:
        """The order of the blocks in an epoch, and the users up to the end of each buffer."""
        order = seeds.stream(self.seed, "blocks", epoch).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[order])
        last = np.minimum(np.arange(self.blocks, len(order) + self.blocks, self.blocks), len(order)) - 1
        return order, ends[last]

    def _ordered(self, epoch: int, buffer: int, users: int) -> IntArray:
        return seeds.stream(self.seed, "buffer", epoch, buffer).permutation(users)

    def _buffer(self, blocks: IntArray) -> Sequences:
        """The users of `blocks`, by their numbers; one buffer is kept, and left before another one is read."""
        key = tuple(np.sort(blocks).tolist())
        if key not in self._held:
            self._held.clear()
            users, rows = (int(sizes[list(key)].sum()) for sizes in (self._sizes, self._rows))
            self._held[key] = filled((self._block(number) for number in key), users, rows)
        return self._held[key]

    def _block(self, number: int) -> Sequences:
        first = number * self.block
        last = min(first + self.block, len(self._wanted))
        return self.train.read(first, last, self._wanted[first:last])
