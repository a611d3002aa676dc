"""What is asked of a catalogue, and what comes back: a query and its candidates, under the user's own ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from diffacet.data.sequences import IntArray
from diffacet.rank.merging import FloatArray


@dataclass(frozen=True)
class Query:
    """One request for candidates.

    Attributes:
        history: own item ids, oldest first; '12' and 12 are the same id. Unknown ids are passed over.
        k: items wanted, at least 1.
        exclude_seen: leave out the items of the whole history.
        exclude: further items to leave out; unknown ids are passed over.
        categories: only items that are in one of these; None: all items. They are searched exactly, whatever the index.
        diversity: kappa of `diversify`, in units of the score. Above 0 the items are chosen from the k best of each
            interest together, or from the 4 k best of a model that has one list only.
        refine_steps: S, for a model that refines in steps; None: as the model is set.
    """

    history: Sequence[Any]
    k: int = 20
    exclude_seen: bool = True
    exclude: Sequence[Any] = ()
    categories: Sequence[str] | None = None
    diversity: float = 0.0
    refine_steps: int | None = None


@dataclass(frozen=True, eq=False)
class Candidates:
    """Recommended items, best first, under the user's own ids.

    Attributes:
        item_id: (n,) ids; n is k, or less if the catalogue has no more.
        score: (n,) float32; not increasing unless diversity was asked for.
        interest: (n,) int64, which of the K interests found the item; 0 for a model without interests.
        titles: (n,) the items' titles, or None if the recommender has none.
        unknown: the ids of the history that the catalogue does not hold, each once.
        interests: (K, d) float32, the user's vectors, or None for a model without interests.
        category: (n,) Utf8, each item's one category, null for none; or None if the data have no categories.
    """

    item_id: pl.Series
    score: FloatArray
    interest: IntArray
    titles: pl.Series | None
    unknown: list[Any]
    interests: FloatArray | None
    category: pl.Series | None = None

    def __len__(self) -> int:
        """The number of items, n."""
        return len(self.item_id)
