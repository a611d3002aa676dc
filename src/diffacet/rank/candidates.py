"""Candidates with the user's own ids: a history in, a list of items out.

ids -> numbers -> Histories -> interests -> Index.search for each -> seen removed -> merge | diversify -> ids
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from diffacet.core.batch import Histories
from diffacet.core.contract import Matcher, Scorer
from diffacet.data.ids import Ids
from diffacet.data.sequences import IntArray
from diffacet.errors import BadRun, BadSetting, UnknownItem
from diffacet.rank.categories import ItemCategories
from diffacet.rank.evaluate import BATCH, device_of
from diffacet.rank.index import Index
from diffacet.rank.merging import FloatArray, Lists, diversify, merge, unseen
from diffacet.rank.ranking import top_k_scores

_SINGLE_POOL = 4  # diversify's candidates are this times k where there is one list only, as with four interests


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
    """

    item_id: pl.Series
    score: FloatArray
    interest: IntArray
    titles: pl.Series | None
    unknown: list[Any]
    interests: FloatArray | None

    def __len__(self) -> int:
        """The number of items, n."""
        return len(self.item_id)


class Recommender:
    """A trained model with its catalogue: answers histories of own ids with candidates.

    An answer depends on its history alone, not on the requests before or beside it (scores up to rounding).
    """

    def __init__(
        self,
        model: Matcher | Scorer,
        items: Ids,
        *,
        length: int,
        titles: pl.Series | None = None,
        categories: ItemCategories | None = None,
        index: str | Index = "exact",
        device: torch.device | str | None = None,
    ) -> None:
        """Put the model into evaluation mode and index its catalogue.

        Args:
            model: a Matcher or a Scorer, trained.
            items: the catalogue's ids.
            length: L, the most recent items of a history that the model reads; 0: all of them.
            titles: (N,) by item number, row 0 being item 1.
            categories: of the items; what `diversity` needs.
            index: "exact", "hnsw" or "ivf", or an index that is already built; a Scorer needs none.
            device: where histories go; None: the device of the model's first parameter or buffer.

        Raises:
            BadSetting: an unknown kind of index, or a length below 0.
            BadRun: the model's catalogue, the index or the categories have not as many items as `items`.
        """
        if length < 0:
            raise BadSetting(f"length, the items of a history that are read, is 0 (all) or more; got {length}")
        self.model, self.items, self.length = model, items, length
        self.titles, self.categories = titles, categories
        self.device = device_of(model) if device is None else torch.device(device)
        if categories is not None and categories.n_items != len(items):
            raise BadRun(f"the categories are those of {categories.n_items} items, the data has {len(items)}")
        self.index: Index | None = None
        if isinstance(model, torch.nn.Module):
            model.eval()
        if isinstance(model, Matcher):
            if isinstance(index, str):
                with torch.inference_mode():
                    index = Index.build(model.catalogue()[1:].float().cpu().numpy(), index)
            self.index = index
            if len(index) != len(items):
                raise BadRun(f"the model's catalogue has {len(index)} items, the data has {len(items)}")

    def recommend(
        self, item_ids: Sequence[Any], k: int = 20, *, exclude_seen: bool = True, diversity: float = 0.0
    ) -> Candidates:
        """The k best items for one history; see `recommend_many`."""
        return self.recommend_many([item_ids], k, exclude_seen=exclude_seen, diversity=diversity)[0]

    def recommend_many(
        self,
        histories: Sequence[Sequence[Any]],
        k: int = 20,
        *,
        exclude_seen: bool = True,
        diversity: float = 0.0,
    ) -> list[Candidates]:
        """The k best items for each history.

        A request has no times: a model that reads them (PIMIRec) counts every interval as 0.

        Args:
            histories: own item ids, oldest first; '12' and 12 are the same id. Unknown ids are passed over
                and listed in the answer.
            k: items wanted, at least 1.
            exclude_seen: leave out the items of the whole history.
            diversity: kappa of `diversify`, in units of the score. Above 0 the items are chosen from the k best of
                each interest together, or from the 4 k best of a model that has one list only.

        Raises:
            BadSetting: k is below 1, a history is empty or no list, or diversity is negative or lacks categories.
            UnknownItem: not one item of a history is in the catalogue.
        """
        if k < 1:
            raise BadSetting(f"k, the number of items asked for, is at least 1; got {k}")
        if not (diversity >= 0 and math.isfinite(diversity)):
            raise BadSetting(f"diversity is a finite number of at least 0; got {diversity}")
        if diversity > 0 and self.categories is None:
            raise BadSetting("diversity needs the items' categories, and this data has none; leave diversity at 0")
        answers: list[Candidates] = []
        for begin in range(0, len(histories), BATCH):
            known, unknown = self._numbers(histories[begin : begin + BATCH], begin)
            answers += self._answer(known, unknown, min(k, len(self.items)), exclude_seen, diversity)
        return answers

    def _numbers(self, histories: Sequence[Sequence[Any]], begin: int) -> tuple[list[IntArray], list[list[Any]]]:
        """The known item numbers of each history, and its unknown ids."""
        if any(isinstance(history, str | bytes) for history in histories):
            raise BadSetting("a history is a list of item ids; got one text: put it into a list")
        ids = [list(history) for history in histories]
        empty = [begin + row for row, own in enumerate(ids) if not own]
        if empty:
            raise BadSetting(f"history {empty[0]} is empty (counted from 0); give at least one item id")
        found = self.items.find([str(item) for own in ids for item in own])
        parts = np.split(found, np.cumsum([len(own) for own in ids])[:-1])
        unknown = []
        for row, (own, numbers) in enumerate(zip(ids, parts, strict=True)):
            missing = list({str(item): item for item, number in zip(own, numbers, strict=True) if number < 0}.values())
            if (numbers < 0).all():
                names = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
                raise UnknownItem(
                    f"no item of history {begin + row} (counted from 0) is in the catalogue of {len(self.items)} items:"
                    f" {names}; ids look like {', '.join(map(str, self.items.values.head(3)))}"
                )
            unknown.append(missing)
        return [numbers[numbers > 0] for numbers in parts], unknown

    def _answer(
        self, known: list[IntArray], unknown: list[list[Any]], k: int, exclude_seen: bool, diversity: float
    ) -> list[Candidates]:
        # numbers[-0:] is the whole history, as a length of 0 means it.
        read = _padded([numbers[-self.length :] for numbers in known], self.length or max(map(len, known)))
        seen = [np.unique(numbers) if exclude_seen else numbers[:0] for numbers in known]
        history = Histories(
            torch.from_numpy(read), torch.full((len(known),), -1), torch.zeros(len(known), dtype=torch.int64)
        ).to(self.device)
        banned = _padded(seen, max(map(len, seen)))
        interests = None
        if self.index is not None and isinstance(self.model, Matcher):
            with torch.inference_mode():
                interests = self.model.interests(history).float().cpu().numpy()
            lists = self._merged(self.index, interests, banned, k, diversity)
        else:
            lists = self._scored(history, banned, k * _SINGLE_POOL if diversity > 0 else k)
        rows = [(lists[0][b], lists[1][b], lists[2][b]) for b in range(len(known))]
        return [
            self._candidates(row, k, diversity, missing, None if interests is None else interests[b])
            for b, (row, missing) in enumerate(zip(rows, unknown, strict=True))
        ]

    def _merged(self, index: Index, interests: FloatArray, banned: IntArray, k: int, diversity: float) -> Lists:
        """(B, m) merged candidates of each user's vectors (B, K, d)."""
        if not np.isfinite(interests).all():
            raise BadRun("an interest is not finite: the model diverged; train it again, with a smaller lr")
        K = interests.shape[1]
        if diversity == 0:
            return merge(*unseen(index, interests, banned, k), k)
        n = min(k if K > 1 else k * _SINGLE_POOL, len(index))
        return merge(*unseen(index, interests, banned, n), K * n)

    def _scored(self, history: Histories, banned: IntArray, k: int) -> Lists:
        """(B, m) candidates of a Scorer."""
        if not isinstance(self.model, Scorer):
            raise TypeError(f"{type(self.model).__name__} is neither a Matcher nor a Scorer")
        with torch.inference_mode():
            scores = self.model.scores(history)
        if scores.shape[1] != len(self.items) + 1:
            raise BadRun(f"the model scores {scores.shape[1] - 1} items, the data has {len(self.items)}")
        best = top_k_scores(scores, min(k, len(self.items)), exclude=torch.from_numpy(banned).to(scores.device))
        return best.scores.cpu().numpy(), best.items.cpu().numpy(), best.interest.cpu().numpy()

    def _candidates(
        self, row: Lists, k: int, diversity: float, unknown: list[Any], interests: FloatArray | None
    ) -> Candidates:
        there = row[1] > 0
        score, number, interest = row[0][there], row[1][there], row[2][there]
        if diversity > 0 and self.categories is not None:
            chosen = diversify(score, self.categories.primary[number], k, diversity)
            score, number, interest = score[chosen], number[chosen], interest[chosen]
        titles = None if self.titles is None else self.titles.gather(number - 1)
        return Candidates(self.items.ids(number), score, interest, titles, unknown, interests)


def _padded(rows: list[IntArray], width: int) -> IntArray:
    """(B, width) the rows, 0 behind their ends."""
    padded = np.zeros((len(rows), width), dtype=np.int64)
    for row, numbers in enumerate(rows):
        padded[row, : len(numbers)] = numbers
    return padded
