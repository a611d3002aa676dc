"""The figures of a log out of those of its partitions: what `Interactions.statistics` gives, with its keys."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from diffacet.data.interactions import Times
from diffacet.data.sequences import IntArray
from diffacet.data.streaming.finishing import Finished


def statistics(
    finished: Sequence[Finished], per_item: IntArray, times: Times, categories: pl.Series | None
) -> dict[str, Any]:
    """The figures; `per_item` (N,) rows of each item of the catalogue, `categories` (N,) lists of strings or None."""
    rows, users, pairs = (sum(getattr(one, name) for one in finished) for name in ("rows", "users", "pairs"))
    ends = [one.times for one in finished if one.times is not None]
    return {
        "users": users,
        "items": len(per_item),
        "interactions": rows,
        "pairs": pairs,
        "repeated_pairs": rows - pairs,
        "density": pairs / (users * len(per_item)),
        "per_user": _spread(pair for one in finished for pair in one.per_user),
        "per_item": _spread(zip(*(found.tolist() for found in np.unique(per_item, return_counts=True)), strict=True)),
        "first_time": min(first for first, _ in ends),
        "last_time": max(last for _, last in ends),
        "times": times,
        "with_categories": 0.0 if categories is None else float((categories.list.len() > 0).sum()) / len(per_item),
        "categories": 0 if categories is None else categories.explode().drop_nulls().n_unique(),
    }


def _spread(counted: Iterable[tuple[int, int]]) -> dict[str, float | int]:
    """min, median, mean and max of numbers that are told as (number, how many there are of it)."""
    every: Counter[int] = Counter()
    for size, many in counted:
        every[size] += many
    sizes = np.array(sorted(every), np.int64)
    ends = np.cumsum([every[size] for size in sizes.tolist()])
    count = int(ends[-1])
    middle = [int(sizes[np.searchsorted(ends, place, side="right")]) for place in ((count - 1) // 2, count // 2)]
    whole = sum(size * many for size, many in every.items())
    return {"min": int(sizes[0]), "median": sum(middle) / 2, "mean": whole / count, "max": int(sizes[-1])}
