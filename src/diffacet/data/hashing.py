"""Hashes of ids that no process, file, row order or machine changes; in NumPy, without a loop over ids."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data.sequences import IntArray

U64 = NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, as in SplitMix64
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # SplitMix64's


def mixed(numbers: U64) -> U64:
    """`numbers` (n,) stirred one to one, so that close ones lie far apart: SplitMix64's last step."""
    found = numbers + _ODD
    found = (found ^ (found >> np.uint64(30))) * _MIX[0]
    found = (found ^ (found >> np.uint64(27))) * _MIX[1]
    return found ^ (found >> np.uint64(31))


def ids(values: pl.Series) -> U64:
    """(n,) 64-bit hashes of the ids `values`, taken as text: 12 and "12" hash alike. No null is among them.

    The bytes b_0 b_1 ... give the sum of mixed(b_i) M^i modulo 2^64, M odd, and then the length is mixed in.
    """
    texts = values.cast(pl.String)
    lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
    flat = np.frombuffer(texts.str.join("").item().encode(), np.uint8)
    start = np.cumsum(lengths) - lengths
    within = np.arange(len(flat), dtype=np.int64) - np.repeat(start, lengths)
    powers = np.full(int(lengths.max(initial=0)) + 1, _MIX[0])
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    terms = mixed(flat.astype(np.uint64)) * powers[within]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return mixed((sums[start + lengths] - sums[start]) ^ mixed(lengths.astype(np.uint64)))


def cases(users: U64, items: U64, times: IntArray) -> IntArray:
    """(S,) int64 hashes of samples out of the hashes of their users and items (S,) and of their times (S,)."""
    return mixed(mixed(users + mixed(items)) + times.astype(np.uint64)).view(np.int64)
