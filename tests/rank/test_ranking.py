import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffacet.core.batch import Histories
from diffacet.errors import BadRun, BadSetting
from diffacet.rank.ranking import rank, top_k, top_k_scores


def listed(scores, k, exclude=None):
    """Every row sorted in full by (score down, number up), written as a loop."""
    rows = []
    for b, row in enumerate(scores.tolist()):
        banned = {0} if exclude is None else {0, *exclude[b].tolist()}
        order = sorted((-score, item) for item, score in enumerate(row) if item not in banned and score > -math.inf)
        order = order[:k] + [(math.inf, 0)] * (k - len(order[:k]))
        rows.append([(item, -score) for score, item in order])
    return torch.tensor([[i for i, _ in r] for r in rows]), torch.tensor([[s for _, s in r] for r in rows])


def best(interests, catalogue):
    return torch.einsum("bkd,nd->bkn", interests, catalogue).amax(1)


def whole(*shape, low=-3, high=4, seed=0):
    """Small whole numbers: every product and sum is exact in float32, and ties are everywhere."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).float()


@settings(max_examples=60, deadline=None)
@given(
    users=st.integers(1, 9),
    K=st.integers(1, 4),
    d=st.integers(1, 5),
    n=st.integers(1, 400),
    k=st.integers(1, 60),
    banned=st.integers(0, 6),
    budget=st.sampled_from([1, 3000, 20_000, 2**28]),
    seed=st.integers(0, 2**30),
)
def test_top_k_is_the_full_sort(users, K, d, n, k, banned, budget, seed):
    interests, catalogue = whole(users, K, d, seed=seed), whole(n + 1, d, seed=seed + 1)
    exclude = torch.randint(0, n + 1, (users, banned), generator=torch.Generator().manual_seed(seed))
    ranked = top_k(interests, catalogue, k, exclude=exclude, budget=budget)
    scores = best(interests, catalogue)
    items, values = listed(scores, k, exclude)
    assert torch.equal(ranked.items, items)
    assert torch.equal(ranked.scores, values)
    assert ranked.scores.dtype == torch.float32
    again = top_k_scores(scores, k, exclude=exclude)
    assert torch.equal(again.items, items)
    assert torch.equal(again.scores, values)
    assert not again.interest.any()
    single = torch.einsum("bkd,nd->bkn", interests, catalogue)
    for b in range(users):
        for item, which in zip(items[b].tolist(), ranked.interest[b].tolist(), strict=True):
            assert which == (single[b, :, item].tolist().index(scores[b, item]) if item else 0)


@pytest.mark.parametrize("levels", [1, 2, 40])
def test_ties_at_scale(levels):
    scores = torch.randint(0, levels, (70, 5001), generator=torch.Generator().manual_seed(1)).float()
    ranked = top_k_scores(scores, 50)
    assert torch.equal(ranked.items, listed(scores, 50)[0])


def test_real_vectors_at_scale():
    generator = torch.Generator().manual_seed(0)
    interests, catalogue = torch.randn(130, 4, 16, generator=generator), torch.randn(3001, 16, generator=generator)
    ranked = top_k(interests, catalogue, 50)
    scores = best(interests, catalogue)
    scores[:, 0] = -math.inf
    torch.testing.assert_close(ranked.scores, scores.topk(50).values)
    torch.testing.assert_close(scores.gather(1, ranked.items), ranked.scores)
    near = torch.einsum("bkd,bnd->bkn", interests, catalogue[ranked.items])
    torch.testing.assert_close(near.gather(1, ranked.interest.unsqueeze(1)).squeeze(1), ranked.scores)


def test_blocks_do_not_matter():
    interests, catalogue = whole(40, 3, 4), whole(800, 4, seed=5)
    one = top_k(interests, catalogue, 20)
    for budget in (10, 60_000, 200_000, 2_000_000):
        many = top_k(interests, catalogue, 20, budget=budget)
        assert torch.equal(one.items, many.items)
        assert torch.equal(one.scores, many.scores)
        assert torch.equal(one.interest, many.interest)


@settings(max_examples=60)
@given(
    users=st.integers(1, 6),
    K=st.integers(1, 3),
    n=st.integers(300, 3000),
    k=st.integers(1, 12),
    top=st.sampled_from([1, 3, 40]),
    cells=st.sampled_from([400, 5000]),
    kept=st.floats(0, 1),
    seed=st.integers(0, 2**30),
)
def test_later_blocks_are_searched_above_what_is_found(users, K, n, k, top, cells, kept, seed):
    # Blocks of hundreds of items, whose columns are dealt into groups; with few levels the k-th score ties everywhere.
    interests, catalogue = whole(users, K, 3, seed=seed), whole(n + 1, 3, low=-top, high=top + 1, seed=seed + 1)
    exclude = torch.arange(1, n + 1).expand(users, -1).clone()
    exclude[torch.rand(users, n, generator=torch.Generator().manual_seed(seed)) < kept] = 0
    for banned in (None, exclude):
        ranked = top_k(interests, catalogue, k, exclude=banned, budget=28 * cells)
        items, values = listed(best(interests, catalogue), k, banned)
        assert torch.equal(ranked.items, items)
        assert torch.equal(ranked.scores, values)


@pytest.mark.parametrize("item", [1, 700, 2999])
def test_a_score_that_is_no_number_is_found_in_any_block(item):
    interests, catalogue = torch.ones(5, 2, 3), torch.zeros(3000, 3)
    catalogue[item, 1] = math.nan
    with pytest.raises(BadRun, match="not a number"):
        top_k(interests, catalogue, 5, budget=28 * 5000)


@pytest.mark.parametrize("budget", [2**21, 2**23])
@pytest.mark.parametrize("tied", [False, True])
def test_peak_memory_stays_under_the_budget(budget, tied):
    # Every scratch tensor is traced. The dense form would need 256 x 4 x 6,000 scores: 25 MB.
    interests, catalogue = torch.randn(256, 4, 8), torch.randn(6001, 8)
    if tied:
        interests, catalogue = interests.round(), catalogue.round()
    result = 2 * 256 * 20 * (4 + 8 + 8)  # parts and their concatenation
    with torch.profiler.profile(profile_memory=True) as trace:
        top_k(interests, catalogue, 20, budget=budget)
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert budget / 20 < peak < budget + result


def test_shared_rows_are_not_written():
    scores = torch.arange(6.0).expand(3, 6)
    ranked = top_k_scores(scores, 2, exclude=torch.tensor([[5], [4], [0]]))
    assert ranked.items.tolist() == [[4, 3], [5, 3], [5, 4]]
    assert scores[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_nothing_to_rank():
    ranked = top_k(torch.ones(0, 2, 3), torch.ones(5, 3), 4)
    assert ranked.items.shape == ranked.scores.shape == ranked.interest.shape == (0, 4)
    ranked = top_k(torch.ones(2, 2, 3), torch.ones(1, 3), 4)
    assert not ranked.items.any()
    assert (ranked.scores == -math.inf).all()


def test_infinite_scores_have_an_order():
    scores = torch.tensor([[9.0, math.inf, -math.inf, 2.0, math.inf, math.inf]])
    assert top_k_scores(scores, 2).items.tolist() == [[1, 4]]
    assert top_k_scores(scores, 5).items.tolist() == [[1, 4, 5, 3, 0]]


@pytest.mark.parametrize("n", [5, 3000])
def test_refusals(n):
    with pytest.raises(BadSetting, match="at least 1; got 0"):
        top_k(torch.ones(1, 1, 2), torch.ones(n, 2), 0)
    with pytest.raises(BadSetting, match="at least 1; got -1"):
        top_k_scores(torch.ones(1, n), -1)
    broken = torch.ones(n, 2)
    broken[n // 2] = math.nan
    with pytest.raises(BadRun, match="NaN"):
        top_k(torch.ones(3, 2, 2), broken, 2)


class Vectors(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(whole(40, 3, seed=3))
        self.taken = 0

    def interests(self, history):
        return self.table[history.items[:, :2]]

    def catalogue(self):
        self.taken += 1
        return self.table


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.vectors = Vectors()

    def scores(self, history):
        return best(self.vectors.interests(history), self.vectors.table)


def test_rank_asks_the_model():
    history = Histories(torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.full((2,), -1), torch.arange(2))
    model, exclude = Vectors(), history.items
    a, b = rank(model, history, 7, exclude=exclude), rank(Scores(), history, 7, exclude=exclude)
    assert torch.equal(a.items, b.items)
    assert torch.equal(a.scores, b.scores)
    assert not a.scores.requires_grad
    c = rank(model, history, 7, catalogue=model.table, exclude=exclude, budget=100)
    assert torch.equal(a.items, c.items)
    assert model.taken == 1
