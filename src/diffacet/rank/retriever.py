"""Candidates with the user's own ids: a history in, a list of items out.

ids -> numbers -> Histories in blocks of one size -> interests -> top_k, or Index.search for each and merge ->
diversify -> ids
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from diffacet.core.batch import Histories
from diffacet.core.contract import Matcher, Scorer
from diffacet.core.explaining import Explains, Explanation
from diffacet.data.ids import Ids
from diffacet.data.sequences import IntArray, Prefixes, Sequences
from diffacet.errors import BadRun, BadSetting, DiffacetError, UnknownItem
from diffacet.rank import blocks
from diffacet.rank.asking import Asked, numbered
from diffacet.rank.candidates import Candidates, Query
from diffacet.rank.categories import ItemCategories
from diffacet.rank.evaluate import device_of
from diffacet.rank.index import Index
from diffacet.rank.merging import FloatArray, Lists
from diffacet.rank.ranking import top_k
from diffacet.rank.searching import Search, indexed

Model = Matcher | Scorer


class Retriever:
    """A trained model with its catalogue: answers histories of own ids with candidates.

    An answer depends on its query alone, to the bit: not on the requests before or beside it, nor on how many are
    asked at once (`blocks`). It does depend on the machine and on `block`.

    Attributes:
        block: histories that are computed together.
        steady: whether answers are bit-equal whatever is asked with them.
    """

    def __init__(
        self,
        model: Model,
        items: Ids,
        *,
        length: int,
        titles: pl.Series | None = None,
        categories: ItemCategories | None = None,
        index: str | Index = "exact",
        device: torch.device | str | None = None,
        block: int | None = None,
        at_steps: Callable[[int], Model] | None = None,
    ) -> None:
        """Put the model into evaluation mode, index its catalogue, and find the size of a block.

        Args:
            model: a Matcher or a Scorer, trained.
            items: the catalogue's ids.
            length: L, the most recent items of a history that the model reads; 0: all of them.
            titles: (N,) by item number, row 0 being item 1.
            categories: of the items; what `diversity` needs.
            index: "exact", "hnsw" or "ivf", or an index that is already built; a Scorer needs none. Exact answers
                are those of `ranking.top_k` over the catalogue, on the model's device.
            device: where histories go; None: the device of the model's first parameter or buffer.
            block: histories computed together; None: the smallest of `blocks.SIZES` in which a history's place and
                neighbours change no bit, found by trying.
            at_steps: gives the model with S refinement steps, raising BadSetting for an S that it has not; None: the
                model has no such setting.

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
        self.at_steps, self._at = at_steps, dict[int, Model]()
        if isinstance(model, torch.nn.Module):
            model.eval()
        vectors, near = indexed(model, index) if isinstance(model, Matcher) else (None, None)
        if vectors is not None and (found := len(vectors) - 1 if near is None else len(near)) != len(items):
            raise BadRun(f"the model's catalogue has {found} items, the data has {len(items)}")
        self.search = Search(len(items), vectors, near, categories)
        steady = block is None and blocks.steady_block(self._trial, len(items), length or 16)
        self.block, self.steady = block or steady or 1, bool(steady) and steady > 1

    @property
    def vectors(self) -> Tensor:
        """(N + 1, d) item vectors; raises BadSetting for a model that has none."""
        if self.search.vectors is None:
            raise BadSetting(
                "this model scores all items at once: there are no vectors by which it searches or compares items"
            )
        return self.search.vectors

    def recommend(self, item_ids: Sequence[Any], k: int = 20, **asked: Any) -> Candidates:
        """The k best items for one history; `asked` are further fields of `Query`. See `recommend_many`."""
        return self.recommend_many([item_ids], k, **asked)[0]

    def recommend_many(self, histories: Sequence[Sequence[Any]], k: int = 20, **asked: Any) -> list[Candidates]:
        """The k best items for each history; `asked` are further fields of `Query`.

        A request has no times: a model that reads them (PIMIRec) counts every interval as 0.

        Raises:
            BadSetting: k is below 1, a history is empty or no list, or something is asked for that the model or the
                data have not.
            UnknownItem: not one item of a history is in the catalogue.
        """
        answers = self.answer([Query(history, k, **asked) for history in histories])
        found = [answer for answer in answers if isinstance(answer, Candidates)]
        for answer in answers:
            if isinstance(answer, DiffacetError):
                raise answer
        return found

    def answer(self, queries: Sequence[Query]) -> list[Candidates | DiffacetError]:
        """Candidates for each query, or why there are none (BadSetting, UnknownItem).

        Raises:
            BadRun: the model gives what is no number.
        """
        asked = numbered(queries, self.items, self.categories, self.at_steps is not None)
        answers: dict[int, Candidates | DiffacetError] = {}
        groups: dict[tuple[int | None, int], list[tuple[int, Asked]]] = {}
        for row, one in enumerate(asked):
            if isinstance(one, DiffacetError):
                answers[row] = one
            else:
                # Shapes depend on a query's own length alone: as many as the model reads, or the next power of two.
                width = self.length or 1 << (len(one.known) - 1).bit_length()
                groups.setdefault((one.steps, width), []).append((row, one))
        for (steps, width), members in groups.items():
            try:
                model = self.model_at(steps)
            except BadSetting as error:
                answers |= {row: error for row, _ in members}
                continue
            for part in blocks.cut(len(members), max(self.block - 1, 1)):
                answers |= self._block(model, width, members[part])
        return [answers[row] for row in range(len(queries))]

    def encode(self, histories: Sequence[Sequence[Any]], *, refine_steps: int | None = None) -> FloatArray:
        """(B, K, d) float32 interests, as they search the catalogue; raises as `recommend_many` does."""
        _ = self.vectors
        found = self.recommend_many(histories, 1, exclude_seen=False, refine_steps=refine_steps)
        return np.stack([one.interests for one in found if one.interests is not None])

    def explain(self, history: Sequence[Any], *, refine_steps: int | None = None) -> tuple[Asked, Explanation]:
        """What the model makes of one history: the query in numbers, and an Explanation whose B is 1.

        Raises:
            BadSetting: the model cannot tell; or as `recommend_many`, which also raises UnknownItem.
        """
        asked = numbered([Query(history, 1, refine_steps=refine_steps)], self.items, None, self.at_steps is not None)[0]
        if isinstance(asked, DiffacetError):
            raise asked
        model = self.model_at(refine_steps)
        read = asked.known[-self.length :][None]
        if isinstance(model, Explains):
            width = self.length or read.shape[1]
            with torch.inference_mode():
                told = model.explain(self._histories(self._ruled(np.pad(read, ((0, 0), (0, width - read.shape[1]))))))
            n = read.shape[1]
            kept = None if told.kept is None else told.kept[:1, :, :n]
            coarse, refined = told.coarse[:1], told.refined[:1]
            return asked, Explanation(coarse, refined, told.items[:1, :n], told.attention[:1, :, :n], kept)
        vectors = torch.from_numpy(self.encode([history], refine_steps=refine_steps))
        items = self.vectors[torch.from_numpy(read)].cpu()
        return asked, Explanation(vectors, vectors, items, vectors.new_zeros(1, vectors.shape[1], 0))

    def similar(
        self, item_id: Any, k: int = 20, *, exclude: Sequence[Any] = (), categories: Sequence[str] | None = None
    ) -> Candidates:
        """The k items with the largest cosine to this one; `exclude` and `categories` as in `Query`.

        Raises:
            UnknownItem: the catalogue does not hold the item.
            BadSetting: the model has no vectors of items, k is below 1, or no such category.
        """
        _ = self.vectors
        if self.items.find([str(item_id)])[0] < 0:
            raise UnknownItem(f"item {str(item_id)[:80]} is not in the catalogue", field="item_id")
        query = Query([item_id], k, exclude=exclude, categories=categories)
        asked = numbered([query], self.items, self.categories, False)[0]
        if isinstance(asked, DiffacetError):
            raise asked
        lists = self.search.similar(int(asked.known[0]), asked.banned[None], asked.k, asked.kinds)
        return self._candidates(lists, [[]], None)[0]

    def retrieve(
        self, known: Sequences | Prefixes, k: int = 20, *, exclude_seen: bool = True, diversity: float = 0.0
    ) -> Lists:
        """Candidates of item numbers, for all rows of `known` (each with an item): scores, numbers, interests (B, m).

        Behind a row's last candidate stand -inf, 0 and 0. With `diversity` the rows hold the k chosen ones.
        """
        lengths, parts = known.lengths(), list[Lists]()
        k = min(k, len(self.items))
        for part in blocks.cut(len(known), self.block):
            rows = np.arange(part.start, part.stop)
            longest = int(lengths[rows].max())
            read = known.last(rows, self.length or 1 << (longest - 1).bit_length())
            out = self._encoded(self.model, blocks.filled(read, self.block), len(rows))
            lists = self.search.best(
                out, len(rows), known.last(rows, longest if exclude_seen else 0), k, diversity, None
            )
            parts.append(lists)
        width = max(part[0].shape[1] for part in parts)
        return (
            np.concatenate([_wider(part[0], width, -np.inf) for part in parts]),
            np.concatenate([_wider(part[1], width, 0) for part in parts]),
            np.concatenate([_wider(part[2], width, 0) for part in parts]),
        )

    def model_at(self, steps: int | None) -> Model:
        """The model with S refinement steps, None: as it is set; raises BadSetting for an S that it has not."""
        if steps is None:
            return self.model
        if self.at_steps is None:
            raise BadSetting("this model has no refinement steps; leave refine_steps out", field="refine_steps")
        if steps not in self._at:
            try:
                self._at[steps] = self.at_steps(steps)
            except BadSetting as error:
                error.field = "refine_steps"
                raise
        return self._at[steps]

    def _block(self, model: Model, width: int, members: list[tuple[int, Asked]]) -> dict[int, Candidates]:
        """The answers of at most `block` queries that one call of the model encodes."""
        known = _sequences([one.known for _, one in members])
        out = self._encoded(model, self._ruled(known.last(np.arange(len(members)), width)), len(members))
        interests = out.float().cpu().numpy() if self.search.vectors is not None else None
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, (_, one) in enumerate(members):
            groups.setdefault((one.k, one.diversity, one.kinds), []).append(place)
        answers: dict[int, Candidates] = {}
        for (k, diversity, kinds), places in groups.items():
            banned = _sequences([members[place][1].banned for place in places])
            out_of = banned.last(np.arange(len(places)), int(banned.lengths().max(initial=0)))
            # Those who are searched come first; the others only fill the block.
            order = np.concatenate([places, np.setdiff1d(np.arange(self.block), places)])
            mine = out[torch.from_numpy(order).to(out.device)]
            lists = self.search.best(mine, len(places), out_of, k, diversity, kinds)
            unknown = [members[place][1].unknown for place in places]
            own = None if interests is None else [interests[place] for place in places]
            found = self._candidates(lists, unknown, own)
            answers |= {members[place][0]: one for place, one in zip(places, found, strict=True)}
        return answers

    def _ruled(self, items: IntArray) -> IntArray:
        return blocks.ruled(items, self.block) if self.block > 1 else items

    def _histories(self, items: IntArray) -> Histories:
        rows = len(items)
        return Histories(torch.from_numpy(items), torch.full((rows,), -1), torch.zeros(rows, dtype=torch.int64)).to(
            self.device
        )

    def _encoded(self, model: Model, items: IntArray, n: int) -> Tensor:
        """Interests (block, K, d) or scores (block, N + 1) of a block (block, L) of which n rows count."""
        history = self._histories(items)
        with torch.inference_mode():
            if isinstance(model, Matcher):
                interests = model.interests(history).float()
                if not interests[:n].isfinite().all():
                    raise BadRun("an interest is not finite: the model diverged; train it again, with a smaller lr")
                if interests.shape[2] != self.vectors.shape[1]:
                    wide = self.vectors.shape[1]
                    raise BadRun(f"the model's vectors are {interests.shape[2]} wide, those of the index {wide}")
                return interests
            if not isinstance(model, Scorer):
                raise TypeError(f"{type(model).__name__} is neither a Matcher nor a Scorer")
            scores = model.scores(history)
        if scores.shape[1] != len(self.items) + 1:
            raise BadRun(f"the model scores {scores.shape[1] - 1} items, the data has {len(self.items)}")
        return scores

    def _candidates(
        self, lists: Lists, unknown: list[list[Any]], interests: list[FloatArray] | None
    ) -> list[Candidates]:
        """An answer for each row of the lists (n, m), whose candidates stand before what is none."""
        counts = (lists[1] > 0).sum(1)
        # One gather for all rows: one a row would take longer than the search.
        numbers = lists[1][lists[1] > 0]
        ids, titles, kinds = self.named(numbers)
        answers, ends = [], np.cumsum(counts)
        for b, (n, end) in enumerate(zip(counts.tolist(), ends.tolist(), strict=True)):
            begin = end - n
            answers.append(
                Candidates(
                    ids.slice(begin, n),
                    lists[0][b, :n],
                    lists[2][b, :n],
                    None if titles is None else titles.slice(begin, n),
                    unknown[b],
                    None if interests is None else interests[b],
                    None if kinds is None else kinds.slice(begin, n),
                )
            )
        return answers

    def named(self, numbers: IntArray) -> tuple[pl.Series, pl.Series | None, pl.Series | None]:
        """Ids (n,) of item numbers, and their titles and categories where the data have them."""
        titles = None if self.titles is None else self.titles.gather(numbers - 1)
        if self.categories is None:
            return self.items.ids(numbers), titles, None
        names = pl.Series([*self.categories.names, None], dtype=pl.Utf8)
        primary = self.categories.primary[numbers]
        return self.items.ids(numbers), titles, names.gather(np.where(primary < 0, len(names) - 1, primary))

    def _trial(self, items: IntArray) -> tuple[Tensor, ...]:
        """What an answer to a block of rows is made of, for `steady_block`."""
        n = len(items)
        self.block = n + 1
        out = self._encoded(self.model, self._ruled(items), n)
        if self.search.vectors is None or self.search.index is not None:
            return (out[:n],)
        ranked = top_k(out, self.search.vectors, min(50, len(self.items)), rows=n)
        return out[:n], ranked.scores, ranked.items, ranked.interest


def _sequences(rows: Sequence[IntArray]) -> Sequences:
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Sequences.from_rows(owner, np.concatenate(rows), None, len(rows))


def _wider(lists: Any, width: int, value: float) -> Any:
    return np.pad(lists, ((0, 0), (0, width - lists.shape[1])), constant_values=value)
