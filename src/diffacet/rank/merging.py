"""From the lists of K interests to one: without what was seen, merged by score, or chosen for variety too."""

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from diffacet.arrays import distinct, within
from diffacet.data.sequences import IntArray
from diffacet.errors import BadSetting
from diffacet.rank.index import Index

FloatArray = NDArray[np.float32]
Lists = tuple[FloatArray, IntArray, IntArray]
"""Scores, item numbers, and which interest gave each; of one shape."""


def merge(scores: FloatArray, numbers: IntArray, k: int) -> Lists:
    """The k best distinct items of K lists: an item counts with its best score.

    If each list holds an interest's k best items, this equals the k best of the maximum over the interests
    over the whole catalogue: higher score first, ties to the smaller number, as in `ranking.top_k`.

    Args:
        scores: (..., K, n) float32.
        numbers: (..., K, n) int64 item numbers; 0 is no item.
        k: items wanted.

    Returns:
        Scores (..., k) float32, numbers (..., k) int64 and the interest (..., k) int64 that gave each score
        (the first, if several did); -inf, 0 and 0 where there are fewer than k items.

    Source: ComiRec, KDD 2020, aggregation module.
    """
    *lead, K, n = scores.shape
    score = np.where(numbers == 0, -np.inf, scores).reshape(*lead, K * n).astype(np.float32)
    number = numbers.reshape(*lead, K * n)
    interest = np.broadcast_to(np.repeat(np.arange(K), n), number.shape)
    order = np.lexsort((interest, -score, number))
    score, number, interest = _gathered((score, number, interest), order)
    score[..., 1:][number[..., 1:] == number[..., :-1]] = -np.inf
    best = np.lexsort((number, -score))[..., :k]
    score, number, interest = _gathered((score, number, interest), best)
    wider = [(0, 0)] * len(lead) + [(0, k - best.shape[-1])]
    score, number, interest = (
        np.pad(score, wider, constant_values=-np.inf),
        np.pad(number, wider),
        np.pad(interest, wider),
    )
    number[score == -np.inf] = 0
    interest[score == -np.inf] = 0
    return score, number, interest


def diversify(scores: FloatArray, categories: IntArray, k: int, kappa: float) -> IntArray:
    """Positions of the candidates chosen one by one for score and for new categories, in the order of choice.

    Each step takes the candidate i with the largest f(u, i) - kappa * #{j chosen: category j = category i},
    which ranks like the gain in Q(u, S) = sum of f(u, i) + kappa * #{pairs of S whose categories differ};
    ties go to the earlier candidate. kappa = 0 gives the candidates' own order. Candidates without a
    category come after all others, by score.

    Args:
        scores: (m,) float32, not increasing.
        categories: (m,) int64, one category each; -1 for none.
        k: candidates wanted; fewer come back if there are fewer.
        kappa: at least 0; ComiRec's lambda.

    Raises:
        BadSetting: kappa is negative or not finite.

    Source: controllable aggregation, ComiRec, KDD 2020, Eq. 13 and its greedy algorithm.
    """
    if not (kappa >= 0 and math.isfinite(kappa)):
        raise BadSetting(f"diversity is a finite number of at least 0; got {kappa}")
    if kappa == 0:
        return np.arange(min(k, len(scores)))
    queues: dict[int, list[int]] = {}
    for position in range(len(scores) - 1, -1, -1):
        queues.setdefault(int(categories[position]), []).append(position)  # the best is the last
    rest = queues.pop(-1, [])[::-1]
    # A category's penalty changes only when it is chosen itself, so the heap needs its best candidate only.
    heap = [(-float(scores[queue[-1]]), queue[-1]) for queue in queues.values()]
    heapq.heapify(heap)
    taken = dict.fromkeys(queues, 0)
    chosen: list[int] = []
    while heap and len(chosen) < k:
        position = heap[0][1]
        chosen.append(position)
        category = int(categories[position])
        taken[category] += 1
        queues[category].pop()
        if queues[category]:
            following = queues[category][-1]
            heapq.heapreplace(heap, (kappa * taken[category] - float(scores[following]), following))
        else:
            heapq.heappop(heap)
    return np.asarray(chosen + rest[: k - len(chosen)], dtype=np.int64)


def unseen(index: Index, interests: FloatArray, banned: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    """The k best items of each interest that are not banned: scores and numbers, both (B, K, k).

    The index is asked for so many more that k remain, -inf and 0 where it finds fewer. FAISS may return any of several
    equal scores; of what it returns the smaller item number comes first.

    Args:
        index: over the catalogue, one that finds near items; `ranking.top_k` is the exact search.
        interests: (B, K, d) float32.
        banned: (B, E) int64 item numbers; 0 is no item.
        k: items of each list.
    """
    users, K, d = interests.shape
    base = len(index) + 1
    out = distinct((np.arange(users)[:, None] * base + banned)[banned > 0])
    more = np.bincount(out // base, minlength=users)
    # A near index may find other items when asked for more: how many a user asks for is no business of the others.
    widths = k + np.where(more > 0, 1 << np.ceil(np.log2(np.maximum(more, 1))).astype(np.int64), 0)
    scores, numbers = np.full((users, K, k), -np.inf, np.float32), np.zeros((users, K, k), np.int64)
    for width in distinct(widths).tolist():
        rows = np.flatnonzero(widths == width)
        found = index.search(interests[rows].reshape(-1, d), width)
        score, number = found[0].reshape(-1, K, width), found[1].reshape(-1, K, width)
        number[within(rows[:, None, None] * base + number, out)] = 0
        score = np.where(number == 0, -np.inf, score).astype(np.float32)
        order = np.lexsort((number, -score))[..., :k]
        scores[rows], numbers[rows] = np.take_along_axis(score, order, -1), np.take_along_axis(number, order, -1)
    return scores, numbers


def _gathered(lists: Lists, order: IntArray) -> Lists:
    scores, numbers, interests = lists
    return (
        np.take_along_axis(scores, order, -1),
        np.take_along_axis(numbers, order, -1),
        np.take_along_axis(interests, order, -1),
    )
