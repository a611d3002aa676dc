"""Splits in which held-out users are asked for their next item, as DreamRec and DimeRec ask.

next-item                users shuffled, then cut 8:1:1; every item of a held-out user but the first is asked for
next-item-last           the same users; only the last item of each is asked for
next-item-chronological  users in the order of their first event, then cut; every item but the first
next-item-given          the log's own parts, which divide its users (DreamRec's files); every item but the first

A user here may be a session. What is shown is all that the user met before; seen items stay in the lists, since a
session may well meet an item again. No user is in two parts, so a model never learned from whom it is asked about.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diffacet.data.holdouts import Holdout, Ratio, Split, bounds, check_ratio, shuffled
from diffacet.data.interactions import PARTS, Interactions
from diffacet.data.sequences import IntArray, Prefixes, Sequences
from diffacet.errors import BadLog, BadSetting

EVERY = ("next-item", "next-item-chronological", "next-item-given")
"""Protocols that ask for every item of a held-out user, and may ask for the first one, too."""
NAMES = ("next-item", "next-item-last", "next-item-chronological", "next-item-given")
_TRENDS = "Held-out users are unseen, but training users act after the held-out histories end: item trends leak."


def make(log: Interactions, name: str, seed: int) -> Split:
    """The split called `name` (one of NAMES). Raises BadLog."""
    if name == "next-item-chronological":
        return chronological(log)
    if name == "next-item-given":
        return given(log)
    return next_item(log, seed=seed, last=name == "next-item-last")


def next_item(log: Interactions, *, ratio: Ratio = (8, 1, 1), seed: int = 1230, last: bool = False) -> Split:
    """The paper's protocol: held-out users are unseen in training, and each of their next items is asked for.

    All U users, in order of first appearance, are shuffled by `random.Random(seed).shuffle`; the first floor(0.8 U)
    train, those up to floor(0.9 U) validate, the rest test. A user with one interaction is in its part without a
    case.

    Args:
        log: a log of any times.
        ratio: of users to train, to validate and to test.
        seed: of the shuffle.
        last: ask for the last item of a user only.

    Raises:
        BadLog: a part would be without a user, or has nothing to ask for.
        BadSetting: a ratio is not positive.
    """
    protocol = "next-item-last" if last else "next-item"
    steps = Sequences.last_steps if last else Sequences.steps
    return _split(log, _cut(shuffled(log.n_users, seed), ratio, protocol), protocol, seed, _TRENDS, steps)


def chronological(log: Interactions, ratio: Ratio = (8, 1, 1)) -> Split:
    """As `next_item`, but the users are in the order of their first interaction, ties as in the log; none is drawn.

    Raises:
        BadLog: the log has ranks instead of times, a part would be without a user, or has nothing to ask for.
        BadSetting: a ratio is not positive.
    """
    if log.times == "rank":
        raise BadLog(
            "next-item-chronological needs real times, but this log's only count each user's interactions "
            "(0, 1, 2, ...), which says nothing about the order of two users; use next-item, or import a log with times"
        )
    first = log.column("time")[log.sequences().offsets[:-1]]
    leaks = "Held-out users begin after all training users, but those may act on while the held-out ones do."
    name = "next-item-chronological"
    return _split(log, _cut(np.argsort(first, kind="stable"), ratio, name), name, None, leaks, Sequences.steps)


def given(log: Interactions) -> Split:
    """The parts that the log brings with it, each with users of its own, as DreamRec's files have them.

    Raises:
        BadLog: the log has no parts, a user has interactions in two, or a part has nobody or nothing to ask for.
    """
    if not log.has_parts:
        raise BadLog(
            "the log has no parts of its own: 'diffacet import --format dreamrec' makes such data from DreamRec's "
            "files; or choose another --split"
        )
    divided = log.first_divided_user()
    if divided is not None:
        frame = log.frame.filter(log.frame["user"] == divided)
        places = sorted(frame["part"].unique().to_list())
        raise BadLog(
            f"next-item-given needs parts with users of their own, but user {log.users.ids([divided])[0]} has "
            f"interactions in {' and '.join(PARTS[place] for place in places)}; use --split given, or next-item to "
            "cut anew"
        )
    part = log.column("part")[log.sequences().offsets[:-1]]  # (U,), since every user has an interaction
    units = [np.flatnonzero(part == place) for place in range(len(PARTS))]
    leaks = "Whoever cut the parts decided what is known when: training users may act after held-out ones."
    return _split(log, units, "next-item-given", None, leaks, Sequences.steps)


def with_empty(holdout: Holdout) -> Holdout:
    """The cases of a split of EVERY, with each user's first item, too, whose history is empty.

    Only popularity can tell that one; figures on DreamRec's files include them.

    Raises:
        BadSetting: the cases are of another protocol, whose histories are no beginnings.
    """
    if not isinstance(holdout.history, Prefixes):
        raise BadSetting(f"empty histories belong to the splits {', '.join(EVERY)}; these cases are of another")
    history, target = holdout.history.base.steps(0)
    return replace(holdout, history=history, target=target)


def _cut(order: IntArray, ratio: Ratio, protocol: str) -> list[IntArray]:
    """The users (U,) in `order`, cut into three."""
    check_ratio(ratio)
    first, second = bounds(len(order), ratio)
    if not 0 < first < second < len(order):
        raise BadLog(
            f"{protocol} needs a user in each part, but {len(order)} users, cut {':'.join(map(str, ratio))}, give "
            f"{first}, {second - first} and {len(order) - second}; use leave-last"
        )
    return [order[:first], order[first:second], order[second:]]


def _split(
    log: Interactions,
    units: list[IntArray],
    protocol: str,
    seed: int | None,
    leaks: str,
    steps: Callable[[Sequences], tuple[Prefixes, Sequences]],
) -> Split:
    """The split of users into `units`, and of the held-out ones into cases by `steps`."""
    whole = log.sequences()
    for name, rows in zip(PARTS, units, strict=True):
        if not len(rows):
            raise BadLog(f"{protocol}: no user is in '{name}'; use --split next-item, which cuts {log.n_users} users")

    def holdout(name: str, rows: IntArray) -> Holdout:
        history, target = steps(whole.take(rows))
        if not len(history):
            raise BadLog(
                f"{protocol}: none of the {len(rows)} users in '{name}' has two interactions, so there is no next item "
                "to ask for; use another split, or lower the filters"
            )
        return Holdout(history, target)

    train, valid, test = units
    return Split(
        train=whole.take(train),
        valid=holdout(PARTS[1], valid),
        test=holdout(PARTS[2], test),
        protocol=protocol,
        seed=seed,
        dropped_users=0,
        leaks=leaks,
    )
