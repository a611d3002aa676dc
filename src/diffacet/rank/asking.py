"""From queries in the user's own ids to item numbers: what is known, what is left out, and what cannot be asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffacet.data.ids import Ids
from diffacet.data.sequences import IntArray
from diffacet.errors import BadSetting, DiffacetError, UnknownItem, nearest
from diffacet.rank.candidates import Query
from diffacet.rank.categories import ItemCategories


@dataclass(frozen=True, eq=False)
class Asked:
    """A query in item numbers.

    Attributes:
        known: (h,) int64 items of the history that the catalogue holds, oldest first; at least one.
        unknown: the other ids of the history, each once.
        banned: (e,) int64 items that must not come back.
        kinds: numbers of the categories that are wanted, ascending; None: all items.
        k: items wanted, at most N.
        diversity: kappa.
        steps: refinement steps; None: as the model is set.
    """

    known: IntArray
    unknown: list[Any]
    banned: IntArray
    kinds: tuple[int, ...] | None
    k: int
    diversity: float
    steps: int | None


def numbered(
    queries: Sequence[Query], items: Ids, categories: ItemCategories | None, refines: bool
) -> list[Asked | DiffacetError]:
    """Each query in numbers, or why it cannot be answered; a bad one is no business of its neighbours.

    Args:
        queries: rows are counted from 0 in messages.
        items: of the catalogue.
        categories: of the items; None: the data have none.
        refines: whether the model has refinement steps to choose.
    """
    texts: list[str] = []
    parts: list[tuple[list[Any], int] | DiffacetError] = []
    for row, query in enumerate(queries):
        try:
            _check(query, categories, refines)
            history = _listed(query.history, row)
        except DiffacetError as error:
            parts.append(error)
            continue
        exclude = list(query.exclude)
        parts.append((history, len(exclude)))
        texts += [str(item) for item in history]
        texts += [str(item) for item in exclude]
    found, begin = items.find(texts), 0
    answers: list[Asked | DiffacetError] = []
    for row, (query, part) in enumerate(zip(queries, parts, strict=True)):
        if isinstance(part, DiffacetError):
            answers.append(part)
            continue
        history, excluded = part
        middle, end = begin + len(history), begin + len(history) + excluded
        answers.append(_asked(query, row, history, found[begin:middle], found[middle:end], items, categories))
        begin = end
    return answers


def items_of(categories: ItemCategories, kinds: Sequence[int]) -> IntArray:
    """(m,) int64 numbers of the items that are in one of these categories, ascending."""
    owner = np.repeat(np.arange(len(categories.offsets) - 1), np.diff(categories.offsets))
    inside = np.zeros(categories.n_items + 1, np.bool_)
    inside[owner[np.isin(categories.values, np.asarray(kinds))]] = True
    return np.flatnonzero(inside)


def _check(query: Query, categories: ItemCategories | None, refines: bool) -> None:
    if query.k < 1:
        raise BadSetting(f"k, the number of items asked for, is at least 1; got {query.k}", field="k")
    if not (query.diversity >= 0 and math.isfinite(query.diversity)):
        raise BadSetting(f"diversity is a finite number of at least 0; got {query.diversity}", field="diversity")
    if query.diversity > 0 and categories is None:
        raise BadSetting(
            "diversity needs the items' categories, and this data has none; leave diversity at 0", field="diversity"
        )
    if query.categories is not None and categories is None:
        raise BadSetting("this data has no categories of items; leave categories out", field="categories")
    if query.refine_steps is not None and not refines:
        raise BadSetting("this model has no refinement steps; leave refine_steps out", field="refine_steps")


def _listed(history: Sequence[Any], row: int) -> list[Any]:
    if isinstance(history, str | bytes):
        raise BadSetting("a history is a list of item ids; got one text: put it into a list", field="history")
    ids = list(history)
    if not ids:
        raise BadSetting(f"history {row} is empty (counted from 0); give at least one item id", field="history")
    return ids


def _asked(
    query: Query,
    row: int,
    history: list[Any],
    found: IntArray,
    excluded: IntArray,
    items: Ids,
    categories: ItemCategories | None,
) -> Asked | DiffacetError:
    known = found[found > 0]
    missing = {str(item): item for item, number in zip(history, found, strict=True) if number < 0}
    unknown = list(missing.values())
    if not len(known):
        return UnknownItem(_unknown(row, unknown, items), field="history")
    kinds = None
    if query.categories is not None and categories is not None:
        strange = [str(name) for name in query.categories if str(name) not in categories.numbers]
        if strange or not query.categories:
            what = f"no category '{strange[0]}'" if strange else "no category is named"
            close = nearest(strange[0], categories.names) if strange else ""
            return BadSetting(f"{what}{close}; ask for one that the items have", field="categories")
        kinds = tuple(sorted({categories.numbers[str(name)] for name in query.categories}))
    banned = np.concatenate([known if query.exclude_seen else known[:0], excluded[excluded > 0]])
    k = min(query.k, len(items))
    return Asked(known, unknown, banned, kinds, k, query.diversity, query.refine_steps)


def _unknown(row: int, missing: list[Any], items: Ids) -> str:
    names = ", ".join(str(name)[:80] for name in missing[:5])
    names += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return (
        f"no item of history {row} (counted from 0) is in the catalogue of {len(items)} items: {names};"
        f" ids look like {', '.join(map(str, items.values.head(3)))}"
    )
