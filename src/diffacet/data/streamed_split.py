"""Splits of a log that is not in memory: training users are read by ranges, held-out ones when they are asked for."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffacet.arrays import distinct
from diffacet.data import cuts, user_ranges
from diffacet.data.cuts import Cut
from diffacet.data.holdouts import Holdout, some
from diffacet.data.sequences import IntArray
from diffacet.data.user_ranges import Beginnings, Users
from diffacet.errors import BadSetting

PROTOCOLS = ("by-user", "leave-last")
"""Splits that need no more of the log than the lengths of its sequences."""
_TOGETHER = 2**13  # users that are read at once where all of them are


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """A log, cut by one protocol as `Split` is, into the same users and cases; the sequences are read when asked for.

    Attributes:
        source: the log's users.
        lengths: (U,) int64 interactions of each.
        cut: what the protocol decided.
    """

    source: Users
    lengths: IntArray
    cut: Cut
    exclude_seen = False

    @cached_property
    def train(self) -> Beginnings:
        """What is learned from."""
        counts = np.zeros(len(self.lengths), dtype=np.int64)
        train = self.cut.train
        counts[train] = self.lengths[train] if self.cut.learned is None else self.cut.learned
        return Beginnings(self.source, counts)

    @property
    def valid(self) -> Holdout:
        """All cases that choose a model, read now."""
        return self.holdout("valid")

    @property
    def test(self) -> Holdout:
        """All cases that judge it, read now."""
        return self.holdout("test")

    @property
    def protocol(self) -> str:
        """One of PROTOCOLS."""
        return self.cut.protocol

    @property
    def dropped_users(self) -> int:
        """Users of the log that are in no part, being too short."""
        return self.cut.dropped_users

    @property
    def leaks(self) -> str:
        """One sentence on what this protocol lets a model know that it would not know in use."""
        return self.cut.leaks

    def holdout(self, on: str, most: int | None = None, seed: int = 0) -> Holdout:
        """The cases of "valid" or "test", at most so many, read now; they are those of `some` of all of them."""
        cases = self.cut.valid if on == "valid" else self.cut.test
        rows = some(len(cases), most, seed)
        cases = cases if rows is None else cases.take(rows)
        return cases.of(user_ranges.taken(self.source, cases.users, self.lengths))

    def train_items(self) -> IntArray:
        """The items that are learned from, ascending: (m,) int64; all training users are read."""
        train, found = self.train, np.zeros(0, np.int64)
        for first in range(0, len(self.lengths), _TOGETHER):
            part = train.read(first, min(first + _TOGETHER, len(self.lengths)))
            found = distinct(np.concatenate([found, part.items]))
        return found


def make(source: Users, name: str, seed: int) -> StreamedSplit:
    """The split called `name`, one of PROTOCOLS, of which memory holds some numbers for each user.

    Raises:
        BadSetting: the protocol needs the whole log.
        BadLog: the log is too small for it.
    """
    if name not in PROTOCOLS:
        raise BadSetting(
            f"sampling=blocks takes the splits {' and '.join(PROTOCOLS)}; got {name}. Choose one of them with --split, "
            "or sampling=drawn, which holds the log in memory"
        )
    lengths = source.lengths()
    return StreamedSplit(
        source, lengths, cuts.leave_last(lengths) if name == "leave-last" else cuts.by_user(lengths, seed=seed)
    )
