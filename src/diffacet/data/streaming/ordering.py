"""The canonical order of a partition's rows: by user, time, item and rating; it depends on the rows alone."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data import hashing
from diffacet.data.sequences import IntArray
from diffacet.data.streaming.hashes import hashed

FloatArray = NDArray[np.float64]
_BITS = 63


def by_hash(ids: pl.Series) -> IntArray:
    """(n,) the order of distinct ids by (hash, text)."""
    hashes = hashed(ids) if ids.dtype == pl.Int64 else hashing.ids(ids)
    order = np.argsort(hashes)
    ordered = hashes[order]
    if (ordered[1:] == ordered[:-1]).any():
        both = pl.DataFrame({"hash": hashes, "text": ids.cast(pl.String)}).with_row_index("row")
        order = both.sort("hash", "text")["row"].to_numpy().astype(np.int64)
    return order


def canonical(user: IntArray, time: IntArray, item: IntArray, rating: FloatArray | None) -> IntArray:
    """(n,) the order of rows by (user, time, item, rating); what is equal in all of them stands in any order.

    Args:
        user: (n,) numbers from 0 on.
        time: (n,) any.
        item: (n,) numbers from 0 on.
        rating: (n,) float64 without NaN; or None.
    """
    if not len(user):
        return np.zeros(0, np.int64)
    # One key of 64 bits sorts many times as fast as several columns. What does not fit into it is settled after.
    since = time - time.min() if int(time.max()) - int(time.min()) < 2**62 else _ranked(time)
    if _bits(user) + _bits(since) > _BITS:
        since = _ranked(time)
    key = (user.astype(np.uint64) << np.uint64(_bits(since))) | since.astype(np.uint64)
    whole = _bits(user) + _bits(since) + _bits(item) <= _BITS
    if whole:
        key = (key << np.uint64(_bits(item))) | item.astype(np.uint64)
    order = np.argsort(key)
    return order if whole and rating is None else _settled(order, key[order], item, rating)


def _settled(order: IntArray, keys: hashing.U64, item: IntArray, rating: FloatArray | None) -> IntArray:
    """`order` with the rows of equal keys by item and rating."""
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    tied = ~new | ~np.concatenate([new[1:], [True]])
    if not tied.any():
        return order
    rows, run = order[tied], np.cumsum(new)[tied]
    last = (item[rows],) if rating is None else (rating[rows], item[rows])
    order[tied] = rows[np.lexsort((*last, run))]
    return order


def _ranked(values: IntArray) -> IntArray:
    """(n,) the place of each value among the distinct ones."""
    order = np.argsort(values)
    ordered = values[order]
    rank = np.empty(len(values), np.int64)
    rank[order] = np.cumsum(np.concatenate([[0], ordered[1:] != ordered[:-1]]))
    return rank


def _bits(values: IntArray) -> int:
    return int(values.max()).bit_length()
