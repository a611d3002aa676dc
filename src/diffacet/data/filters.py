"""Filters of a log: each takes Interactions and returns Interactions, with users and items numbered anew.

All keep the order of what stays: users by first appearance in the log that was read, items by their
raw count there. A user without an interaction leaves; whether an item leaves, each filter says.
"""

import numpy as np
import polars as pl

from diffacet.data.interactions import Interactions
from diffacet.data.sequences import BoolArray, IntArray
from diffacet.errors import BadLog, BadSetting


def min_rating(log: Interactions, threshold: float) -> Interactions:
    """The interactions rated `threshold` or more; a missing rating counts as less. Items without one leave.

    Raises BadLog when the log has no ratings or none is high enough.
    """
    if "rating" not in log.frame.columns:
        raise BadLog(
            f"a rating of at least {threshold:g} was asked for, but the log has no ratings; leave out --min-rating,"
            " or name their column by --rating COL"
        )
    rating = log.frame["rating"]
    rows = (rating >= threshold).fill_null(False).to_numpy()
    if not rows.any():
        raise BadLog(
            f"no interaction is rated {threshold:g} or more; the ratings of the {len(log)} interactions "
            f"lie in {rating.min()!r}..{rating.max()!r}"
        )
    return log.restrict(rows, _counts(log, rows, "item")[1:] > 0)


def min_count_once(log: Interactions, n: int) -> Interactions:
    """The published protocol's filter, one pass (the code of ComiRec and REMI).

    Items with at least n interactions stay; then users with at least n interactions on such items;
    then the other interactions go. Nothing is counted again: an item that stays may end with fewer
    than n interactions, even none, and is in the catalogue all the same.

    Raises BadLog when nobody is left, BadSetting when n < 1.
    """
    _check(n)
    items = _counts(log, np.ones(len(log), dtype=np.bool_), "item") >= n
    rows = items[log.column("item")]
    users = _counts(log, rows, "user") >= n
    if not users.any():
        raise BadLog(
            f"a minimum of {n} leaves nobody: {log.n_users} users, {log.n_items} items and {len(log)} interactions "
            f"came in; {int(items[1:].sum())} items have {n} or more, and 0 users have {n} or more on these "
            f"(at most {_counts(log, rows, 'user').max()}); lower the minimum"
        )
    return log.restrict(rows & users[log.column("user")], items[1:])


def k_core(log: Interactions, n: int) -> Interactions:
    """The largest part of the log in which every user and every item has at least n interactions.

    The fixed point of dropping items, then users, with fewer; repeated pairs count each time.
    Raises BadLog when it is empty, BadSetting when n < 1.
    """
    _check(n)
    user, item = log.column("user"), log.column("item")
    rows = np.ones(len(log), dtype=np.bool_)
    left = [_left(log, rows)]
    while True:
        before = int(rows.sum())
        rows = rows & (_counts(log, rows, "item") >= n)[item]
        rows = rows & (_counts(log, rows, "user") >= n)[user]
        if not rows.any():
            raise BadLog(
                f"the {n}-core is empty; round by round there were {'; '.join([*left[:5], 'nobody'])}; lower n"
            )
        if int(rows.sum()) == before:
            return log.restrict(rows, _counts(log, rows, "item")[1:] > 0)
        left.append(_left(log, rows))


def drop_repeated_rows(log: Interactions) -> tuple[Interactions, int]:
    """The log with one interaction for each (user, item, time), the first read; and how many went. All items stay."""
    return _distinct(log, "user", "item", "time")


def distinct_pairs(log: Interactions) -> Interactions:
    """The log with one interaction for each (user, item), the earliest. All items stay."""
    return _distinct(log, "user", "item")[0]


def _distinct(log: Interactions, *columns: str) -> tuple[Interactions, int]:
    rows = log.frame.select(pl.struct(columns).is_first_distinct()).to_series().to_numpy()
    dropped = len(rows) - int(rows.sum())
    return (log.restrict(rows) if dropped else log), dropped


def _counts(log: Interactions, rows: BoolArray, column: str) -> IntArray:
    """How many of `rows` each number has: (U,) for user, (N + 1,) for item, with padding's 0 first."""
    size = log.n_users if column == "user" else log.n_items + 1
    return np.bincount(log.column(column)[rows], minlength=size)


def _left(log: Interactions, rows: BoolArray) -> str:
    users, items = (int((_counts(log, rows, column) > 0).sum()) for column in ("user", "item"))
    return f"{users} users, {items} items, {int(rows.sum())} interactions"


def _check(n: int) -> None:
    if n < 1:
        raise BadSetting(f"a minimum number of interactions is 1 or more; got {n}")
