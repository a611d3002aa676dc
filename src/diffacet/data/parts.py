"""Logs cut user by user into train, valid and test: the counts, and the numbering of a log that carries its split."""

import math
from dataclasses import replace

import numpy as np
import polars as pl

from diffacet.data.ids import Ids
from diffacet.data.interactions import PARTS, Interactions
from diffacet.data.sequences import IntArray
from diffacet.errors import BadSetting

Shares = tuple[float, float, float]
SHARES: Shares = (0.7, 0.2, 0.1)
"""Of train, valid and test, as in the files that DiffRec's authors released (their paper says 7:1:2)."""
TRAIN, VALID, TEST = range(len(PARTS))


def counts(lengths: IntArray, shares: Shares = SHARES) -> IntArray:
    """How many of each user's interactions are in each part: (U, 3) int64.

    With n = lengths[u] and shares (a, b, c), products in double precision: train = int(a n) + 1,
    valid = ceil(b n) - 1, test = n - train - valid. A part that would be empty gets one row of training;
    users with n < 3 are wholly in training. The counts of DiffRec's released ML-1M files, user by user.

    Raises:
        BadSetting: the shares are not three positive numbers that sum to 1.
    """
    if len(shares) != len(PARTS) or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-9):
        told = ", ".join(f"{share:g}" for share in shares)
        raise BadSetting(f"the shares of train, valid and test are three positive numbers that sum to 1; got {told}")
    n = np.asarray(lengths, dtype=np.int64)
    train = np.floor(shares[TRAIN] * n).astype(np.int64) + 1
    valid = np.ceil(shares[VALID] * n).astype(np.int64) - 1
    found = np.stack([train, valid, n - train - valid], axis=1)
    empty = found[:, 1:] == 0
    found[:, 1:] += empty
    found[:, TRAIN] -= empty.sum(1)
    # With a small share of training its only row may be gone: it comes back from the larger of the others.
    robbed = np.flatnonzero(found[:, TRAIN] < 1)
    found[robbed, found[robbed, 1:].argmax(1) + 1] -= 1
    found[robbed, TRAIN] += 1
    short = n < len(PARTS)
    found[short] = 0
    found[short, TRAIN] = n[short]
    return found


def assign(log: Interactions, shares: Shares = SHARES) -> IntArray:
    """The part of each interaction by `counts`, each user's oldest ones being training: (n,) int64."""
    lengths = log.sequences().lengths()
    return np.repeat(np.tile(np.arange(len(PARTS)), len(lengths)), counts(lengths, shares).reshape(-1))


def renumbered(log: Interactions) -> Interactions:
    """The log with items numbered by first appearance in its training part, user by user, oldest first.

    Items without a training row follow, by first appearance in the other parts, then those without any row.
    """
    item, part = log.column("item"), log.column("part")
    order = np.concatenate([item[part == TRAIN], item[part != TRAIN], np.arange(1, log.n_items + 1)])
    first = pl.Series(order).unique(maintain_order=True).to_numpy()  # old numbers in their new order
    number = np.zeros(log.n_items + 1, dtype=np.int64)
    number[first] = np.arange(1, log.n_items + 1)
    place = pl.Series(first - 1)
    return replace(
        log,
        frame=log.frame.with_columns(pl.Series("item", number[item])),
        items=Ids(log.items.values.gather(place), 1),
        titles=None if log.titles is None else log.titles.gather(place),
        categories=None if log.categories is None else log.categories.gather(place),
    )
