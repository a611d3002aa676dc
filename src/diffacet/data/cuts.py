"""Protocols that need to know of a log only how long each user's sequence is: who learns, who is asked, and from where.

What they decide is the same whether the sequences lie in memory (`Cut.of`) or are read piece by piece
(`streamed_split`).
"""

from dataclasses import dataclass

import numpy as np

from diffacet.data.holdouts import Holdout, Ratio, Split, bounds, check_ratio, shuffled
from diffacet.data.sequences import IntArray, Sequences
from diffacet.errors import BadLog, BadSetting


@dataclass(frozen=True, eq=False)
class Cases:
    """Users who are asked, each once.

    Attributes:
        users: (C,) int64 rows of the log's sequences, all different.
        shown: (C,) int64 how many items of each are shown.
        until: (C,) int64 where the items end that are asked for; None: with the sequence.
    """

    users: IntArray
    shown: IntArray
    until: IntArray | None = None

    def __len__(self) -> int:
        """C, the number of cases."""
        return len(self.users)

    def of(self, whole: Sequences) -> Holdout:
        """The cases, out of the whole sequences of `users`, row by row."""
        ends = whole if self.until is None else whole.head(self.until)
        return Holdout(whole.head(self.shown), ends.tail(self.shown))

    def take(self, rows: IntArray) -> "Cases":
        """The cases at the places `rows` (m,) int64, in this order."""
        until = None if self.until is None else self.until[rows]
        return Cases(self.users[rows], self.shown[rows], until)


@dataclass(frozen=True, eq=False)
class Cut:
    """A protocol's decision.

    Attributes:
        train: (T,) int64 rows of the log's sequences, all different, that are learned from.
        learned: (T,) int64 how many items of each; None: all.
        valid: the cases that choose a model.
        test: the cases that judge it.
        protocol, seed, dropped_users, leaks: as in `Split`.
    """

    train: IntArray
    learned: IntArray | None
    valid: Cases
    test: Cases
    protocol: str
    seed: int | None
    dropped_users: int
    leaks: str

    def of(self, sequences: Sequences) -> Split:
        """The split of the log's sequences."""
        train = sequences.take(self.train)
        return Split(
            train=train if self.learned is None else train.head(self.learned),
            valid=self.valid.of(sequences.take(self.valid.users)),
            test=self.test.of(sequences.take(self.test.users)),
            protocol=self.protocol,
            seed=self.seed,
            dropped_users=self.dropped_users,
            leaks=self.leaks,
        )


def by_user(lengths: IntArray, *, ratio: Ratio = (8, 1, 1), target_share: float = 0.2, seed: int = 1230) -> Cut:
    """`splits.by_user` of users with so many interactions each, (U,). Raises BadLog, BadSetting."""
    check_ratio(ratio)
    if not 0 < target_share < 1:
        raise BadSetting(f"target_share lies between 0 and 1; got {target_share}")
    kept = np.flatnonzero(lengths >= 2)
    order = kept[shuffled(len(kept), seed)]
    first, second = bounds(len(kept), ratio)
    if not 0 < first < second < len(kept):
        raise BadLog(
            f"by-user needs a user in each part, but {len(kept)} users with two or more interactions, cut "
            f"{':'.join(map(str, ratio))}, give {first}, {second - first} and {len(kept) - second}; use leave-last"
        )

    def cases(rows: IntArray) -> Cases:
        own = lengths[rows]
        share = np.floor(own * (1 - target_share) + 1e-9).astype(np.int64)  # 10 * (1 - 0.9) is 0.99...
        return Cases(rows, np.clip(share, 1, own - 1))

    return Cut(
        train=order[:first],
        learned=None,
        valid=cases(order[first:second]),
        test=cases(order[second:]),
        protocol="by-user",
        seed=seed,
        dropped_users=len(lengths) - len(kept),
        leaks="Held-out users are unseen, but training users act after the held-out histories end: item trends leak.",
    )


def leave_last(lengths: IntArray) -> Cut:
    """`splits.leave_last` of users with so many interactions each, (U,). Raises BadLog."""
    kept = np.flatnonzero(lengths >= 3)
    if not len(kept):
        raise BadLog(f"leave-last needs three interactions of a user; the longest of {len(lengths)} users has fewer")
    own = lengths[kept]
    return Cut(
        train=kept,
        learned=own - 2,
        valid=Cases(kept, own - 2, own - 1),
        test=Cases(kept, own - 1),
        protocol="leave-last",
        seed=None,
        dropped_users=len(lengths) - len(kept),
        leaks="A user's own future is hidden, but other users' later interactions are learned from: item trends leak.",
    )
