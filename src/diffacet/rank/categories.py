"""Category metrics: how alike the items of a list are, and how many kinds of items the hits reach.

Items without a category are left out of a list before its pairs are formed; a list with fewer than two
others has no value (NaN), and `uncategorised` tells the share that was left out. Pairs are counted by
histograms: n items of which n_c carry category c have n(n - 1)/2 pairs. Where categories are counted (`kinds`),
items without one are of one more, "none".
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffacet.arrays import distinct
from diffacet.data.sequences import IntArray
from diffacet.errors import BadSetting

FloatArray = NDArray[np.float64]
Primary = Literal["first", "last", "rarest"]
"""Which of an item's categories stands for it where one is wanted."""


@dataclass(frozen=True, eq=False)
class ItemCategories:
    """The categories of each item, as numbers.

    Attributes:
        names: (C,) the categories; number c is names[c].
        values: (n,) int64 category numbers of all items one after another, none twice within an item.
        offsets: (N + 2,) int64; item i has values[offsets[i]:offsets[i + 1]]; item 0, padding, has none.
        primary: (N + 1,) int64, each item's one category where one is wanted; -1 for none.
    """

    names: tuple[str, ...]
    values: IntArray
    offsets: IntArray
    primary: IntArray

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[str] | None], primary: Primary = "last") -> "ItemCategories":
        """The categories of items 1, 2, ..., from their lists (empty or None: no category).

        Args:
            lists: of each item.
            primary: which of a list is the item's one category: the "last", the leaf of a path from the root
                (ComiRec's choice); the "first" (DimeRec's table of films); the "rarest", which the fewest items have,
                of several the earlier in the list (for labels in no order).

        Raises:
            BadSetting: `primary` is none of these.
        """
        check_primary(primary)
        number: dict[str, int] = {}
        values: list[int] = []
        offsets, ends = [0, 0], [-1]
        for names in lists:
            own = [number.setdefault(str(name), len(number)) for name in names or ()]
            values.extend(dict.fromkeys(own))
            offsets.append(len(values))
            ends.append((own[0] if primary == "first" else own[-1]) if own else -1)
        flat, starts, chosen = (np.asarray(part, dtype=np.int64) for part in (values, offsets, ends))
        return cls(tuple(number), flat, starts, _rarest(flat, starts) if primary == "rarest" else chosen)

    @property
    def n_items(self) -> int:
        """N, the number of items."""
        return len(self.primary) - 1

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each name."""
        return {name: number for number, name in enumerate(self.names)}


def check_primary(primary: str) -> Primary:
    """The choice of that name. Raises BadSetting when there is none."""
    for known in get_args(Primary):
        if known == primary:
            return known
    raise BadSetting(f"category is one of {', '.join(get_args(Primary))}, an item's one of several; got '{primary}'")


def mean_distance(categories: ItemCategories, items: IntArray) -> FloatArray:
    """Mean Hamming distance of the category sets over a list's pairs: (R,) float64, NaN below two items.

    The distance of two items is the size of the symmetric difference of their sets, |C_i| + |C_j| -
    2 |C_i ∩ C_j|, so the sum over pairs is (n - 1) Σ_i |C_i| - Σ_c n_c (n_c - 1). DMI, SIGIR 2025, Eq. 21-22.

    Args:
        categories: of the items.
        items: (R, n) int64 item numbers; 0 is no item.
    """
    sizes, rows, values = _every(categories, items)
    shared = _pairs_alike(rows, values, len(categories.names), len(items))
    counts = np.count_nonzero(sizes, axis=1)
    return _over_pairs((counts - 1) * sizes.sum(1) - 2 * shared, counts)


def mean_difference(categories: ItemCategories, items: IntArray) -> FloatArray:
    """Share of a list's pairs whose primary categories differ: (R,) float64, NaN below two items.

    The number of such pairs is (n² - Σ_c n_c²) / 2. The diversity of ComiRec, KDD 2020; DMI, SIGIR 2025, Eq. 23.

    Args:
        categories: of the items.
        items: (R, n) int64 item numbers; 0 is no item.
    """
    primary = categories.primary[items]
    rows, columns = np.nonzero(primary >= 0)
    counts = np.bincount(rows, minlength=len(items))
    alike = _pairs_alike(rows, primary[rows, columns], len(categories.names), len(items))
    return _over_pairs(counts * (counts - 1) // 2 - alike, counts)


def hit_kinds(categories: ItemCategories, items: IntArray, hits: NDArray[np.bool_]) -> IntArray:
    """The number of distinct primary categories among the hits of each list, (R,) int64.

    Args:
        categories: of the items.
        items: (R, n) int64 item numbers.
        hits: (R, n) bool.
    """
    primary = categories.primary[items]
    rows, columns = np.nonzero(hits & (primary >= 0))
    base = max(len(categories.names), 1)
    return np.bincount(distinct(rows * base + primary[rows, columns]) // base, minlength=len(items))


def kinds(categories: ItemCategories, items: IntArray) -> IntArray:
    """The number of distinct primary categories in each list, "none" being one: (R,) int64.

    Table 2 of DimeRec, WWW 2025, where lists are of 100 items.

    Args:
        categories: of the items.
        items: (R, n) int64 item numbers; 0 is no item.
    """
    ordered = np.sort(np.where(items != 0, categories.primary[items] + 1, -1), axis=1)
    new = (ordered >= 0) & (np.diff(ordered, axis=1, prepend=-1) != 0)
    return np.count_nonzero(new, axis=1)


def kinds_all(categories: ItemCategories, items: IntArray) -> IntArray:
    """The number of distinct categories of the items of each list, all that they have, "none" being one: (R,) int64.

    Args:
        categories: of the items.
        items: (R, n) int64 item numbers; 0 is no item.
    """
    sizes, rows, values = _every(categories, items)
    base = max(len(categories.names), 1)
    without = ((items != 0) & (sizes == 0)).any(1)
    return np.bincount(distinct(rows * base + values) // base, minlength=len(items)) + without


def kinds_random(categories: ItemCategories, n: int) -> float:
    """The expectation of `kinds` for lists of n items drawn uniformly: Σ_c [1 - C(N - n_c, n) / C(N, n)].

    n_c items have primary category c, "none" being one; n stops at N, the size of the catalogue.
    """
    N = categories.n_items
    n = min(n, N)
    sizes = np.bincount(categories.primary[1:] + 1)

    def log_choose(total: int) -> float:
        return math.lgamma(total + 1) - math.lgamma(total - n + 1)  # log C(total, n), but for n!, which cancels

    missed = (
        log_choose(N - size) - log_choose(N) if N - size >= n else -math.inf for size in sizes[sizes > 0].tolist()
    )
    return -math.fsum(math.expm1(logarithm) for logarithm in missed)


def uncategorised(categories: ItemCategories, items: IntArray) -> FloatArray:
    """Share of a list's items that have no category: (R,) float64, NaN for an empty list."""
    listed = np.count_nonzero(items, axis=1)
    without = np.count_nonzero((items != 0) & (categories.primary[items] < 0), axis=1)
    return np.divide(without, listed, out=np.full(len(items), np.nan), where=listed > 0)


