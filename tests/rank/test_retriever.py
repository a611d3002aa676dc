import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffacet.data.ids import Ids
from diffacet.errors import BadRun, BadSetting, UnknownItem
from diffacet.rank.categories import ItemCategories
from diffacet.rank.index import Index
from diffacet.rank.merging import diversify, merge, unseen
from diffacet.rank.ranking import top_k, top_k_scores
from diffacet.rank.retriever import Retriever

N, LENGTH = 300, 4


def whole(*shape, low=-3, high=4, seed=0):
    """Small whole numbers: every product and sum is exact in float32, and ties are everywhere."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).float()


@settings(max_examples=60, deadline=None)
@given(
    K=st.integers(1, 4),
    n=st.integers(1, 40),
    k=st.integers(1, 50),
    levels=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 2**30),
)
def test_merge_is_the_top_of_the_maximum(K, n, k, levels, seed):
    scores = whole(K, n + 1, low=0, high=levels, seed=seed)
    each = top_k_scores(scores, k)  # every interest's own list
    got = merge(each.scores.numpy(), each.items.numpy(), k)
    best = top_k_scores(scores.amax(0, keepdim=True), k)
    np.testing.assert_array_equal(got[1], best.items[0])
    np.testing.assert_array_equal(got[0], best.scores[0])
    for number, interest in zip(got[1], got[2], strict=True):
        column = scores[:, number].tolist()
        assert interest == (column.index(max(column)) if number else 0)
    assert (got[0].dtype, got[1].dtype, got[2].dtype) == (np.float32, np.int64, np.int64)


def test_merge_of_many_users():
    each = top_k_scores(whole(6, 50, low=0, high=9), 10)
    scores, numbers = each.scores.numpy().reshape(2, 3, 10), each.items.numpy().reshape(2, 3, 10)
    together = merge(scores, numbers, 12)
    for b in range(2):
        for part, alone in zip(together, merge(scores[b], numbers[b], 12), strict=True):
            np.testing.assert_array_equal(part[b], alone)


def greedy(scores, categories, k, kappa, *, differing):
    """The definition, in either form of the gain; candidates with a category first."""
    chosen, left = [], [i for i in range(len(scores)) if categories[i] >= 0]

    def gain(i):
        same = sum(categories[j] == categories[i] for j in chosen)
        return scores[i] + kappa * (len(chosen) - same) if differing else scores[i] - kappa * same

    while left and len(chosen) < k:
        best = max(left, key=lambda i: (gain(i), -i))
        chosen.append(best)
        left.remove(best)
    return (chosen + [i for i in range(len(scores)) if categories[i] < 0])[:k]


eighths = st.integers(0, 80).map(lambda i: i / 8)  # exact, so that both forms round alike


@settings(max_examples=100, deadline=None)
@given(
    items=st.lists(st.tuples(eighths, st.integers(-1, 4)), max_size=25),
    k=st.integers(1, 30),
    kappa=eighths.filter(bool),
)
def test_diversify_is_the_literal_greedy_choice(items, k, kappa):
    items = sorted(items, key=lambda pair: -pair[0])
    scores, categories = [score for score, _ in items], [category for _, category in items]
    got = diversify(np.array(scores, np.float32), np.array(categories, np.int64), k, kappa).tolist()
    assert got == greedy(scores, categories, k, kappa, differing=False)
    assert got == greedy(scores, categories, k, kappa, differing=True)


def test_diversify_limits():
    scores = np.array([9, 8, 7, 6, 5, 4], np.float32)
    categories = np.array([0, 0, -1, 1, 0, 2])
    assert diversify(scores, categories, 4, 0.0).tolist() == [0, 1, 2, 3]
    assert diversify(scores, categories, 6, 1e9).tolist() == [0, 3, 5, 1, 4, 2]
    assert diversify(scores, categories, 99, 1e-9).tolist() == [0, 1, 3, 4, 5, 2]
    assert diversify(scores[:0], categories[:0], 3, 1.0).tolist() == []
    for kappa in (-1.0, math.inf, math.nan):
        with pytest.raises(BadSetting, match="diversity is a finite number"):
            diversify(scores, categories, 3, kappa)


@pytest.mark.parametrize("k", [12, N, N + 5])
def test_unseen_is_top_k_where_the_index_finds_all(k):
    vectors, interests = torch.arange(1.0, N + 1).square().unsqueeze(1), torch.tensor([1.0, -2.0]).expand(5, 2)
    banned = torch.randint(0, N + 1, (5, 9), generator=torch.Generator().manual_seed(2))
    banned[0], banned[1, 1:] = 0, banned[1, 0]  # none, and one many times
    scores, numbers = unseen(Index.build(vectors.numpy()), interests.unsqueeze(-1).numpy(), banned.numpy(), k)
    catalogue = torch.cat((torch.zeros(1, 1), vectors))
    ranked = top_k(interests.reshape(10, 1, 1), catalogue, k, exclude=banned.repeat_interleave(2, 0))
    np.testing.assert_array_equal(numbers.reshape(10, k), ranked.items)
    np.testing.assert_array_equal(scores.reshape(10, k), ranked.scores)


class Vectors(nn.Module):
    def __init__(self, K=3):
        super().__init__()
        self.table = nn.Embedding(N + 1, 4)
        self.table.weight.data = whole(N + 1, 4)
        self.mix = nn.Parameter(whole(K, LENGTH, seed=1))
        self.asked = []

    def interests(self, history):
        assert not self.training
        self.asked.append(history)
        return self.mix @ self.table(history.items)

    def catalogue(self):
        return self.table.weight


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Vectors()

    def scores(self, history):
        return (self.inner.interests(history) @ self.inner.table.weight.T).amax(1)


IDS = Ids(pl.Series([f"i{n}" for n in range(1, N + 1)]), 1)
CATEGORIES = ItemCategories.from_lists([[f"c{n % 5}"] if n % 7 else [] for n in range(1, N + 1)])


def recommender(model=None, **settings):
    return Retriever(Vectors() if model is None else model, IDS, length=LENGTH, **settings)


def ids(*numbers):
    return [f"i{n}" for n in numbers]


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("k", [1, 20, N, 2 * N])
def test_recommend_is_top_k_of_the_whole_catalogue(k, exclude_seen):
    given = [3, 1, 4, 1, 5, 9, 200]  # longer than what is read: all of it counts as seen
    got = recommender().recommend(ids(*given), k, exclude_seen=exclude_seen)
    model = Vectors()
    interests = model.mix @ model.table(torch.tensor([given[-LENGTH:]]))
    exclude = torch.tensor([given]) if exclude_seen else None
    ranked = top_k(interests, model.table.weight, k, exclude=exclude)
    there = ranked.items[0] > 0
    assert len(got) == there.sum() == min(k, N - (len(set(given)) if exclude_seen else 0))
    assert got.item_id.to_list() == ids(*ranked.items[0][there].tolist())
    np.testing.assert_array_equal(got.score, ranked.scores[0][there].detach())
    np.testing.assert_array_equal(got.interest, ranked.interest[0][there])
    np.testing.assert_array_equal(got.interests, interests[0].detach())
    other = recommender(Scores()).recommend(ids(*given), k, exclude_seen=exclude_seen)
    assert other.item_id.to_list() == got.item_id.to_list()
    np.testing.assert_array_equal(other.score, got.score)
    assert other.interests is None
    assert not other.interest.any()


def test_many_are_answered_like_one():
    rng = np.random.default_rng(0)
    histories = [ids(*rng.integers(1, N + 1, rng.integers(1, 30))) for _ in range(300)]
    service = recommender(categories=CATEGORIES)
    for settings_ in ({}, {"diversity": 2.0}, {"exclude_seen": False}):
        many = service.recommend_many(histories, 10, **settings_)
        assert len(many) == 300
        for row in (0, 7, 255, 256, 299):
            one = service.recommend(histories[row], 10, **settings_)
            assert one.item_id.to_list() == many[row].item_id.to_list()
            np.testing.assert_array_equal(one.score, many[row].score)
    assert service.recommend_many([]) == []


def test_what_the_model_is_shown():
    model = Vectors().train()
    recommender(model).recommend_many([ids(1, 2, 3, 4, 5), ["new", "i7", "i8"]], 3)
    history = model.asked[-1]  # the others were to find the size of a block
    assert history.items[:2].tolist() == [[2, 3, 4, 5], [7, 8, 0, 0]]
    assert set(history.users.tolist()) == {-1}
    assert set(history.case.tolist()) == {0}


@pytest.mark.parametrize("model", [Vectors, Scores, lambda: Vectors(1)])
def test_diversity(model):
    service, given = recommender(model(), categories=CATEGORIES), ids(5, 6)
    plain, little = service.recommend(given, 10), service.recommend(given, 10, diversity=1e-6)
    much = service.recommend(given, 10, diversity=1e6)
    kinds = [int(CATEGORIES.primary[int(item[1:])]) for item in much.item_id]
    assert sorted(kinds[:5]) == sorted(kinds[5:]) == [0, 1, 2, 3, 4]
    assert len(set(much.item_id)) == 10
    best = [item for item in plain.item_id if int(item[1:]) % 7]
    assert little.item_id.to_list()[: len(best)] == best  # a tiny kappa orders ties only; no category comes last
    assert {"i5", "i6"}.isdisjoint(much.item_id)


def test_diversity_fills_up_with_items_without_a_category():
    few = ItemCategories.from_lists([["a"] if n == 50 else [] for n in range(1, N + 1)])
    service = recommender(categories=few)
    got = service.recommend(ids(5, 6), N, diversity=1.0)
    assert got.item_id[0] == "i50"
    rest = [item for item in service.recommend(ids(5, 6), N).item_id if item != "i50"]
    assert got.item_id.to_list()[1:] == rest


def test_titles_and_unknown_ids():
    numbers = Ids(pl.Series(range(1001, 1001 + N)), 1)
    titles = pl.Series([f"title of {n}" for n in range(1001, 1001 + N)])
    service = Retriever(Vectors(), numbers, length=LENGTH, titles=titles)
    got = service.recommend([1005, "1006", 7, "x", 7], 5)
    assert got.unknown == [7, "x"]
    assert got.titles.to_list() == [f"title of {item}" for item in got.item_id]
    assert got.item_id.dtype == pl.Int64
    assert got.item_id.to_list() == service.recommend([1005, 1006], 5).item_id.to_list()
    assert recommender().recommend(ids(1), 3).titles is None
    many = service.recommend_many([[1005, "1006", 7, "x", 7], [1001], list(range(1002, 1001 + N)), ["y", 1300]], 5)
    assert [len(answer) for answer in many] == [5, 5, 1, 5]
    assert [answer.unknown for answer in many] == [[7, "x"], [], [], ["y"]]
    assert many[0].item_id.to_list() == got.item_id.to_list()
    assert many[2].item_id.to_list() == [1001]
    for answer in many:
        assert answer.titles.to_list() == [f"title of {item}" for item in answer.item_id]


def test_the_exact_pool_of_diversity_holds_the_best_of_each_interest():
    service, k, given = recommender(categories=ItemCategories.from_lists([["a"]] * N)), 12, [5, 6]
    got = service.recommend(ids(*given), 3 * k, diversity=1e-9)
    own, model = service.recommend(ids(*given), k, diversity=1e-9), Vectors()
    each = top_k(torch.from_numpy(got.interests).unsqueeze(1), model.catalogue(), k, exclude=torch.tensor([given] * 3))
    best = merge(each.scores.numpy(), each.items.numpy(), k)  # of one category: diversity changes nothing
    assert own.item_id.to_list() == ids(*best[1])
    np.testing.assert_array_equal(own.score, best[0])
    np.testing.assert_array_equal(own.interest, best[2])


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_other_indexes(kind):
    exact, near = recommender().recommend(ids(5, 6), 20), recommender(index=kind).recommend(ids(5, 6), 20)
    assert len(near) == 20
    assert {"i5", "i6"}.isdisjoint(near.item_id)
    assert near.score.sum() >= 0.9 * exact.score.sum() > 0
    built = Index.build(Vectors().table.weight[1:].detach().numpy())
    assert recommender(index=built).recommend(ids(5, 6)).item_id.to_list() == exact.item_id.to_list()


def test_an_exact_index_that_is_given_counts():
    vectors = Vectors().table.weight.detach()
    got = recommender(index=Index.build(vectors[1:].flip(0).numpy())).recommend(ids(5, 6), 20, exclude_seen=False)
    same = recommender().recommend(ids(5, 6), N, exclude_seen=False)
    where = dict(zip(same.item_id, same.score, strict=True))
    assert got.score.tolist() == sorted(where.values(), reverse=True)[:20]
    assert got.score.tolist() == [where[f"i{N + 1 - int(item[1:])}"] for item in got.item_id]
    with pytest.raises(BadRun, match="vectors are 4 wide, those of the index 3"):
        recommender(index=Index.build(vectors[1:, :3].numpy())).recommend(ids(5, 6))


def test_refusals():
    service = recommender()
    with pytest.raises(BadSetting, match="at least 1; got 0"):
        service.recommend(ids(1), 0)
    with pytest.raises(BadSetting, match="history 0 is empty"):
        service.recommend([])
    with pytest.raises(BadSetting, match="history 1 is empty"):
        service.recommend_many([ids(1), []])
    with pytest.raises(BadSetting, match="list of item ids"):
        service.recommend("i1")
    with pytest.raises(BadSetting, match="categories"):
        service.recommend(ids(1), diversity=0.5)
    for diversity in (-0.1, math.nan, math.inf):
        with pytest.raises(BadSetting, match="finite"):
            service.recommend(ids(1), diversity=diversity)
    with pytest.raises(UnknownItem, match=r"history 0 .* catalogue of 300 items: a, b; ids look like i1, i2, i3"):
        service.recommend(["a", "b", "a"])
    with pytest.raises(UnknownItem, match=r"history 1 .*: 0, 1, 2, 3, 4 and 3 more"):
        service.recommend_many([ids(1), list(range(8))])
    with pytest.raises(BadSetting, match="unknown index kind"):
        recommender(index="flat")
    broken = Vectors()
    broken.table.weight.data[7] = math.inf
    with pytest.raises(BadSetting, match="an item vector is not finite"):
        recommender(broken)
    with pytest.raises(BadSetting, match="length"):
        Retriever(Vectors(), IDS, length=-1)


def test_parts_that_do_not_fit():
    few = Ids(pl.Series(["a", "b"]), 1)
    with pytest.raises(BadRun, match="300 items, the data has 2"):
        Retriever(Vectors(), few, length=LENGTH)
    with pytest.raises(BadRun, match="300 items, the data has 2"):
        Retriever(Scores(), few, length=LENGTH).recommend(["a"])
    with pytest.raises(BadRun, match="those of 1 items"):
        recommender(categories=ItemCategories.from_lists([["a"]]))
    with pytest.raises(TypeError, match="neither"):
        recommender(nn.Linear(1, 1)).recommend(ids(1))
    broken = Vectors()
    service = recommender(broken)
    broken.mix.data.fill_(math.nan)
    with pytest.raises(BadRun, match="not finite"):
        service.recommend(ids(1))


@pytest.mark.parametrize("index", ["exact", "hnsw", "ivf"])
@pytest.mark.parametrize("diversity", [0.0, 1.0])
def test_nothing_is_left_when_the_history_is_the_catalogue(index, diversity):
    for service in (recommender(index=index, categories=CATEGORIES), recommender(Scores(), categories=CATEGORIES)):
        whole, some = service.recommend_many([ids(*range(1, N + 1)), ids(1)], 5, diversity=diversity)
        assert len(whole) == len(whole.item_id) == len(whole.score) == 0
        assert len(some) == 5
        assert len(service.recommend(ids(*range(1, N)), 5, diversity=diversity)) == 1


def test_length_zero_reads_the_whole_history():
    class Counting(Scores):
        def scores(self, history):
            self.shown.append(history.items[0].tolist())
            return torch.zeros(len(history.items), N + 1)

    model = Counting()
    model.shown = []
    service = Retriever(model, IDS, length=0)
    service.recommend_many([ids(3, 1, 2), ids(9)], 2)
    assert model.shown[-2:] == [[3, 1, 2, 0], [9]]  # as wide as its own length asks for, whatever stands beside it
