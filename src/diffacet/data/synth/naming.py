"""Ids that look as those of a system do: far apart, in no order, each once."""

import numpy as np
import polars as pl

from diffacet import seeds
from diffacet.data.sequences import IntArray
from diffacet.data.synth.settings import TEXT


class Names:
    """Ids of the numbers 0..n - 1: a seeded one-to-one map of whole numbers below a power of two."""

    def __init__(self, n: int, kind: str, letter: str, seed: int) -> None:
        """`kind` is "numbers" or "text"; `letter` begins a text id and tells users' numbers from items'."""
        self.bits = max(24, n.bit_length() + 6)
        self.letter = letter if kind == TEXT else ""
        draw = seeds.stream(seed, "synth", "ids", letter)
        self._odd = draw.integers(0, 1 << (self.bits - 1), 3, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._add = np.uint64(draw.integers(0, 1 << self.bits))

    def numbers(self, of: IntArray) -> IntArray:
        """(n,) int64 different numbers in 0..2^bits - 1 for different `of` (n,)."""
        mask, half = np.uint64((1 << self.bits) - 1), np.uint64(self.bits // 2 + 1)
        found = (of.astype(np.uint64) + self._add) & mask
        for odd in self._odd:  # an odd factor and a shifted xor can both be undone
            found = (found * odd) & mask
            found ^= found >> half
        return found.astype(np.int64)

    def series(self, of: IntArray) -> pl.Series:
        """The ids of `of` (n,): Int64, or text such as "u00f3a9c1"."""
        found = pl.Series(self.numbers(of))
        if not self.letter:
            return found
        digits = len(str((1 << self.bits) - 1))
        return self.letter + found.cast(pl.String).str.zfill(digits)
