"""Metrics of click prediction: functions of labels (S,) in {0, 1} and of logits, scores or probabilities (S,).

Symbols: S samples, n+ of them clicked and n- not, p a predicted probability, w the share of the samples without a click
that were kept when the data was made. Everything is computed in float64, whatever comes in, from all samples at once;
a mean over batches is another number. No metric depends on the order of the samples, but for rounding in sums.

What is not defined is NaN: AUC where a class is absent, GAUC where it is in every group, calibration without a click,
anything of no sample. A caller that reports numbers says so instead of guessing 0.5.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffacet.errors import BadLog, BadRun, BadSetting, nearest

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Numbers = NDArray[Any]
"""Numbers of any dtype, one a sample."""
Weight = Literal["samples", "equal", "clicks"]
"""How much a group counts in GAUC: its samples, one, or its clicks."""
NAN = float("nan")


def checked(labels: Numbers, *scores: Numbers) -> tuple[BoolArray, list[FloatArray]]:
    """The labels as (S,) bool and each vector of scores as (S,) float64.

    Raises:
        BadSetting: they are not one-dimensional and equally long.
        BadLog: a label is neither 0 nor 1.
        BadRun: a score is not a finite number.
    """
    marks = np.asarray(labels)
    vectors = [np.asarray(score, dtype=np.float64) for score in scores]
    shapes = [marks.shape, *(vector.shape for vector in vectors)]
    if len(marks.shape) != 1 or len(set(shapes)) != 1:
        raise BadSetting(f"labels and scores are vectors, one number for each sample; got the shapes {shapes}")
    wrong = np.flatnonzero((marks != 0) & (marks != 1))
    if len(wrong):
        raise BadLog(f"a label is 0 or 1; that of sample {wrong[0]} (counted from 0) is {marks[wrong[0]]}")
    for vector in vectors:
        wrong = np.flatnonzero(~np.isfinite(vector))
        if len(wrong):
            raise BadRun(
                f"a score is a finite number; that of sample {wrong[0]} (counted from 0) is {vector[wrong[0]]}, "
                f"and {len(wrong)} of {len(vector)} are none: the model may have diverged, try a lower lr"
            )
    return marks == 1, vectors


def auc(labels: Numbers, scores: Numbers) -> float:
    """The share of pairs (click, no click) in which the click scores higher, equal scores counted one half.

    (R+ - n+ (n+ + 1) / 2) / (n+ n-), R+ the sum of the midranks of clicks; computed by scikit-learn. NaN where there
    is no click or nothing else. Errors: see `checked`.
    """
    clicked, (score,) = checked(labels, scores)
    if not 0 < clicked.sum() < len(clicked):
        return NAN
    # Its import takes longer than all of diffacet's, and most commands need no AUC.
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(clicked, score))


@dataclass(frozen=True)
class Grouped:
    """An average over groups, and what it is an average of.

    Attributes:
        value: the average over the covered groups; NaN if there is none.
        groups: groups that occur.
        covered_groups: those with both classes.
        samples: S.
        covered_samples: samples in covered groups.
    """

    value: float
    groups: int
    covered_groups: int
    samples: int
    covered_samples: int

    @property
    def coverage(self) -> float:
        """Share of the samples that count; NaN without a sample."""
        return self.covered_samples / self.samples if self.samples else NAN


def gauc(labels: Numbers, scores: Numbers, groups: Numbers, weight: Weight = "samples") -> Grouped:
    """The AUC inside each group, averaged over the groups that have both classes: sum w_g AUC_g / sum w_g.

    One sort by (group, score), sums over segments, and no loop over groups.

    Args:
        labels: (S,) 0 or 1.
        scores: (S,) numbers.
        groups: (S,) whose sample each is: users, or pages of results.
        weight: w_g: "samples" (DIN), "equal" (the average of MIND), or "clicks".

    Raises:
        BadSetting: there is no such weight, or the vectors are not equally long.
        BadLog, BadRun: see `checked`.
    """
    if weight not in get_args(Weight):
        allowed = get_args(Weight)
        raise BadSetting(f"weight is one of {', '.join(allowed)}; got '{weight}'{nearest(weight, allowed)}")
    clicked, (score,) = checked(labels, scores)
    if np.shape(groups) != clicked.shape:
        raise BadSetting(f"groups are one for each of {len(clicked)} samples; got the shape {np.shape(groups)}")
    order = np.lexsort((score, groups))
    group, score, ones = groups[order], score[order], clicked[order].astype(np.float64)
    if not len(ones):
        return Grouped(NAN, 0, 0, 0, 0)
    opens = np.concatenate([[True], group[1:] != group[:-1]])
    begin = np.flatnonzero(opens)  # of each group
    tie = np.flatnonzero(opens | np.concatenate([[True], score[1:] != score[:-1]]))  # of each run of equal scores
    before = tie - begin[np.cumsum(opens)[tie] - 1]  # samples of the group with a lower score
    midrank = before + (np.diff(tie, append=len(ones)) + 1) / 2
    rank_sum = np.add.reduceat(midrank * np.add.reduceat(ones, tie), np.searchsorted(tie, begin))
    size, clicks = np.diff(begin, append=len(ones)), np.add.reduceat(ones, begin)
    both = (clicks > 0) & (clicks < size)
    size, clicks, rank_sum = size[both], clicks[both], rank_sum[both]
    each = (rank_sum - clicks * (clicks + 1) / 2) / (clicks * (size - clicks))
    share = {"samples": size, "equal": np.ones(len(size)), "clicks": clicks}[weight]
    value = float((share * each).sum() / share.sum()) if len(size) else NAN
    return Grouped(value, len(begin), len(size), len(ones), int(size.sum()))


def log_loss(labels: Numbers, logits: Numbers) -> float:
    """Mean of -y ln p - (1 - y) ln(1 - p), p the logistic function of the logit but never rounded to 0 or 1.

    Errors: see `checked`.
    """
    clicked, (logit,) = checked(labels, logits)
    return _mean(np.logaddexp(0.0, logit) - clicked * logit)


def normalised_entropy(labels: Numbers, logits: Numbers) -> float:
    """The log loss, as a share of that of always answering the click rate; below 1 is better than that.

    NaN where a class is absent. Errors: `checked`.
    """
    loss, rate = log_loss(labels, logits), _mean(np.asarray(labels, np.float64))
    if not 0 < rate < 1:
        return NAN
    return loss / (-rate * math.log(rate) - (1 - rate) * math.log1p(-rate))


def relative_improvement(value: float, base: float) -> float:
    """RelaImpr in percent: by how much the AUC `value` is further above one half than the AUC `base` is.

    ((value - 1/2) / (base - 1/2) - 1) * 100 (DiffuMIN, Eq. 25); from AUCs as they were computed, not as printed.

    Raises:
        BadSetting: `base` is not above one half, so that nothing can be a share of its excess.
    """
    if not base > 0.5:
        raise BadSetting(
            f"a relative improvement needs a base with an AUC above 0.5; got {base}: name another model as base"
        )
    return ((value - 0.5) / (base - 0.5) - 1) * 100


@dataclass(frozen=True, eq=False)
class Calibration:
    """How predicted probabilities compare with what happened, in bins of equally many samples by rising prediction.

    Attributes:
        expected: (b,) float64, mean prediction of each bin.
        observed: (b,) float64, its share of clicks; samples with equal predictions share theirs.
        counts: (b,) int64, its samples; two bins differ by one at most.
        pcoc: mean prediction / share of clicks, of all; NaN without a click. Above 1: too many clicks are predicted.
        ece: expected calibration error, the mean over samples of |expected - observed| of their bins.
    """

    expected: FloatArray
    observed: FloatArray
    counts: NDArray[np.int64]
    pcoc: float
    ece: float


def calibration(labels: Numbers, probabilities: Numbers, bins: int = 20) -> Calibration:
    """The calibration in `bins` bins, fewer where there are fewer samples.

    Where a bin ends among samples with equal predictions, each of them counts with the mean of their labels; else the
    bins would depend on the order of the samples.

    Raises:
        BadSetting: no bin, or a number outside [0, 1].
        BadLog, BadRun: see `checked`.
    """
    if bins < 1:
        raise BadSetting(f"calibration needs at least one bin; got {bins}")
    clicked, (p,) = checked(labels, probabilities)
    if len(p) and not 0 <= p.min() <= p.max() <= 1:
        raise BadSetting(f"probabilities lie in [0, 1]; got {p.min()} to {p.max()}: pass logits through the sigmoid")
    if not len(p):
        return Calibration(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), NAN, NAN)
    order = np.argsort(p)
    p, ones = p[order], clicked[order].astype(np.float64)
    tie = np.flatnonzero(np.concatenate([[True], p[1:] != p[:-1]]))
    width = np.diff(tie, append=len(p))
    observed = np.repeat(np.add.reduceat(ones, tie) / width, width)
    edges = np.arange(min(bins, len(p)) + 1) * len(p) // min(bins, len(p))
    counts = np.diff(edges)
    expected, observed = (np.add.reduceat(values, edges[:-1]) / counts for values in (p, observed))
    pcoc = float(p.mean() / ones.mean()) if ones.any() else NAN
    return Calibration(expected, observed, counts, pcoc, float((counts * np.abs(expected - observed)).sum() / len(p)))


def corrected_logits(logits: Numbers, negative_rate: float) -> FloatArray:
    """(S,) float64, logit + ln w: what logits mean before samples without a click were dropped.

    A probability p becomes p / (p + (1 - p) / w).

    Args:
        logits: (S,), of a model that was trained on what was kept.
        negative_rate: w, the share of the samples without a click that was kept.

    Raises:
        BadSetting: w is not in (0, 1].
    """
    _check_rate(negative_rate)
    return np.asarray(logits, np.float64) + math.log(negative_rate)


def sigmoid(logits: Numbers) -> FloatArray:
    """1 / (1 + exp(-logit)), float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def measure(
    labels: Numbers, logits: Numbers, groups: Numbers | None = None, negative_rate: float = 1.0
) -> dict[str, float]:
    """Every metric of one evaluation, by name; NaN where one is not defined.

    auc, gauc (over `groups`, weighted by samples), log_loss, ne (normalised entropy), pcoc and ece (20 bins),
    click_rate, gauc_coverage (the share of samples in groups that count).

    Args:
        labels: (S,) 0 or 1.
        logits: (S,).
        groups: (S,) whose sample each is; None: GAUC is NaN.
        negative_rate: w of `corrected_logits`, for all that reads the logits as probabilities.

    Raises:
        BadSetting: w is not in (0, 1], or the vectors are not equally long.
        BadLog, BadRun: see `checked`.
    """
    clicked, (logit,) = checked(labels, logits)
    fair = corrected_logits(logit, negative_rate)
    grouped = Grouped(NAN, 0, 0, 0, 0) if groups is None else gauc(clicked, logit, groups)
    table = calibration(clicked, sigmoid(fair))
    return {
        "auc": auc(clicked, logit),
        "gauc": grouped.value,
        "log_loss": log_loss(clicked, fair),
        "ne": normalised_entropy(clicked, fair),
        "pcoc": table.pcoc,
        "ece": table.ece,
        "click_rate": _mean(clicked.astype(np.float64)),
        "gauc_coverage": grouped.coverage,
    }


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else NAN


def _check_rate(negative_rate: float) -> None:
    if not 0 < negative_rate <= 1:
        raise BadSetting(
            f"negative_rate is the share of samples without a click that was kept, in (0, 1]; got {negative_rate}"
        )
