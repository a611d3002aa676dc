"""The search of a block: interests or scores of up to a block's rows, and the best items of the rows that count."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diffacet.core.contract import Matcher
from diffacet.data.sequences import IntArray
from diffacet.errors import BadSetting
from diffacet.rank.asking import items_of
from diffacet.rank.categories import ItemCategories
from diffacet.rank.index import Index
from diffacet.rank.merging import Lists, diversify, merge, unseen
from diffacet.rank.ranking import Ranked, top_k, top_k_scores

_SINGLE_POOL = 4  # diversify's candidates are this times k where there is one list only, as with four interests
_KINDS_KEPT = 64  # sets of categories whose items are remembered


class Search:
    """A catalogue that is searched.

    Attributes:
        n_items: N.
        vectors: (N + 1, d) of the items, row 0 being padding; None: the model scores all items at once.
        index: finds near items; None: every vector is compared.
        categories: of the items, or None.
    """

    def __init__(
        self, n_items: int, vectors: Tensor | None, index: Index | None, categories: ItemCategories | None
    ) -> None:
        self.n_items, self.vectors, self.index, self.categories = n_items, vectors, index, categories
        self._inside = dict[tuple[int, ...], IntArray]()
        self._norms: Tensor | None = None

    def best(
        self, out: Tensor, n: int, banned: IntArray, k: int, diversity: float, kinds: tuple[int, ...] | None
    ) -> Lists:
        """(n, m) candidates of the first n rows of a block, chosen for diversity where it is asked for."""
        if self.vectors is None:
            lists = self._scored(out[:n], banned, k * _SINGLE_POOL if diversity > 0 else k, kinds)
        else:
            lists = self._matched(out, n, banned, k, diversity, kinds)
        if diversity == 0 or self.categories is None:
            return lists
        scores, numbers, _ = lists
        order, filled = np.zeros((n, k), np.int64), np.zeros((n, k), np.bool_)
        for b, count in enumerate((numbers > 0).sum(1).tolist()):
            best = diversify(scores[b, :count], self.categories.primary[numbers[b, :count]], k, diversity)
            order[b, : len(best)], filled[b, : len(best)] = best, True
        score, number, interest = (np.take_along_axis(part, order, 1) for part in lists)
        return np.where(filled, score, np.float32(-np.inf)), np.where(filled, number, 0), np.where(filled, interest, 0)

    def similar(self, number: int, banned: IntArray, k: int, kinds: tuple[int, ...] | None) -> Lists:
        """(1, m) items by the cosine of their vectors with item `number`'s; all items are compared."""
        assert self.vectors is not None, "asked of a model with vectors"
        if self._norms is None:
            self._norms = self.vectors.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        cosine = self.vectors @ self.vectors[number] / (self._norms * self._norms[number])
        return self._scored(cosine[None], banned, k, kinds)

    def _matched(
        self, interests: Tensor, n: int, banned: IntArray, k: int, diversity: float, kinds: tuple[int, ...] | None
    ) -> Lists:
        """(n, m) merged candidates of the first n users' vectors (block, K, d)."""
        block, K = interests.shape[:2]
        wanted = k
        if diversity > 0:
            k = min(k if K > 1 else k * _SINGLE_POOL, self.n_items)
            wanted = K * k
        if self.index is not None and kinds is None:
            return merge(*unseen(self.index, interests[:n].cpu().numpy(), banned, k), wanted)
        assert self.vectors is not None, "scores have no vectors"
        vectors, inside = self.vectors, None
        if kinds is not None:
            inside = self._items_of(kinds)
            vectors = vectors[torch.from_numpy(np.concatenate([[0], inside])).to(vectors.device)]
            place = np.minimum(np.searchsorted(inside, banned), len(inside) - 1)
            banned = np.where(inside[place] == banned, place + 1, 0)
        interests, exclude = interests.to(vectors.device), torch.from_numpy(banned).to(vectors.device)
        if K == 1 or diversity == 0:
            lists = _lists(top_k(interests, vectors, k, exclude=exclude, rows=n))
        else:
            each = interests.reshape(block * K, 1, -1)
            found = top_k(each, vectors, k, exclude=exclude.repeat_interleave(K, 0), rows=n * K)
            scores, numbers, _ = _lists(found)
            lists = merge(scores.reshape(n, K, k), numbers.reshape(n, K, k), wanted)
        if inside is None:
            return lists
        return lists[0], np.where(lists[1] > 0, inside[np.maximum(lists[1] - 1, 0)], 0), lists[2]

    def _scored(self, scores: Tensor, banned: IntArray, k: int, kinds: tuple[int, ...] | None) -> Lists:
        """(n, m) candidates of a Scorer."""
        if kinds is not None:
            outside = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
            outside[torch.from_numpy(self._items_of(kinds)).to(scores.device)] = False
            scores = scores.masked_fill(outside, float("-inf"))
        exclude = torch.from_numpy(banned).to(scores.device)
        return _lists(top_k_scores(scores, min(k, self.n_items), exclude=exclude))

    def _items_of(self, kinds: tuple[int, ...]) -> IntArray:
        assert self.categories is not None, "checked when the query was numbered"
        if kinds not in self._inside:
            if len(self._inside) >= _KINDS_KEPT:
                self._inside.clear()
            self._inside[kinds] = items_of(self.categories, kinds)
        return self._inside[kinds]


def indexed(model: Matcher, index: str | Index) -> tuple[Tensor, Index | None]:
    """Item vectors (N + 1, d), row 0 being padding, and the index that finds near ones; None for an exact search.

    Raises BadSetting when an item vector is not finite.
    """
    if isinstance(index, Index) and index.kind == "exact":
        vectors = torch.from_numpy(index.native.reconstruct_n(0, len(index)))
        return functional.pad(vectors, (0, 0, 1, 0)), None
    with torch.no_grad():
        catalogue = model.catalogue().detach().float()
    if isinstance(index, Index):
        return catalogue, index
    if index != "exact":
        return catalogue, Index.build(catalogue[1:].cpu().numpy(), index)
    if not catalogue.isfinite().all():
        raise BadSetting("an item vector is not finite: the model diverged; train it again, with a smaller lr")
    return catalogue, None


def _lists(ranked: Ranked) -> Lists:
    return ranked.scores.cpu().numpy(), ranked.items.cpu().numpy(), ranked.interest.cpu().numpy()
