"""Sets of whole numbers as sorted arrays; NumPy 2.3 hashes them instead, which takes hundreds of times as long."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def distinct(numbers: IntArray) -> IntArray:
    """The different ones among `numbers` (any shape), ascending: (m,) int64."""
    ordered = np.sort(numbers, axis=None)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]


def within(numbers: IntArray, those: IntArray) -> NDArray[np.bool_]:
    """For each of `numbers` (any shape) whether it is among `those`, which ascend."""
    if not len(those):
        return np.zeros(numbers.shape, np.bool_)
    place = np.minimum(np.searchsorted(those, numbers), len(those) - 1)
    return those[place] == numbers
