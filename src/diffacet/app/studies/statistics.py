"""Paired tests over users (bootstrap, sign flips) and over seeds (Student's t), and Holm's correction.

A user may be tested under several seeds, and those differences are not independent. So a user's differences are
drawn, or flipped, together: everything here takes sums and counts for each user (clusters), not single values.
Symbols: U users, C comparisons, R resamples.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from diffacet import seeds

FloatArray = NDArray[np.float64]
RESAMPLES = 4_000
FLIPS = 9_999
_BLOCK = 4_000_000  # drawn numbers held at a time


def bootstrap(sums: FloatArray, counts: FloatArray, resamples: int = RESAMPLES) -> FloatArray:
    """Means of resampled users, (R, C) float64: each draws U users with replacement; always the same draws.

    Args:
        sums: (U, C) float64, the sum of each user's values.
        counts: (U, C) float64, how many values these are; 0 where a user has none.
        resamples: R.
    """
    rng = seeds.stream(0, "bootstrap")
    n = len(sums)
    parts = []
    for size in _blocks(n, resamples):
        picks = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        weights = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        total, number = weights @ sums, weights @ counts
        parts.append(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))
    return np.concatenate(parts)


def interval(means: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ends of the 95 % percentile interval of bootstrap means (R, C), each (C,)."""
    low, high = np.nanquantile(means, [0.025, 0.975], axis=0)
    return low, high


def sign_flips(sums: FloatArray, flips: int = FLIPS) -> FloatArray:
    """Two-sided p-values (C,) of the hypothesis that each user's sum may as well have the other sign.

    The share of random sign assignments, the observed one counted among them, whose total is as far from zero
    as the observed one; so p is never 0. Always the same signs, for all C comparisons.

    Args:
        sums: (U, C) float64, the sum of each user's paired differences.
        flips: sign assignments drawn.
    """
    rng = seeds.stream(0, "sign flips")
    n = len(sums)
    # Totals that differ by rounding only are the same.
    observed = np.abs(sums.sum(0)) - 1e-9 * np.abs(sums).sum(0)
    reached = np.ones(sums.shape[1])
    for size in _blocks(n, flips):
        signs = 2.0 * rng.integers(0, 2, (size, n), dtype=np.int8) - 1.0
        reached += (np.abs(signs @ sums) >= observed).sum(0)
    return reached / (flips + 1)


def _blocks(n: int, total: int) -> Iterator[int]:
    block = max(1, _BLOCK // max(n, 1))
    yield from (min(block, total - begin) for begin in range(0, total, block))


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided p-value of Student's t-test that paired differences (n of them) have mean 0; NaN below two."""
    n = len(differences)
    if n < 2:
        return float("nan")
    values = np.asarray(differences, dtype=np.float64)
    error = float(values.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return 1.0 if values[0] == 0 else 0.0
    return two_sided_t(float(values.mean()) / error, n - 1)


def two_sided_t(t: float, freedom: int) -> float:
    """P(|T| >= |t|) for Student's t with `freedom` >= 1 degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    theta = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    term = total = cosine if freedom % 2 else 1.0
    for k in range(3 if freedom % 2 else 2, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if not freedom % 2:
        return max(0.0, 1.0 - sine * total)
    return max(0.0, 1.0 - 2 / math.pi * (theta + (sine * total if freedom > 1 else 0.0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; what is NaN was not tested and stays NaN."""
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [float("nan")] * len(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = highest
    return adjusted
