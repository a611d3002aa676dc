"""Candidates with the user's own ids: a history in, a list of items out.

ids -> numbers -> Histories -> interests -> top_k, or Index.search for each and merge -> diversify -> ids
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from diffacet.arrays import distinct
from diffacet.core.batch import Histories
from diffacet.core.contract import Matcher, Scorer
from diffacet.data.ids import Ids
from diffacet.data.sequences import IntArray, Sequences
from diffacet.errors import BadRun, BadSetting, UnknownItem
from diffacet.rank.categories import ItemCategories
from diffacet.rank.evaluate import BATCH, device_of
from diffacet.rank.index import Index
from diffacet.rank.merging import FloatArray, Lists, diversify, merge, unseen
from diffacet.rank.ranking import Ranked, top_k, top_k_scores

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
            index: "exact", "hnsw" or "ivf", or an index that is already built; a Scorer needs none. Exact answers
                are those of `ranking.top_k` over the catalogue, on the model's device.
            device: where histories go; None: the device of the model's first parameter or buffer.

        Raises:
            BadSetting: an unknown kind of index, an item vector that is not finite, or a length below 0.
            BadRun: the model's catalogue, the index or the categories have not as many items as `items`.
        """
        if length < 0:
            raise BadSetting(f"length, the items of a history that are read, is 0 (all) or more; got {length}")
        self.model, self.items, self.length = model, items, length
        self.titles, self.categories = titles, categories
        self.device = device_of(model) if device is None else torch.device(device)
        if categories is not None and categories.n_items != len(items):
            raise BadRun(f"the categories are those of {categories.n_items} items, the data has {len(items)}")
        self.index: Tensor | Index | None = None
        if isinstance(model, torch.nn.Module):
            model.eval()
        if isinstance(model, Matcher):
            self.index = _index(model, index)
            found = len(self.index) - isinstance(self.index, Tensor)
            if found != len(items):
                raise BadRun(f"the model's catalogue has {found} items, the data has {len(items)}")

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

    def _numbers(self, histories: Sequence[Sequence[Any]], begin: int) -> tuple[Sequences, list[list[Any]]]:
        """The known item numbers of each history, and its unknown ids."""
        if any(isinstance(history, str | bytes) for history in histories):
            raise BadSetting("a history is a list of item ids; got one text: put it into a list")
        ids = [list(history) for history in histories]
        empty = [begin + row for row, own in enumerate(ids) if not own]
        if empty:
            raise BadSetting(f"history {empty[0]} is empty (counted from 0); give at least one item id")
        found = self.items.find([str(item) for own in ids for item in own])
        rows = np.repeat(np.arange(len(ids)), [len(own) for own in ids])
        asked = Sequences.from_rows(rows, found, None, len(ids))
        known = Sequences.from_rows(rows[found > 0], found[found > 0], None, len(ids))
        unknown: list[list[Any]] = [[] for _ in ids]
        for row in distinct(rows[found < 0]).tolist():
            numbers = asked.row(row)
            missing = {str(item): item for item, number in zip(ids[row], numbers, strict=True) if number < 0}
            unknown[row] = list(missing.values())
            if (numbers < 0).all():
                raise UnknownItem(self._unknown(begin + row, unknown[row]))
        return known, unknown

    def _unknown(self, row: int, missing: list[Any]) -> str:
        names = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        return (
            f"no item of history {row} (counted from 0) is in the catalogue of {len(self.items)} items: {names};"
            f" ids look like {', '.join(map(str, self.items.values.head(3)))}"
        )

    def _answer(
        self, known: Sequences, unknown: list[list[Any]], k: int, exclude_seen: bool, diversity: float
    ) -> list[Candidates]:
        rows, longest = np.arange(len(known)), int(known.lengths().max())
        history = Histories(
            torch.from_numpy(known.last(rows, self.length or longest)),
            torch.full((len(known),), -1),
            torch.zeros(len(known), dtype=torch.int64),
        ).to(self.device)
        banned = known.last(rows, longest if exclude_seen else 0)
        if self.index is not None and isinstance(self.model, Matcher):
            with torch.inference_mode():
                interests = self.model.interests(history).float()
            lists = self._matched(self.index, interests, banned, k, diversity)
            return self._candidates(lists, k, diversity, unknown, interests.cpu().numpy())
        lists = self._scored(history, banned, k * _SINGLE_POOL if diversity > 0 else k)
        return self._candidates(lists, k, diversity, unknown, None)

    def _matched(self, index: Tensor | Index, interests: Tensor, banned: IntArray, k: int, diversity: float) -> Lists:
        """(B, m) merged candidates of each user's vectors (B, K, d)."""
        if not interests.isfinite().all():
            raise BadRun("an interest is not finite: the model diverged; train it again, with a smaller lr")
        K, wanted = interests.shape[1], k
        if diversity > 0:
            k = min(k if K > 1 else k * _SINGLE_POOL, len(self.items))
            wanted = K * k
        if isinstance(index, Index):
            return merge(*unseen(index, interests.cpu().numpy(), banned, k), wanted)
        if interests.shape[2] != index.shape[1]:
            raise BadRun(f"the model's vectors are {interests.shape[2]} wide, those of the index {index.shape[1]}")
        interests, out = interests.to(index.device), torch.from_numpy(banned).to(index.device)
        if K == 1 or diversity == 0:
            return _lists(top_k(interests, index, k, exclude=out))
        each = top_k(interests.flatten(0, 1).unsqueeze(1), index, k, exclude=out.repeat_interleave(K, 0))
        scores, numbers, _ = _lists(each)
        return merge(scores.reshape(-1, K, k), numbers.reshape(-1, K, k), wanted)

    def _scored(self, history: Histories, banned: IntArray, k: int) -> Lists:
        """(B, m) candidates of a Scorer."""
        if not isinstance(self.model, Scorer):
            raise TypeError(f"{type(self.model).__name__} is neither a Matcher nor a Scorer")
        with torch.inference_mode():
            scores = self.model.scores(history)
        if scores.shape[1] != len(self.items) + 1:
            raise BadRun(f"the model scores {scores.shape[1] - 1} items, the data has {len(self.items)}")
        best = top_k_scores(scores, min(k, len(self.items)), exclude=torch.from_numpy(banned).to(scores.device))
        return _lists(best)

    def _candidates(
        self, lists: Lists, k: int, diversity: float, unknown: list[list[Any]], interests: FloatArray | None
    ) -> list[Candidates]:
        """An answer for each row of the lists (B, m), whose candidates stand before what is none."""
        counts = (lists[1] > 0).sum(1).tolist()
        rows = [(lists[0][b, :n], lists[1][b, :n], lists[2][b, :n]) for b, n in enumerate(counts)]
        if diversity > 0 and self.categories is not None:
            for b, (score, number, interest) in enumerate(rows):
                chosen = diversify(score, self.categories.primary[number], k, diversity)
                rows[b] = score[chosen], number[chosen], interest[chosen]
        # One gather for all rows: one a row would take longer than the search.
        numbers = np.concatenate([number for _, number, _ in rows])
        ids = self.items.ids(numbers)
        titles = None if self.titles is None else self.titles.gather(numbers - 1)
        answers, begin = [], 0
        for b, (score, number, interest) in enumerate(rows):
            n = len(number)
            answers.append(
                Candidates(
                    ids.slice(begin, n),
                    score,
                    interest,
                    None if titles is None else titles.slice(begin, n),
                    unknown[b],
                    None if interests is None else interests[b],
                )
            )
            begin += n
        return answers


def _index(model: Matcher, index: str | Index) -> Tensor | Index:
    """Item vectors (N + 1, d), row 0 being padding, for an exact search; else the index that finds near ones."""
    if isinstance(index, Index):
        if index.kind != "exact":
            return index
        return functional.pad(torch.from_numpy(index.native.reconstruct_n(0, len(index))), (0, 0, 1, 0))
    with torch.no_grad():
        catalogue = model.catalogue().detach().float()
    if index != "exact":
        return Index.build(catalogue[1:].cpu().numpy(), index)
    if not catalogue.isfinite().all():
        raise BadSetting("an item vector is not finite: the model diverged; train it again, with a smaller lr")
    return catalogue


def _lists(ranked: Ranked) -> Lists:
    return ranked.scores.cpu().numpy(), ranked.items.cpu().numpy(), ranked.interest.cpu().numpy()
