"""To which partition a user belongs: by the hash of the id, and quickly where ids are whole numbers."""

from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data import hashing
from diffacet.data.hashing import U64
from diffacet.data.sequences import IntArray
from diffacet.data.streaming.coding import coded

Places = NDArray[np.uint16]
MOST = 9999
"""Partitions at most: their files are numbered by five digits, and a number fits into 16 bits."""
_FACTOR = np.uint64(0xBF58476D1CE4E5B9)  # the M of `hashing.ids`
_DIGITS = 4  # taken at once
_HALF = np.uint64(32)
_BLOCK = 2**15  # rows at once, so that what is worked on stays in the cache


def hashed(ids: pl.Series) -> U64:
    """(n,) `hashing.ids` of ids that may repeat: Int64 or String."""
    if ids.dtype == pl.Int64:
        numbers = ids.to_numpy()
        return np.concatenate([np.zeros(0, np.uint64), *(_of_whole(numbers[at]) for at in _blocks(len(numbers)))])
    distinct, codes = coded(ids)
    return hashing.ids(distinct)[codes]


def partition_of(hashes: U64, partitions: int) -> Places:
    """(n,) uint16 floor(hash * partitions / 2^64), exactly."""
    low, high, count = hashes & np.uint64(2**32 - 1), hashes >> _HALF, np.uint64(partitions)
    return ((high * count + (low * count >> _HALF)) >> _HALF).astype(np.uint16)


def partitions_of(ids: pl.Series, partitions: int) -> Places:
    """(n,) uint16 the partition of each id, of so many; ids may repeat."""
    if ids.dtype == pl.Int64:
        numbers = ids.to_numpy()
        return np.concatenate([partition_of(_of_whole(numbers[at]), partitions) for at in _blocks(len(numbers))])
    distinct, codes = coded(ids)
    return partition_of(hashing.ids(distinct), partitions)[codes]


def _blocks(rows: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK)]


@cache
def _tables() -> tuple[U64, U64, U64]:
    """Of four digits, then of a number of at most four (without zeros before it): sum, factor of the rest, length.

    With the bytes b_i of a number's text and S = sum of mixed(b_i) M^i, the text of digits D before a text T has
    S(DT) = S(D) + M^len(D) S(T); so digits are taken from the end of the number.
    """
    bytes_ = hashing.mixed(np.arange(ord("0"), ord("9") + 1, dtype=np.uint64))
    powers = np.array([pow(int(_FACTOR), k, 2**64) for k in range(_DIGITS + 1)], np.uint64)
    numbers = np.arange(10**_DIGITS)
    places = np.stack([numbers // 10 ** (_DIGITS - 1 - k) % 10 for k in range(_DIGITS)])
    whole = (bytes_[places] * powers[:_DIGITS, None]).sum(0, dtype=np.uint64)
    length = np.searchsorted(10 ** np.arange(1, _DIGITS), numbers, side="right") + 1
    bare = np.zeros(len(numbers), np.uint64)
    for size in range(1, _DIGITS + 1):
        here = length == size
        found = (bytes_[places[_DIGITS - size :, here]] * powers[:size, None]).sum(0, dtype=np.uint64)
        bare[here] = found
    factors = np.concatenate([np.full(len(numbers), powers[_DIGITS]), powers[length]])
    lengths = np.concatenate([np.full(len(numbers), _DIGITS), length]).astype(np.uint64)
    return np.concatenate([whole, bare]), factors, lengths


def _of_whole(numbers: IntArray) -> U64:
    """The hashes of `numbers` (n,) as `hashing.ids` has them of their texts, without writing these."""
    sums, factors, lengths = _tables()
    step = np.uint64(10**_DIGITS)
    rest, negative = numbers.view(np.uint64), numbers < 0
    signed = bool(negative.any())
    if signed:
        rest = np.where(negative, ~rest + np.uint64(1), rest)
    found, length = np.zeros(len(rest), np.uint64), np.zeros(len(rest), np.uint64)
    rows: IntArray | slice = slice(None)
    while len(rest):
        more = rest // step
        last = more == 0
        place = (rest - more * step + step * last).view(np.int64)
        found[rows] = sums[place] + factors[place] * found[rows]
        length[rows] += lengths[place]
        if last.any():
            rows = np.arange(len(found))[rows][~last]
            more = more[~last]
        rest = more
    if signed:
        minus = hashing.mixed(np.array([ord("-")], np.uint64))
        found = np.where(negative, minus + _FACTOR * found, found)
        length = length + negative
    return hashing.mixed(found ^ hashing.mixed(length))
