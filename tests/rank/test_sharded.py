"""The lists of several processes, merged, in one process; real ones are in tests/learn/test_sharded_training.py."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffacet.core.batch import Histories
from diffacet.core.world import World, cuts
from diffacet.rank import sharded
from diffacet.rank.ranking import BUDGET, top_k


@st.composite
def searches(draw):
    """Interests, a catalogue of whole numbers, whose products are exact and often equal, exclusions, k, runs."""
    n_items, users = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    interests = torch.randint(-1, 2, (users, draw(st.integers(1, 3)), 2), generator=generator).float()
    catalogue = torch.randint(-1, 2, (n_items + 1, 2), generator=generator).float()
    exclude = torch.randint(0, n_items + 1, (users, draw(st.integers(0, 12))), generator=generator)
    k, runs = draw(st.integers(1, 50)), draw(st.integers(1, min(5, n_items)))
    return interests, catalogue, exclude if draw(st.booleans()) else None, k, cuts(n_items, runs)


@given(searches())
def test_merged_lists_are_those_of_the_whole_catalogue(search):
    interests, catalogue, exclude, k, ends = search
    lists, firsts = [], [begin + 1 for begin in ends[:-1]]
    for begin, end in pairwise(ends):
        own = torch.cat([catalogue[:1], catalogue[begin + 1 : end + 1]])
        banned = None if exclude is None else sharded.excluded(exclude, begin + 1, end - begin)
        lists.append(top_k(interests, own, k, exclude=banned))
    found = sharded.merge(lists, firsts, k)
    wanted = top_k(interests, catalogue, k, exclude=exclude)
    assert torch.equal(found.items, wanted.items)
    assert torch.equal(found.scores, wanted.scores)
    assert torch.equal(found.interest, wanted.interest)


@given(st.integers(1, 30), st.integers(1, 30), st.lists(st.integers(0, 60), min_size=1))
def test_excluded_items_are_those_of_the_run(first, count, numbers):
    found = sharded.excluded(torch.tensor([numbers]), first, count)[0].tolist()
    for number, local in zip(numbers, found, strict=True):
        assert local == (number - first + 1 if first <= number < first + count else 0)


def test_alone_it_is_the_usual_search():
    interests, catalogue = torch.randn(3, 2, 4), torch.randn(9, 4)
    found = sharded.top_k(interests, catalogue, 5, exclude=None, budget=BUDGET)
    assert torch.equal(found.items, top_k(interests, catalogue, 5).items)
    assert sharded.catalogue_size(catalogue) == 8


@given(st.integers(1, 20), st.integers(1, 6))
def test_rows_of_a_block_are_dealt_once(users, size):
    taken = []
    for rank in range(size):
        mine, rows = sharded._own(World(rank, size), users)
        assert sum(rows) == users
        assert len(range(users)[mine]) == max(rows[rank], 1)
        taken += range(users)[mine][: rows[rank]]
    assert taken == list(range(users))


def test_parts_of_histories_keep_what_belongs_together():
    history = Histories(torch.arange(12).view(4, 3), torch.arange(4), torch.arange(4) + 7, torch.arange(12).view(4, 3))
    part = sharded._rows(history, slice(1, 3))
    assert part.case.tolist() == [8, 9]
    assert torch.equal(part.times, history.times[1:3])
    assert sharded._rows(Histories(history.items, history.users, history.case), slice(0, 1)).times is None