def measure(
    categories: ItemCategories, items: IntArray, hits: NDArray[np.bool_], lists: IntArray | None, ks: Sequence[int]
) -> dict[str, FloatArray]:
    """Category metrics of B users, `name@k` -> (B,) float64; NaN where a user has none.

    `conc` (of the lists of each single interest, mean over the interests that have a value), `conc_merged`,
    `div_all`, `div_hit_mean` (distinct categories among the user's hits), `kinds`, `kinds_all` and `uncategorised`.

    Args:
        categories: of the items.
        items: (B, k) int64, the merged lists; 0 is no item.
        hits: (B, k) bool, which of them are targets.
        lists: (B, K, k) int64, each interest's own list, or None for a model without interests.
        ks: the lengths to cut at.
    """
    measured: dict[str, FloatArray] = {}
    for k in ks:
        cut = items[:, :k]
        if lists is not None:
            single = mean_distance(categories, lists[:, :, :k].reshape(-1, min(k, lists.shape[2])))
            measured[f"conc@{k}"] = _mean_of_valued(single.reshape(lists.shape[:2]))
        measured[f"conc_merged@{k}"] = mean_distance(categories, cut)
        measured[f"div_all@{k}"] = mean_difference(categories, cut)
        measured[f"div_hit_mean@{k}"] = hit_kinds(categories, cut, hits[:, :k]).astype(np.float64)
        measured[f"kinds@{k}"] = kinds(categories, cut).astype(np.float64)
        measured[f"kinds_all@{k}"] = kinds_all(categories, cut).astype(np.float64)
        measured[f"uncategorised@{k}"] = uncategorised(categories, cut)
    return measured


def _rarest(values: IntArray, offsets: IntArray) -> IntArray:
    """(N + 1,) the category of each item that the fewest items have, of several the first; -1 for none."""
    chosen = np.full(len(offsets) - 1, -1, dtype=np.int64)
    having = np.flatnonzero(np.diff(offsets))
    if len(having):
        order = np.bincount(values)[values] * len(values) + np.arange(len(values))  # fewer items, then earlier
        chosen[having] = values[np.minimum.reduceat(order, offsets[having]) % len(values)]
    return chosen


def _every(categories: ItemCategories, items: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """How many categories each item of the lists (R, n) has, (R, n), and all of them: their rows (m,), numbers (m,)."""
    sizes = np.diff(categories.offsets)[items]  # 0 for padding
    flat = sizes.ravel()
    starts = categories.offsets[:-1][items].ravel()
    before = np.cumsum(flat) - flat
    places = np.repeat(starts - before, flat) + np.arange(int(flat.sum()))
    return sizes, np.repeat(np.arange(len(items)), sizes.sum(1)), categories.values[places]


def _pairs_alike(rows: IntArray, kinds: IntArray, n_kinds: int, n_rows: int) -> IntArray:
    """Σ_c n_c (n_c - 1) / 2 for each row, (n_rows,): pairs that share a category, once for each shared one."""
    base = max(n_kinds, 1)
    keys, counts = np.unique(rows * base + kinds, return_counts=True)
    alike = np.zeros(n_rows, dtype=np.int64)
    np.add.at(alike, keys // base, counts * (counts - 1) // 2)
    return alike


def _over_pairs(total: IntArray, counts: IntArray) -> FloatArray:
    pairs = counts * (counts - 1) / 2
    return np.divide(total, pairs, out=np.full(len(total), np.nan), where=pairs > 0)


def _mean_of_valued(values: FloatArray) -> FloatArray:
    """The mean of each row over its values that are not NaN, (B,); NaN if there is none."""
    there = ~np.isnan(values)
    counts = there.sum(1)
    total = np.where(there, values, 0.0).sum(1)
    return np.divide(total, counts, out=np.full(len(values), np.nan), where=counts > 0)
