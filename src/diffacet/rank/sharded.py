"""Evaluation by processes that share the item table: each searches its own items, and the lists are merged exactly.

Of a block of cases every process computes the interests of its own run of rows; these are gathered, so that all search
for all. The k best of all items are among the k best of each process's, in the same order: higher score first, ties to
the smaller number. The processes' numbers ascend from one to the next, so a stable sort of the lists, one after
another, keeps that order. A model that scores the whole catalogue at once (Scorer) does so for its rows, with the whole
table in every process.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from diffacet.core.batch import Histories
from diffacet.core.contract import Matcher, Scorer
from diffacet.core.layers import whole_tables
from diffacet.core.world import World, current, cuts
from diffacet.data.sequences import IntArray
from diffacet.rank import ranking
from diffacet.rank.ranking import Ranked


def merge(lists: Sequence[Ranked], firsts: Sequence[int], k: int) -> Ranked:
    """The k best of all items, from the lists of each run of items.

    Args:
        lists: of each run in turn, its k best or all it has; item 1 of a run is its first. B users in each.
        firsts: number of each run's first item, ascending.
        k: length of the lists, as `ranking.top_k` has it.
    """
    scores = torch.cat([one.scores for one in lists], 1)
    # Behind a list's end is item 0 with -inf, which stays that: a stable sort takes none of it before an item.
    items = torch.cat(
        [torch.where(one.items > 0, one.items + first - 1, 0) for one, first in zip(lists, firsts, strict=True)], 1
    )
    interest = torch.cat([one.interest for one in lists], 1)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return Ranked(items.gather(1, order)[:, :k], scores[:, :k], interest.gather(1, order)[:, :k])


def excluded(numbers: Tensor, first: int, count: int) -> Tensor:
    """(B, E) item numbers -> the same as numbers of the run of `count` items that begins at `first`; 0 for others."""
    local = numbers - (first - 1)
    return torch.where((local >= 1) & (local <= count), local, 0)


def catalogue_size(vectors: Tensor) -> int:
    """N of a Matcher's catalogue (N + 1, d), of which a process may have a run of items."""
    here = current()
    return len(vectors) - 1 if here is None else sum(count for (count,) in here.table([len(vectors) - 1]))


def top_k(interests: Tensor, vectors: Tensor, k: int, *, exclude: Tensor | None, budget: int) -> Ranked:
    """As `ranking.top_k`; in a world `vectors` are this process's run of items, and the lists are those of all.

    interests (B, K, d) are of the same users in all processes.
    """
    here = current()
    if here is None:
        return ranking.top_k(interests, vectors, k, exclude=exclude, budget=budget)
    counts = [count for (count,) in here.table([len(vectors) - 1])]
    firsts = [1 + sum(counts[:rank]) for rank in range(here.size)]
    with here.together():
        banned = None if exclude is None else excluded(exclude, firsts[here.rank], counts[here.rank])
        mine = ranking.top_k(interests, vectors, k, exclude=banned, budget=budget)
    rows = [len(mine.items)] * here.size
    items, scores, interest = (
        here.gathered(part, rows).view(here.size, -1, k) for part in (mine.items, mine.scores, mine.interest)
    )
    return merge([Ranked(*of_one) for of_one in zip(items, scores, interest, strict=True)], firsts, k)


def interests(model: Matcher, history: Histories) -> Tensor:
    """(B, K, d) interests of all rows, each computed by one process of the world."""
    here = current()
    if here is None:
        return model.interests(history)
    mine, rows = _own(here, len(history.items))
    return here.gathered(model.interests(_rows(history, mine))[: rows[here.rank]], rows)


def by_rows(
    ranked: Callable[[Histories, Tensor | None], IntArray], history: Histories, exclude: Tensor | None
) -> IntArray:
    """(B, k) item numbers that `ranked` gives for histories and their excluded items; each row by one process."""
    here = current()
    if here is None:
        return ranked(history, exclude)
    mine, rows = _own(here, len(history.items))
    with here.together():
        found = torch.from_numpy(ranked(_rows(history, mine), None if exclude is None else exclude[mine]))
    return here.gathered(found[: rows[here.rank]].to(here.device), rows).cpu().numpy()


@contextmanager
def searchable(model: object) -> Iterator[None]:
    """Inside it a model that scores the whole catalogue at once has the whole item table."""
    with whole_tables(model) if isinstance(model, nn.Module) and isinstance(model, Scorer) else nullcontext():
        yield


def _own(here: World, users: int) -> tuple[slice, list[int]]:
    """This process's rows of a block, and how many each has; without any it takes one, to have something to ask for."""
    ends = cuts(users, here.size)
    begin = min(ends[here.rank], users - 1)
    return slice(begin, max(ends[here.rank + 1], begin + 1)), [end - first for first, end in pairwise(ends)]


def _rows(history: Histories, mine: slice) -> Histories:
    times = None if history.times is None else history.times[mine]
    return Histories(history.items[mine], history.users[mine], history.case[mine], times)
