"""Metrics of ranked lists, each a function of hits and target counts; every one is the mean over all users.

Symbols: G_u a user's target list in time order, G'_u its set; R_N the first N items of the user's list;
h = |R_N ∩ G'_u|; D(i) = 1 / log2(i + 2), the discount of the 0-based position i; I_h = sum of D(i), i < h.

The published protocol's numbers (ComiRec, KDD 2020, and the works that follow its code: REMI, RecSys 2023;
DMI, SIGIR 2025) and the textbook's differ in denominators and in the ideal; both are here, by name:

    recall, hit_rate, ndcg      the published protocol
    ndcg_set                    what code that enumerates the list as a Python set measures, in expectation
    ndcg_target                 positions of the targets instead of positions in the list
    recall_textbook, ndcg_textbook, precision, mrr
    recall_min                  recall with the denominator of Mult-VAE's and CODIGEM's codes

In the collaborative protocol (DiffRec, SIGIR 2023) the published numbers are the textbook's: no target repeats, so
recall and recall_textbook are one number, ndcg is there another name of ndcg_textbook (`COLLABORATIVE`), and DiffRec's
Precision and MRR are precision and mrr.

In the next-item protocol each case has one target, of rank r: recall and ndcg_target are there other names of hit_rate,
ndcg and ndcg_textbook are 1 / log2(r + 1) for r <= N, mrr is 1 / r. `check_single_target` holds for the means.

A user without a target counts as 0 everywhere.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffacet.data.sequences import IntArray, Sequences
from diffacet.errors import BadRun, BadSetting, nearest

FloatArray = NDArray[np.float64]
NOWHERE = np.iinfo(np.int64).max
"""The position of what is not in a list: beyond every N."""


@dataclass(frozen=True)
class Matched:
    """Where B users' ranked lists and their targets meet; all that a metric reads.

    Attributes:
        hits: (B, k) bool, true where the ranked item is one of the user's targets.
        lengths: (B,) int64, items in the list; below k where the catalogue is smaller.
        targets: (B,) int64, len(G), repeats counted.
        distinct: (B,) int64, len(G').
        row: (n,) int64, the user of each target, all targets of the B users one after another.
        order: (n,) int64, position j of the target within its user's list G.
        rank: (n,) int64, position of the target in the user's ranked list; `NOWHERE` if it is not in it.
    """

    hits: NDArray[np.bool_]
    lengths: IntArray
    targets: IntArray
    distinct: IntArray
    row: IntArray
    order: IntArray
    rank: IntArray


def match(items: IntArray, targets: IntArray, offsets: IntArray) -> Matched:
    """The meeting of ranked lists with targets.

    Args:
        items: (B, k) int64 ranked item numbers, no item twice in a row; 0 behind the end of a list, which hits nothing.
        targets: (n,) int64 item numbers, 1 and above, the users' target lists one after another, repeats allowed.
        offsets: (B + 1,) int64; user b's targets are targets[offsets[b]:offsets[b + 1]].
    """
    users = len(items)
    counts = np.diff(offsets)
    row = np.repeat(np.arange(users), counts)
    order = np.arange(len(targets)) - np.repeat(offsets[:-1], counts)
    base = max(int(targets.max(initial=0)), int(items.max(initial=0))) + 1
    keys, where = np.unique(row * base + targets, return_inverse=True)  # a user's targets are distinct keys
    listed = np.arange(users)[:, None] * base + items
    place = np.searchsorted(keys, listed)
    hits = np.zeros(items.shape, bool) if not len(keys) else keys[np.minimum(place, len(keys) - 1)] == listed
    rank = np.full(len(keys), NOWHERE)
    rank[place[hits]] = np.nonzero(hits)[1]
    distinct = np.bincount(keys // base, minlength=users)
    return Matched(hits, np.count_nonzero(items, axis=1), counts, distinct, row, order, rank[where])


def match_rows(items: IntArray, target: Sequences, begin: int) -> Matched:
    """`match` for ranked lists (B, k) of rows begin, begin + 1, ... of the held-out targets."""
    offsets = target.offsets[begin : begin + len(items) + 1]
    return match(items, target.items[offsets[0] : offsets[-1]], offsets - offsets[0])


def recall(matched: Matched, n: int) -> FloatArray:
    """The share h / len(G), (B,) float64: targets that repeat count below and not above, as in ComiRec's code."""
    return _share(_count(matched, n), matched.targets)


def recall_textbook(matched: Matched, n: int) -> FloatArray:
    """The share h / len(G'), (B,) float64, of the distinct targets that is in the list."""
    return _share(_count(matched, n), matched.distinct)


def recall_min(matched: Matched, n: int) -> FloatArray:
    """The share h / min(N, len(G')), (B,) float64: 1 where the list is full of targets (the code of Mult-VAE)."""
    return _share(_count(matched, n), np.minimum(matched.distinct, n))


def precision(matched: Matched, n: int) -> FloatArray:
    """The share h / N, (B,) float64; N stays the same where the catalogue is smaller."""
    return _share(_count(matched, n), np.full(len(matched.hits), n))


def hit_rate(matched: Matched, n: int) -> FloatArray:
    """1 if h > 0 else 0, (B,) float64."""
    return (_count(matched, n) > 0).astype(np.float64)


def mrr(matched: Matched, n: int) -> FloatArray:
    """1 / (1 + position of the first hit), (B,) float64; 0 without a hit in the first N."""
    first = matched.hits[:, :n].argmax(1)
    return _share(hit_rate(matched, n), first + 1)


def ndcg(matched: Matched, n: int) -> FloatArray:
    """Sum of D(i) over the positions of hits, divided by I_h, (B,) float64; 0 without a hit.

    The ideal stops at the number of hits, not of targets (ComiRec's code, default branch): the value
    says where the hits stand and not how many they are.
    """
    return _share(_gain(matched, n), _ideal(n)[_count(matched, n)])


def ndcg_textbook(matched: Matched, n: int) -> FloatArray:
    """Sum of D(i) over the positions of hits, divided by I_min(N, len(G')), (B,) float64.

    Järvelin and Kekäläinen, TOIS 2002, with binary relevance.
    """
    return _share(_gain(matched, n), _ideal(n)[np.minimum(matched.distinct, n)])


def ndcg_set(matched: Matched, n: int) -> FloatArray:
    """The value h m_N / I_h with m_N the mean of D(i), i < N, (B,) float64; 0 without a hit.

    The expectation of `ndcg` when the list's order is random. REMI's code takes positions from a Python
    set of item numbers, whose order carries no rank; this is what its NDCG estimates. N is the length of
    the list where the catalogue is smaller.
    """
    ideal, hits, length = _ideal(n), _count(matched, n), np.minimum(matched.lengths, n)
    return _share(hits * _share(ideal[length], length), ideal[hits])


def ndcg_target(matched: Matched, n: int) -> FloatArray:
    """Sum of D(j) over the targets G_j that are in R_N, divided by I_h', (B,) float64; 0 without a hit.

    h' = number of j with G_j in R_N: G is walked in time order, repeats included (ComiRec's code as
    published with the paper, and PIMIRec's): the value says how early in G the found targets stand.
    """
    users, found = len(matched.hits), matched.rank < n
    longest = int(matched.targets.max(initial=0))
    gain = np.bincount(matched.row[found], _discount(longest)[matched.order[found]], minlength=users)
    return _share(gain, _ideal(longest)[np.bincount(matched.row[found], minlength=users)])


METRICS: dict[str, Callable[[Matched, int], FloatArray]] = {
    "recall": recall,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "ndcg_set": ndcg_set,
    "ndcg_target": ndcg_target,
    "recall_textbook": recall_textbook,
    "ndcg_textbook": ndcg_textbook,
    "precision": precision,
    "recall_min": recall_min,
    "mrr": mrr,
}
"""Every metric by its key; `name@N` in results."""


def usual_ks(protocol: str, metric: str | None = None) -> tuple[int, ...]:
    """The lengths of lists in the tables of a protocol of `splits.SPLITS`, ascending; with that of `metric`."""
    usual = (5, 10, 20, 50) if protocol == "leave-last" or protocol.startswith("next-item") else (20, 50)
    return usual if metric is None else tuple(sorted({*usual, int(metric.partition("@")[2])}))


def check_metric(metric: str) -> None:
    """Refuse an unknown metric, given as `name@N`, now and not at the first validation. Raises BadSetting."""
    name = metric.partition("@")[0]
    if name not in METRICS:
        raise BadSetting(f"metric: there is no '{name}'{nearest(name, METRICS)}. There are: {', '.join(METRICS)}")


def check_single_target(metrics: Mapping[str, float], rounding: float = 1e-9) -> None:
    """Refuse `hit_rate@k` and `ndcg@k` that cannot belong to the same lists, when each case has one target.

    With Δ the step from a k to the next larger one, k₀ = 0 and all metrics 0 there, ranks above k₀ and up to k give
    ΔHR / log2(k + 1) <= ΔNDCG <= ΔHR / log2(k₀ + 2). A k that lacks one of the two metrics is passed over.

    Args:
        metrics: means over the same cases, `name@k`; others than these two may be there.
        rounding: how far each may be from the true mean; half a unit of the last digit of printed numbers.

    Raises:
        BadRun: naming the columns that come from different runs.
    """
    ks = sorted(int(key.partition("@")[2]) for key in metrics if key.startswith("hit_rate@"))
    both = [(k, metrics[f"hit_rate@{k}"], metrics[f"ndcg@{k}"]) for k in ks if f"ndcg@{k}" in metrics]
    for (before, less, low), (k, more, high) in itertools.pairwise([(0, 0.0, 0.0), *both]):
        hits, gain, slack = more - less, high - low, rounding * (2 if before else 1)
        least, most = 1 / math.log2(k + 1), 1 / math.log2(before + 2)
        # Written so that a number that is none (NaN) is refused, too.
        if not (hits >= -slack and (hits - slack) * least - slack <= gain <= (hits + slack) * most + slack):
            names = [
                f"{name}@{n} {metrics[f'{name}@{n}']:.6g}" for n in (before, k) if n for name in ("hit_rate", "ndcg")
            ]
            raise BadRun(
                f"{', '.join(names)} cannot be of the same lists with one target a case: ndcg rises by {gain:.6g}, "
                f"and hits of these ranks allow {hits * least:.6g} to {hits * most:.6g}; measure them together"
            )


COLLABORATIVE = METRICS | {"ndcg": ndcg_textbook}
"""The same where the published protocol is DiffRec's."""


def _discount(n: int) -> FloatArray:
    """(n,) D(0), ..., D(n - 1)."""
    return 1.0 / np.log2(np.arange(2, n + 2))


def _ideal(n: int) -> FloatArray:
    """(n + 1,) I_0, ..., I_n."""
    return np.concatenate(([0.0], np.cumsum(_discount(n))))


def _count(matched: Matched, n: int) -> IntArray:
    return np.count_nonzero(matched.hits[:, :n], axis=1)


def _gain(matched: Matched, n: int) -> FloatArray:
    hits = matched.hits[:, :n]
    # No matrix product: its order of summation, and so the last digit, may depend on the number of rows.
    return np.where(hits, _discount(hits.shape[1]), 0.0).sum(1)


def _share(above: IntArray | FloatArray, below: IntArray | FloatArray) -> FloatArray:
    """The quotient above / below, (B,), 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros(len(below)), where=below != 0)
