"""Splits of a log into what is learned from and what is asked for. Each protocol is one function.

by_user      held-out users, unseen in training; the last part of each is asked for   (ComiRec, REMI, DMI)
leave_last   each user's last item is asked for, the one before it for validation     (textbook)
by_time      everything after a moment is asked for                                   (textbook)
collaborative  each user's first 70 % train, the next 20 % validate, the last are asked for  (DiffRec's files)
given        the parts that the log brings with it                                    (released splits)
next-item    each next item of held-out users, and its relatives: see `next_item`     (DreamRec, DimeRec)

`collaborative` and `given` mask: what is in a user's other parts is never recommended.
"""

from dataclasses import replace

import numpy as np

from diffacet.arrays import distinct
from diffacet.data import cuts, next_item, parts
from diffacet.data.filters import distinct_pairs
from diffacet.data.holdouts import Holdout, Ratio, Split, bounds, check_ratio
from diffacet.data.interactions import PARTS, Interactions
from diffacet.data.sequences import IntArray, Sequences
from diffacet.data.streamed_split import StreamedSplit
from diffacet.errors import BadLog, BadSetting, nearest

__all__ = [
    "MASKING", "SPLITS", "Holdout", "Split", "by_time", "by_user", "collaborative", "given", "leave_last",
    "make_split", "with_valid",
]  # fmt: skip

SPLITS = ("by-user", "leave-last", "by-time", "collaborative", "given", *next_item.NAMES)
MASKING = ("collaborative", "given")
"""Protocols in which items of a user's other parts must not be recommended, at validation as at test."""


def make_split(log: Interactions, name: str, seed: int) -> Split:
    """The split called `name` (one of SPLITS); `seed` is of the shuffle of users. Raises BadSetting, BadLog."""
    if name == "by-user":
        return by_user(log, seed=seed)
    if name == "leave-last":
        return leave_last(log)
    if name == "by-time":
        return by_time(log)
    if name == "collaborative":
        return collaborative(log)
    if name == "given":
        return given(log)
    if name in next_item.NAMES:
        return next_item.make(log, name, seed)
    raise BadSetting(f"unknown split {name!r}{nearest(name, SPLITS)}; the splits are {', '.join(SPLITS)}")


def by_user(log: Interactions, *, ratio: Ratio = (8, 1, 1), target_share: float = 0.2, seed: int = 1230) -> Split:
    """The published protocol (the code of ComiRec and REMI): held-out users are unseen in training.

    The users, in order of first appearance, are shuffled by `random.Random(seed).shuffle`; the first
    floor(0.8 U) train, those up to floor(0.9 U) validate, the rest test. A held-out user's sequence is
    cut at c = floor(len * (1 - target_share)), moved into 1..len - 1; all before c is history, all from
    c on is target. Users with fewer than two interactions are dropped first.

    Raises:
        BadLog: a part would be without a user.
        BadSetting: a ratio is not positive, or the share does not lie between 0 and 1.
    """
    sequences = log.sequences()
    return cuts.by_user(sequences.lengths(), ratio=ratio, target_share=target_share, seed=seed).of(sequences)


def leave_last(log: Interactions) -> Split:
    """The last item of each user is the test's target, the one before it the validation's; the rest trains.

    The test history includes the validation target. Users with fewer than three interactions are dropped.
    Raises BadLog when all are.
    """
    sequences = log.sequences()
    return cuts.leave_last(sequences.lengths()).of(sequences)


def by_time(log: Interactions, ratio: Ratio = (8, 1, 1)) -> Split:
    """Two moments cut the log for all users at once; nothing from a cut on is known before it.

    The cuts are the times of the interactions at 80 % and 90 % of all in time order. Training has the
    interactions before the first cut. Validation: users with an interaction before the first cut
    (history) and one from it up to the second (target). Test: users with an interaction before the
    second cut (history) and one from it on (target).

    Raises:
        BadLog: the log has ranks instead of times, or a part would be empty.
        BadSetting: a ratio is not positive.
    """
    check_ratio(ratio)
    if log.times == "rank":
        raise BadLog(
            "by-time needs real times, but this log's only count each user's interactions (0, 1, 2, ...), which "
            "says nothing about the order of two users; use leave-last or by-user, or import a log with times"
        )
    times = np.sort(log.column("time"))
    at = bounds(len(times), ratio)  # both below len(times)
    first, second = int(times[at[0]]), int(times[at[1]])
    whole = log.sequences()
    before_first, before_second = _count_before(log, first), _count_before(log, second)
    train = np.flatnonzero(before_first)
    valid = np.flatnonzero((before_first > 0) & (before_second > before_first))
    test = np.flatnonzero((before_second > 0) & (whole.lengths() > before_second))
    if not (len(train) and len(valid) and len(test)):
        raise BadLog(
            f"by-time cuts {len(log)} interactions of {times[0]}..{times[-1]} at {first} and {second}, which leaves "
            f"{len(train)} users to train, {len(valid)} to validate and {len(test)} to test; use leave-last or by-user"
        )
    asked = whole.take(valid).head(before_second[valid])
    held = whole.take(test)
    return Split(
        train=whole.take(train).head(before_first[train]),
        valid=Holdout(asked.head(before_first[valid]), asked.tail(before_first[valid])),
        test=Holdout(held.head(before_second[test]), held.tail(before_second[test])),
        protocol="by-time",
        seed=None,
        dropped_users=log.n_users - len(distinct(np.concatenate([train, valid, test]))),
        leaks="No interaction from a cut on is known before it; only the catalogue and its numbers know the whole log.",
    )


