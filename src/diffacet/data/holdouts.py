"""What a split is, and the arithmetic that splits share: who is shown and asked what, shuffles and cuts of users."""

import random
from array import array
from dataclasses import dataclass

import numpy as np

from diffacet import seeds
from diffacet.arrays import distinct, within
from diffacet.data.sequences import IntArray, Prefixes, Sequences
from diffacet.errors import BadLog, BadSetting

Ratio = tuple[int, int, int]
Shown = Sequences | Prefixes
"""Histories, row by row: sequences of their own, or beginnings of others."""


@dataclass(frozen=True, eq=False)
class Holdout:
    """Cases of which a part is shown and a part is asked for, row by row.

    What is asked for is never empty. What is shown is empty only where that was wanted, see `next_item.with_empty`.
    A user is one case, or in the protocols of the next item as many as are asked for.

    Attributes:
        history: what the model is shown, whole; it cuts it to its own length. `history.users` says whose case it is.
        target: what it is asked for, in time order, repeats kept. Row b belongs to row b of `history`.
        seen: what must not be recommended where seen items are left out, row by row; None: the history.
        exclude_seen: whether the protocol leaves them out.
        everyone: users of the protocol, with those who have no target and so are no case; None: the cases.
    """

    history: Shown
    target: Sequences
    seen: Shown | None = None
    exclude_seen: bool = False
    everyone: int | None = None

    def __len__(self) -> int:
        """The number of cases."""
        return len(self.history)

    def masked(self) -> Shown:
        """What is left out of the lists where seen items are: `seen`, else the history."""
        return self.history if self.seen is None else self.seen

    def take(self, cases: IntArray) -> "Holdout":
        """Some of the cases, in the order of their numbers `cases` (B,)."""
        seen = None if self.seen is None else _take(self.seen, cases)
        return Holdout(_take(self.history, cases), self.target.take(cases), seen, self.exclude_seen)

    def check_apart(self) -> None:
        """Raise BadLog when a case's target is among what must not be recommended: it could never be a hit."""
        masked, target = self.masked(), self.target
        if isinstance(masked, Prefixes):
            masked = masked.copied()
        width = max(int(masked.items.max(initial=0)), int(target.items.max(initial=0))) + 1
        left, right = (np.repeat(np.arange(len(s)), s.lengths()) * width + s.items for s in (masked, target))
        both = np.flatnonzero(within(right, distinct(left)))
        if len(both):
            row, item = divmod(int(right[both[0]]), width)
            raise BadLog(
                f"{len(both)} targets are among the items that must not be recommended, first item number {item} of "
                f"user number {int(target.users[row])}; the parts of a split must not share a pair of user and item"
            )


@dataclass(frozen=True, eq=False)
class Split:
    """A log, cut by one protocol.

    Attributes:
        train: the sequences to learn from, of one item or more.
        valid: the cases that choose a model.
        test: the cases that judge it.
        protocol: a name of `splits.SPLITS`.
        seed: the seed of the shuffle, None where nothing is drawn.
        dropped_users: users of the log that are in no part, being too short.
        leaks: one sentence on what this protocol lets a model know that it would not know in use.
    """

    train: Sequences
    valid: Holdout
    test: Holdout
    protocol: str
    seed: int | None
    dropped_users: int
    leaks: str

    @property
    def exclude_seen(self) -> bool:
        """Whether the protocol leaves seen items out of the lists, at validation as at test."""
        return self.test.exclude_seen

    def holdout(self, on: str, most: int | None = None, seed: int = 0) -> Holdout:
        """The cases of "valid" or "test", at most so many: see `some`."""
        cases = self.valid if on == "valid" else self.test
        rows = some(len(cases), most, seed)
        return cases if rows is None else cases.take(rows)

    def train_items(self) -> IntArray:
        """The items that are learned from, ascending: (m,) int64."""
        return distinct(self.train.items)


def some(n: int, most: int | None, seed: int) -> IntArray | None:
    """Places (most,) int64, ascending, of the cases validated on where at most `most` of n are; None: all of them."""
    if most is None or n <= most:
        return None
    return np.sort(seeds.stream(seed, "validation cases").choice(n, most, replace=False))


def _take(shown: Shown, rows: IntArray) -> Shown:
    return (
        shown.take(rows) if isinstance(shown, Sequences) else Prefixes(shown.base, shown.rows[rows], shown.ends[rows])
    )


def shuffled(n: int, seed: int) -> IntArray:
    """0..n - 1 in the order of `random.Random(seed).shuffle`, the same on any machine: (n,) int64."""
    order = array("q", range(n))  # a list would take five times the memory
    random.Random(seed).shuffle(order)
    return np.array(order, dtype=np.int64)


def bounds(n: int, ratio: Ratio) -> tuple[int, int]:
    """The ends of the first and the second part of n, rounded down, in whole numbers; both below n >= 1."""
    return n * ratio[0] // sum(ratio), n * (ratio[0] + ratio[1]) // sum(ratio)


def check_ratio(ratio: Ratio) -> None:
    """Refuse what is no ratio of three parts. Raises BadSetting."""
    if len(ratio) != 3 or min(ratio) <= 0:
        raise BadSetting(f"a ratio is three positive numbers, such as 8, 1, 1; got {', '.join(map(str, ratio))}")
