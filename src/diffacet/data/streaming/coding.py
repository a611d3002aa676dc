"""Ids into small numbers: which distinct ones a column holds, and which of them stands in each row."""

import numpy as np
import polars as pl

from diffacet.data.sequences import IntArray

_ROOM = 2**16


def coded(values: pl.Series) -> tuple[pl.Series, IntArray]:
    """(the distinct values (m,), the place (n,) int64 among them of each value) of Int64 or String without null.

    Numbers ascend; texts stand in no particular order.
    """
    if values.dtype == pl.Int64:
        numbers, codes = _coded(values.to_numpy())
        return pl.Series(values.name, numbers), codes
    codes, first = _of_texts(values.hash(0).to_numpy().view(np.int64))
    distinct = values.gather(first)
    if not (distinct.gather(codes) == values).all():  # two texts have one hash, by chance one log in millions
        codes, first = _of_texts(values.cast(pl.Categorical).to_physical().to_numpy().astype(np.int64))
        distinct = values.gather(first)
    return distinct, codes


def _of_texts(numbers: IntArray) -> tuple[IntArray, IntArray]:
    """(the place of each number among the distinct ones, the first row of each of these)."""
    distinct, codes = _coded(numbers)
    first = np.empty(len(distinct), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return codes, first


def _coded(numbers: IntArray) -> tuple[IntArray, IntArray]:
    if not len(numbers):
        return numbers, numbers
    low, high = int(numbers.min()), int(numbers.max())
    if high - low < 8 * len(numbers) + _ROOM:
        place = numbers - low
        there = np.zeros(high - low + 1, np.bool_)
        there[place] = True
        return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[place]
    order = np.argsort(numbers)
    ordered = numbers[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    codes = np.empty(len(numbers), np.int64)
    codes[order] = np.cumsum(new) - 1
    return ordered[new], codes
