"""Exposure: how evenly ranked lists show the catalogue; functions of how often each item is in the lists."""

import numpy as np

from diffacet.data.sequences import IntArray


def coverage(counts: IntArray) -> float:
    """The share of the N items that are in any list; 0 for an empty catalogue.

    Args:
        counts: (N,) int64, how many lists hold each item.
    """
    return float(np.count_nonzero(counts) / max(len(counts), 1))


def gini(counts: IntArray) -> float:
    """The Gini coefficient of the counts: 0 where all items are shown alike, 1 - 1/N where one item has every place.

    With x_1 <= ... <= x_N, items that are never shown included: Σ_i (2i - N - 1) x_i / (N Σ_i x_i), the mean
    absolute difference of two items divided by twice their mean. NaN where nothing is shown.

    Args:
        counts: (N,) int64, how many lists hold each item.
    """
    n, total = len(counts), int(counts.sum())
    if not total:
        return float("nan")
    weights = 2 * np.arange(1, n + 1, dtype=np.int64) - n - 1
    return float(weights @ np.sort(counts)) / (n * total)
