"""The cut in time: for each sample the first behaviour of its user that it must not see."""

import numpy as np

from diffacet.arrays import distinct
from diffacet.data.sequences import IntArray
from diffacet.errors import BadLog

BLOCK = 1 << 24
"""Behaviours that are searched at once, unless one user has more; some 0.4 GB."""


def ends(pointers: IntArray, times: IntArray, user: IntArray, moment: IntArray, block: int = BLOCK) -> IntArray:
    """(S,) int64: the first behaviour of user[s] with times >= moment[s], or where the user's behaviours end.

    Users and times become one number, so that one search in sorted numbers serves all samples; times give way to their
    ranks where the numbers would be too large. Blocks of whole users are worked on one after another; the answer does
    not depend on them.

    Args:
        pointers: (U + 1,) int64; behaviours of user u are pointers[u]..pointers[u + 1] - 1.
        times: (N,) int64, ascending within each user.
        user: (S,) int64.
        moment: (S,) int64.
        block: behaviours of a block, at least 1.
    """
    found = np.empty(len(user), np.int64)
    by_user = np.argsort(user, kind="stable")
    bounds = _blocks(pointers, block)
    samples = np.searchsorted(user[by_user], bounds)
    for a, b, first, last in zip(bounds, bounds[1:], samples, samples[1:], strict=False):
        rows = by_user[first:last]
        if len(rows):
            own = pointers[a : b + 1]
            found[rows] = own[0] + _ends(own - own[0], times[own[0] : own[-1]], user[rows] - a, moment[rows])
    assert (pointers[user] <= found).all(), "a history starts at its user's"
    assert (found <= pointers[user + 1]).all(), "a history stays its user's"
    return found


def _blocks(pointers: IntArray, block: int) -> IntArray:
    """Bounds of blocks of users, ascending from 0 to U: each holds at most `block` behaviours, or one user."""
    n_users = len(pointers) - 1
    bounds = [0]
    while bounds[-1] < n_users:
        fits = int(np.searchsorted(pointers, pointers[bounds[-1]] + block, side="right")) - 1
        bounds.append(min(max(fits, bounds[-1] + 1), n_users))
    return np.array(bounds, dtype=np.int64)


def _ends(pointers: IntArray, times: IntArray, user: IntArray, moment: IntArray) -> IntArray:
    """`ends` in one piece."""
    n_users = len(pointers) - 1
    owner = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(pointers))
    low, high = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    asked = np.clip(moment, low, high + 1)  # before all, or after all
    if not fits(n_users, high - low + 2):
        ranks = distinct(np.concatenate([times, asked]))
        times, asked = np.searchsorted(ranks, times), np.searchsorted(ranks, asked)
        low, high = 0, len(ranks) - 1
        if not fits(n_users, high + 2):
            raise BadLog(
                f"{n_users:,} users and {len(ranks):,} times have too many pairs for 64 bits; pack smaller blocks"
            )
    keys = joint(owner, times, low, high)
    return np.searchsorted(keys, joint(user, asked, low, high), side="left")  # left: strictly before


def order(owner: IntArray, times: IntArray, n_users: int) -> IntArray | None:
    """(N,) int64, the behaviours by owner, then time, then as they are; None when they are in this order."""
    low, high = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    if not fits(n_users, high - low + 2):
        return np.lexsort((times, owner))
    keys = joint(owner, times, low, high)
    return None if (keys[1:] >= keys[:-1]).all() else np.argsort(keys, kind="stable")


def joint(owner: IntArray, times: IntArray, low: int, high: int) -> IntArray:
    """One number for owner and time, which orders by owner first; `times` lie in low..high + 1."""
    return owner * (high - low + 2) + (times - low)


def fits(n_users: int, span: int) -> bool:
    """Whether every pair of a user and one of `span` times has a 64-bit number of its own."""
    return n_users * span < 2**63
