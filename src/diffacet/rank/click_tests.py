"""Whether two click models differ: DeLong's test, the bootstrap over users, Welch's test over seeds.

DeLong's test takes samples for independent, which those of one user are not: its intervals are too narrow where users
have many samples. The bootstrap draws whole users. Both ask about one trained pair of models; only several seeds of
each say whether the method is better, and that is Welch's question.

Symbols: S samples, m of them clicked and n not, U users, R resamples, C models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import special

from diffacet import seeds
from diffacet.arrays import distinct
from diffacet.errors import BadSetting
from diffacet.rank.clicks import NAN, BoolArray, FloatArray, Numbers, checked

IntArray = NDArray[np.int64]
LEVEL = 0.95
"""Of every interval here."""


@dataclass(frozen=True)
class Difference:
    """Two AUCs on the same samples, and what chance may have done to their difference.

    Attributes:
        auc_a: of the first model.
        auc_b: of the second.
        difference: auc_a - auc_b.
        deviation: standard deviation of the difference.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided p-value of no difference.
    """

    auc_a: float
    auc_b: float
    difference: float
    deviation: float
    low: float
    high: float
    p: float


def midranks(values: Numbers) -> FloatArray:
    """(n,) float64, the rank of each value from 1, equal values sharing the mean of theirs."""
    order = np.argsort(values)
    ordered = values[order]
    tie = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
    width = np.diff(tie, append=len(ordered))
    ranks = np.empty(len(ordered))
    ranks[order] = np.repeat(tie + (width + 1) / 2, width)
    return ranks


def delong(labels: Numbers, scores_a: Numbers, scores_b: Numbers) -> Difference:
    """DeLong's test (Biometrics 1988) that two score vectors have one AUC, in O(S log S) by midranks (Sun and Xu 2014).

    All but the AUCs and their difference are NaN with fewer than two clicks or two others; all is without a class.
    Scores that order every pair of classes alike have p = 1. Errors: `clicks.checked`.
    """
    clicked, (a, b) = checked(labels, scores_a, scores_b)
    (auc_a, clicks_a, others_a), (auc_b, clicks_b, others_b) = _placements(clicked, a), _placements(clicked, b)
    deviation = _deviation(clicks_a - clicks_b, others_a - others_b)
    return _normal(auc_a, auc_b, deviation)


def delong_interval(labels: Numbers, scores: Numbers) -> tuple[float, float, float]:
    """(AUC, low, high): the AUC and DeLong's 95 % interval of it, cut at 0 and 1; NaN as in `delong`."""
    clicked, (score,) = checked(labels, scores)
    value, clicks, others = _placements(clicked, score)
    reach = _reach() * _deviation(clicks, others)
    if math.isnan(reach):
        return value, NAN, NAN
    return value, max(0.0, value - reach), min(1.0, value + reach)