def collaborative(log: Interactions, shares: parts.Shares = parts.SHARES) -> Split:
    """The protocol of DiffRec's released files: each user's interactions cut in time order, by `parts.counts`.

    A repeated pair of user and item counts once, the earliest. The history is the training part, at validation
    and at test; what must not be recommended is the training part at validation, and at test the validation part,
    too. A log's own parts are ignored.

    Raises:
        BadLog: no user has three different items.
        BadSetting: the shares are not three positive numbers that sum to 1.
    """
    log = distinct_pairs(log)
    leaks = "A user's own future is hidden, but other users' later interactions are learned from: item trends leak."
    return _of_parts(log, parts.assign(log, shares), "collaborative", leaks)


def given(log: Interactions) -> Split:
    """The parts that the log brings with it; history and masks as in `collaborative`.

    A user without training rows is no case and counts as dropped.

    Raises:
        BadLog: the log has no parts, two parts of a user share an item, or no user has rows in all that it takes.
    """
    if not log.has_parts:
        raise BadLog(
            "the log has no parts of its own: 'diffacet import-split' makes such data from files that are split, "
            "'diffacet split' from a data directory; or choose another --split"
        )
    leaks = "Whoever cut the parts decided what is known when: a part may lie before another in time."
    split = _of_parts(log, log.column("part"), "given", leaks)
    for holdout in (split.valid, split.test):
        holdout.check_apart()
    return split


def _of_parts(log: Interactions, part: IntArray, protocol: str, leaks: str) -> Split:
    """The split of the rows' parts (n,): places in PARTS."""
    user, item, time = (log.column(name) for name in ("user", "item", "time"))

    def rows(kept: np.ndarray) -> Sequences:
        return Sequences.from_rows(user[kept], item[kept], time[kept], log.n_users)

    train, before_test = rows(part == parts.TRAIN), rows(part != parts.TEST)
    learned = train.lengths() > 0

    def holdout(place: int, seen: Sequences | None) -> Holdout:
        target = rows(part == place)
        cases = np.flatnonzero(learned & (target.lengths() > 0))
        if not len(cases):
            raise BadLog(
                f"{protocol}: no user has interactions to train on and others in '{PARTS[place]}'; {log.n_users} users "
                f"have {len(log)} interactions; use another split, or lower the filters"
            )
        mask = None if seen is None else seen.take(cases)
        return Holdout(train.take(cases), target.take(cases), mask, True, int(learned.sum()))

    return Split(
        train=train.take(np.flatnonzero(learned)),
        valid=holdout(parts.VALID, None),
        test=holdout(parts.TEST, before_test),
        protocol=protocol,
        seed=None,
        dropped_users=log.n_users - int(learned.sum()),
        leaks=leaks,
    )


def with_valid(split: Split | StreamedSplit) -> Split:
    """The split whose test histories are the training and the validation part, in time order.

    Raises:
        BadSetting: the protocol has no part of the test's users that is validated on and not shown.
    """
    if isinstance(split, StreamedSplit) or split.protocol not in MASKING or split.test.seen is None:
        raise BadSetting(
            f"train+valid is an input of the splits {' and '.join(MASKING)}; this one is {split.protocol}, where the "
            "test's history is fixed"
        )
    return replace(split, test=replace(split.test, history=split.test.seen))


def _count_before(log: Interactions, time: int) -> IntArray:
    """How many interactions each user has before `time`: (U,) int64."""
    return np.bincount(log.column("user")[log.column("time") < time], minlength=log.n_users)