def bootstrap_users(
    labels: Numbers,
    scores_a: Numbers,
    scores_b: Numbers,
    users: Numbers,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """The difference of two AUCs with the spread that it has when users are drawn anew.

    The AUCs are those of the data; deviation and interval (percentiles) are of the resampled differences, and p is
    twice the smaller share of them on one side of zero, one more counted there, so that it is never 0. A resample
    without both classes does not count; if none counts, the spread is NaN.

    Args:
        labels: (S,) 0 or 1.
        scores_a: (S,) of the first model.
        scores_b: (S,) of the second.
        users: (S,) whole numbers, whose sample each is.
        resamples: R.
        seed: of the draws, which depend on nothing else but the number of users.

    Raises:
        BadSetting: fewer than two resamples, or the vectors are not equally long.
        BadLog, BadRun: see `clicks.checked`.
    """
    clicked, (a, b) = checked(labels, scores_a, scores_b)
    values = resampled(clicked, [a, b], users, resamples, seed)
    auc_a, auc_b = (Ordered(clicked, score).auc() for score in (a, b))
    draws = values[:, 0] - values[:, 1]
    draws = draws[~np.isnan(draws)]
    if len(draws) < 2:
        return Difference(auc_a, auc_b, auc_a - auc_b, NAN, NAN, NAN, NAN)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    side = int(min((draws <= 0).sum(), (draws >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (len(draws) + 1))
    return Difference(auc_a, auc_b, auc_a - auc_b, float(draws.std(ddof=1)), float(low), float(high), p)


def resampled(
    labels: Numbers, scores: Sequence[Numbers], users: Numbers, resamples: int = 1000, seed: int = 0
) -> FloatArray:
    """The exact AUC of every model in every resample of the users, (R, C) float64; NaN where a class is absent.

    A resample draws U users with replacement, the same for all models; a user who is drawn k times counts k times with
    all samples. Scores are sorted once, and a resample costs O(S + U); memory holds one resample at a time.

    Args:
        labels: (S,) 0 or 1.
        scores: C vectors (S,).
        users: (S,) whole numbers.
        resamples: R.
        seed: of the draws.

    Raises:
        BadSetting: fewer than two resamples, or the vectors are not equally long.
        BadLog, BadRun: see `clicks.checked`.
    """
    clicked, vectors = checked(labels, *scores)
    if resamples < 2:
        raise BadSetting(f"the bootstrap needs at least 2 resamples, 1,000 for an interval; got {resamples}")
    whose = np.asarray(users)
    if whose.shape != clicked.shape:
        raise BadSetting(f"users are one for each of {len(clicked)} samples; got the shape {whose.shape}")
    different = distinct(whose)
    place = np.searchsorted(different, whose)
    models = [Ordered(clicked, vector, place) for vector in vectors]
    rng = seeds.stream(seed, "resampled users")
    values = np.full((resamples, len(models)), NAN)
    for row in values if len(different) else ():
        times = np.bincount(rng.integers(0, len(different), len(different)), minlength=len(different))
        row[:] = [model.auc(times) for model in models]
    return values


class Ordered:
    """Samples whose scores were sorted once, for AUCs under many weightings of their users."""

    def __init__(self, clicked: BoolArray, score: FloatArray, place: IntArray | None = None) -> None:
        """Sorts.

        Args:
            clicked: (S,) bool.
            score: (S,) float64.
            place: (S,) int64, the place of each sample's user among the weights; None: every sample weighs one.
        """
        owner = np.zeros(len(score), np.int64) if place is None else place
        rest = np.flatnonzero(~clicked)
        rest = rest[np.argsort(score[rest])]
        hits = np.flatnonzero(clicked)
        hits = hits[np.argsort(score[hits])]  # so that what is read below lies side by side
        self._others, self._clicks = owner[rest], owner[hits]
        self._below = np.searchsorted(score[rest], score[hits], side="left")
        self._up_to = np.searchsorted(score[rest], score[hits], side="right")

    def auc(self, times: IntArray | None = None) -> float:
        """The AUC when every sample of the user at place u occurs times[u] times; NaN where a class is absent.

        Args:
            times: (U,) int64; None: once.
        """
        weight = np.ones(1, np.int64) if times is None else times
        lower = np.concatenate([[0], np.cumsum(weight[self._others])])  # by how many others of lower scores
        clicks = weight[self._clicks]
        pairs = int(lower[-1]) * int(clicks.sum())
        if not pairs:
            return NAN
        return int(clicks @ (lower[self._below] + lower[self._up_to])) / (2 * pairs)


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of Welch's t-test that two methods have one mean, from a number for each seed of each.

    Student's t with Welch's freedom, a fraction. NaN where a method has fewer than two seeds or a number that is NaN.
    Without any spread p is 1 for equal means and 0 for different ones.
    """
    if min(len(a), len(b)) < 2:
        return NAN
    (mean_a, spread_a), (mean_b, spread_b) = _moments(a), _moments(b)
    total = spread_a + spread_b
    if math.isnan(total):
        return NAN
    if total == 0:
        return float(mean_a == mean_b)
    freedom = total**2 / (spread_a**2 / (len(a) - 1) + spread_b**2 / (len(b) - 1))
    t = (mean_a - mean_b) / math.sqrt(total)
    return float(special.betainc(freedom / 2, 0.5, freedom / (freedom + t * t)))


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its squared standard error; exactly 0 where all values are one, whose mean may be rounded."""
    numbers = np.asarray(values, np.float64)
    if (numbers == numbers[0]).all():
        return float(numbers[0]), 0.0
    return float(numbers.mean()), float(numbers.var(ddof=1)) / len(numbers)


def _placements(clicked: BoolArray, score: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """The AUC, for each click (m,) the share of the others below it, for each other (n,) the share of clicks above."""
    m, n = int(clicked.sum()), int((~clicked).sum())
    if not m or not n:
        return NAN, np.full(m, NAN), np.full(n, NAN)
    ranks = midranks(score)
    clicks = ranks[clicked] - midranks(score[clicked])
    others = m - (ranks[~clicked] - midranks(score[~clicked]))
    return float(clicks.sum() / (m * n)), clicks / n, others / m


def _deviation(clicks: FloatArray, others: FloatArray) -> float:
    """The standard deviation of a mean of placements, or of their differences: (m,) and (n,)."""
    if min(len(clicks), len(others)) < 2:
        return NAN
    return math.sqrt(float(clicks.var(ddof=1)) / len(clicks) + float(others.var(ddof=1)) / len(others))


def _normal(auc_a: float, auc_b: float, deviation: float) -> Difference:
    """The difference with the interval and p-value of a normal law."""
    difference = auc_a - auc_b
    reach = _reach() * deviation
    if deviation > 0:
        p = math.erfc(abs(difference) / deviation / math.sqrt(2))
    else:
        p = NAN if math.isnan(deviation) else float(difference == 0)
    return Difference(auc_a, auc_b, difference, deviation, difference - reach, difference + reach, p)


def _reach() -> float:
    """Standard deviations to each side that a normal interval reaches."""
    return NormalDist().inv_cdf((1 + LEVEL) / 2)
