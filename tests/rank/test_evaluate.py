import math

import numpy as np
import pytest
import torch
from torch import nn

from diffacet.data.sequences import Sequences
from diffacet.data.splits import Holdout
from diffacet.errors import BadRun, BadSetting
from diffacet.rank import evaluate as evaluation
from diffacet.rank.categories import ItemCategories, kinds_random
from diffacet.rank.evaluate import Measured, evaluate, per_user
from diffacet.rank.exposure import gini
from diffacet.rank.metrics import METRICS

N, K, D, USERS, LENGTH = 60, 3, 4, 150, 5


class Vectors(nn.Module):
    """Whole numbers, so that no rounding depends on a batch; interests depend on order, user and case."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(N + 1, D)
        self.table.weight.data = torch.randint(-4, 5, (N + 1, D), generator=draw).float()
        self.mix = nn.Parameter(torch.randint(-2, 3, (K, LENGTH), generator=draw).float())
        self.frozen = nn.Dropout(0.9).eval()
        self.taken = 0
        self.asked = []

    def interests(self, history):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.asked.append(history)
        shift = (history.case % 3 + history.users % 2).view(-1, 1, 1)
        return self.mix @ self.table(history.items) + shift

    def catalogue(self):
        self.taken += 1
        return self.table.weight


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Vectors()

    def scores(self, history):
        return (self.inner.interests(history) @ self.inner.table.weight.T).amax(1)


def sequences(shortest, longest, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, USERS)
    return Sequences(rng.integers(1, N + 1, lengths.sum()), np.cumsum([0, *lengths]), np.arange(USERS) * 7)


@pytest.fixture
def holdout():
    return Holdout(sequences(1, 9, 1), sequences(1, 12, 2))


@pytest.fixture
def categories():
    rng = np.random.default_rng(3)
    return ItemCategories.from_lists([[f"c{c}" for c in rng.integers(0, 7, rng.integers(0, 4))] for _ in range(N)])


def best_lists(model, holdout, k, *, exclude_seen=False):
    """Each user's list from the full score matrix, as loops."""
    lists = []
    with torch.inference_mode():
        model.eval()
        for row in range(USERS):
            shown = holdout.history.row(row)[-LENGTH:]
            items = torch.tensor([[*shown, *[0] * (LENGTH - len(shown))]])
            shift = row % 3 + int(holdout.history.users[row]) % 2
            scores = ((model.mix @ model.table(items) + shift) @ model.table.weight.T).amax(1)[0].tolist()
            banned = {0, *holdout.history.row(row).tolist()} if exclude_seen else {0}
            lists.append(sorted(set(range(N + 1)) - banned, key=lambda i: (-scores[i], i))[:k])
    return lists


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_against_the_full_score_matrix(holdout, exclude_seen):
    model = Vectors()
    got = evaluate(model, holdout, length=LENGTH, ks=(5, 20), exclude_seen=exclude_seen)
    for k in (5, 20):
        lists = best_lists(model, holdout, k, exclude_seen=exclude_seen)
        targets = [holdout.target.row(row).tolist() for row in range(USERS)]
        found = [len(set(R) & set(G)) for R, G in zip(lists, targets, strict=True)]
        recall = [h / len(G) for h, G in zip(found, targets, strict=True)]
        assert got[f"recall@{k}"] == pytest.approx(np.mean(recall), rel=1e-12)
        assert got[f"hit_rate@{k}"] == pytest.approx(np.mean([h > 0 for h in found]), rel=1e-12)
        assert got[f"coverage@{k}"] == pytest.approx(len({i for R in lists for i in R}) / N)
        shown = [sum(i in R for R in lists) for i in range(1, N + 1)]
        assert got[f"gini@{k}"] == pytest.approx(gini(np.array(shown)), rel=1e-12)
    assert set(got) == {f"{name}@{k}" for name in (*METRICS, "coverage", "gini") for k in (5, 20)}
    assert model.taken == 1


def test_a_scorer_is_measured_like_its_matcher(holdout):
    assert evaluate(Scores(), holdout, length=LENGTH) == evaluate(Vectors(), holdout, length=LENGTH)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_batch_and_budget_do_not_matter(holdout, categories, exclude_seen):
    def run(**settings):
        return per_user(
            Vectors(), holdout, length=LENGTH, ks=(20, 7), categories=categories, exclude_seen=exclude_seen, **settings
        )

    whole = run()
    assert len(whole.values["recall@7"]) == USERS
    for settings in ({"batch_size": 1}, {"batch_size": 7}, {"batch_size": 128}, {"budget": 3000}):
        part = run(**settings)
        assert part.overall == whole.overall
        for name, value in whole.values.items():
            np.testing.assert_array_equal(part.values[name], value, err_msg=name)


def test_user_order_does_not_matter(holdout):
    class Blind(Vectors):
        def interests(self, history):
            return self.mix @ self.table(history.items)

    order = np.random.default_rng(0).permutation(USERS)
    mixed = Holdout(holdout.history.take(order), holdout.target.take(order))
    a, b = (per_user(Blind(), one, length=LENGTH, ks=(10,)) for one in (holdout, mixed))
    for name, value in a.values.items():
        np.testing.assert_array_equal(value[order], b.values[name])
        assert a.means()[name] == pytest.approx(b.means()[name], rel=1e-12)
    assert a.overall == b.overall


def test_a_long_list_ends_with_the_catalogue(holdout):
    got = evaluate(Vectors(), holdout, length=LENGTH, ks=(N, 500))
    assert got["recall_textbook@500"] == got[f"recall_textbook@{N}"] == got["hit_rate@500"] == got["coverage@500"] == 1
    assert got["ndcg_set@500"] == got[f"ndcg_set@{N}"]
    assert got["ndcg_textbook@500"] == got[f"ndcg_textbook@{N}"]


def test_what_the_model_is_shown(holdout):
    model, done = Vectors(), []
    evaluate(model, holdout, length=LENGTH, batch_size=64, progress=lambda *counts: done.append(counts))
    assert done == [(64, USERS), (128, USERS), (USERS, USERS)]
    items = torch.cat([history.items for history in model.asked]).tolist()
    for row in range(USERS):
        shown = holdout.history.row(row)[-LENGTH:].tolist()
        assert items[row] == shown + [0] * (LENGTH - len(shown))
    assert torch.cat([history.case for history in model.asked]).tolist() == list(range(USERS))
    assert torch.cat([history.users for history in model.asked]).tolist() == [7 * row for row in range(USERS)]


def test_modes_are_restored(holdout):
    model = Vectors().train()
    model.frozen.eval()
    evaluate(model, holdout, length=LENGTH)
    assert (model.training, model.frozen.training, model.table.training) == (True, False, True)

    class Failing(Vectors):
        def interests(self, history):
            raise RuntimeError("broken")

    model = Failing()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, holdout, length=LENGTH)
    assert model.training
    assert not torch.is_inference_mode_enabled()


def test_category_numbers(holdout, categories):
    measured = per_user(Vectors(), holdout, length=LENGTH, ks=(10,), categories=categories)
    got = measured.means()
    lists, primary = best_lists(Vectors(), holdout, 10), categories.primary
    kinds = []
    for row, listed in enumerate(lists):
        targets = set(holdout.target.row(row).tolist())
        kinds.append({int(primary[i]) for i in listed if i in targets and primary[i] >= 0})
    assert got["div_hit_sum@10"] == sum(map(len, kinds))
    assert got["div_hit_mean@10"] == pytest.approx(sum(map(len, kinds)) / USERS)
    assert got["div_hit_union@10"] == len(set().union(*kinds))
    assert got["uncategorised@10"] == pytest.approx(np.mean([np.mean(primary[listed] < 0) for listed in lists]))
    assert got["kinds@10"] == pytest.approx(np.mean([len(set(primary[listed].tolist())) for listed in lists]))
    assert got["kinds@10"] <= got["kinds_all@10"] <= 8
    assert got["kinds_random@10"] == kinds_random(categories, 10)
    assert 0 < got["div_all@10"] < 1
    assert got["conc@10"] > 0
    assert got["conc_merged@10"] > 0
    assert "conc@10" not in evaluate(Scores(), holdout, length=LENGTH, ks=(10,), categories=categories)
    with pytest.raises(BadSetting, match="60 items, the categories are those of 2"):
        evaluate(Vectors(), holdout, length=LENGTH, categories=ItemCategories.from_lists([["a"], ["b"]]))


def test_users_without_a_value_are_left_out_of_the_mean(holdout):
    nothing = ItemCategories.from_lists([[]] * N)
    got = evaluate(Vectors(), holdout, length=LENGTH, ks=(10,), categories=nothing)
    assert math.isnan(got["div_all@10"])
    assert got["uncategorised@10"] == 1
    assert got["div_hit_union@10"] == got["div_hit_sum@10"] == 0
    assert got["kinds@10"] == got["kinds_all@10"] == got["kinds_random@10"] == 1  # "none"


@pytest.mark.parametrize("wrong", [{"ks": ()}, {"ks": (5, 0)}, {"batch_size": 0}, {"length": -1}])
def test_refusals(holdout, wrong):
    with pytest.raises(BadSetting, match="at least 1"):
        evaluate(Vectors(), holdout, **{"length": LENGTH, **wrong})


def single(targets, users=None):
    """A holdout of one target a case."""
    cases = len(targets)
    offsets, users = np.arange(cases + 1), np.arange(cases) if users is None else users
    return Holdout(
        Sequences(np.ones(cases, np.int64), offsets, users), Sequences(np.asarray(targets, np.int64), offsets, users)
    )


class Table(nn.Module):
    """Scores of each case, as they are given."""

    def __init__(self, table):
        super().__init__()
        self.register_buffer("table", torch.as_tensor(table))

    def scores(self, history):
        return self.table[history.case]


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_one_target_a_case_against_an_explicit_sort(batch_size):
    draw = np.random.default_rng(5)
    table, targets = draw.integers(0, 6, (200, N + 1)).astype(np.float32), draw.integers(1, N + 1, 200)
    table[:, 0] = 99  # padding is no candidate
    got = evaluate(Table(table), single(targets), length=1, ks=(1, 5, 10, 20, 50), batch_size=batch_size)
    ranks = []
    for scores, a in zip(table.tolist(), targets.tolist(), strict=True):
        above = sum(scores[j] > scores[a] for j in range(1, N + 1))
        ranks.append(1 + above + sum(scores[j] == scores[a] for j in range(1, a)))
    for k in (1, 5, 10, 20, 50):
        assert got[f"hit_rate@{k}"] == pytest.approx(np.mean([r <= k for r in ranks]), rel=1e-12)
        ndcg = np.mean([1 / math.log2(r + 1) if r <= k else 0 for r in ranks])
        assert got[f"ndcg@{k}"] == got[f"ndcg_textbook@{k}"] == pytest.approx(ndcg, rel=1e-12)
        assert got[f"mrr@{k}"] == pytest.approx(np.mean([1 / r if r <= k else 0 for r in ranks]), rel=1e-12)
        for other in ("recall", "recall_textbook", "recall_min", "ndcg_target"):
            assert got[f"{other}@{k}"] == got[f"hit_rate@{k}"]
    assert got["hit_rate@1"] == got["ndcg@1"] == got["mrr@1"]


def test_constant_random_and_perfect_scores():
    draw = np.random.default_rng(6)
    targets, ks = draw.integers(1, N + 1, 2_000), (5, 20)
    constant = evaluate(Table(np.zeros((2_000, N + 1), np.float32)), single(targets), length=1, ks=ks)
    random = evaluate(Table(draw.random((2_000, N + 1), np.float32)), single(targets), length=1, ks=ks)
    perfect = np.zeros((2_000, N + 1), np.float32)
    perfect[np.arange(2_000), targets] = 1
    oracle = evaluate(Table(perfect), single(targets), length=1, ks=ks)
    for k in ks:
        assert constant[f"hit_rate@{k}"] == pytest.approx(np.mean(targets <= k))
        assert constant[f"gini@{k}"] == pytest.approx(1 - k / N)
        share = k / N
        assert abs(random[f"hit_rate@{k}"] - share) < 4 * math.sqrt(share * (1 - share) / 2_000)
        assert random[f"gini@{k}"] < 0.1
        assert oracle[f"hit_rate@{k}"] == oracle[f"ndcg@{k}"] == 1


def test_hits_and_gains_are_checked_where_there_is_one_target(monkeypatch, holdout):
    checked = []
    monkeypatch.setattr(evaluation, "check_single_target", checked.append)
    evaluate(Vectors(), holdout, length=LENGTH)
    assert checked == []
    got = evaluate(Table(np.zeros((3, N + 1), np.float32)), single([1, 2, 3]), length=1)
    assert checked == [got]


def test_means_over_users_first_average_within_each():
    values = {"recall@5": np.array([1.0, 0.0, 0.5, 1.0, np.nan]), "kinds@5": np.array([1.0, np.nan, 3.0, 4.0, 5.0])}
    measured = Measured(values, {"coverage@5": 0.25}, users=np.array([9, 4, 9, 9, 2]))
    assert measured.means() == {"recall@5": 2.5 / 4, "kinds@5": 13 / 4, "coverage@5": 0.25}
    got = measured.means("users")
    assert got == {"recall@5": pytest.approx((2.5 / 3 + 0) / 2), "kinds@5": (8 / 3 + 5) / 2, "coverage@5": 0.25}
    alone = Measured(values, {}, users=np.arange(5))
    assert alone.means("users") == alone.means() == Measured(values, {}).means("users")
    assert math.isnan(Measured({"x@1": np.array([np.nan])}, {}, users=np.array([3])).means("users")["x@1"])


def test_an_evaluation_keeps_whose_each_case_is():
    users, targets = np.array([3, 3, 3, 8]), [1, 2, 60, 1]
    model = Table(np.zeros((4, N + 1), np.float32))
    measured = per_user(model, single(targets, users), length=1, ks=(5,))
    assert measured.users.tolist() == users.tolist()
    assert measured.values["hit_rate@5"].tolist() == [1, 1, 0, 1]
    got = evaluate(model, single(targets, users), length=1, ks=(5,), average="users")
    assert got["hit_rate@5"] == pytest.approx((2 / 3 + 1) / 2)


def test_histories_may_be_anything_that_reads_like_sequences(holdout):
    class Reading:
        def __init__(self, of):
            self.of, self.users = of, of.users

        def __len__(self):
            return len(self.of)

        def lengths(self):
            return self.of.lengths()

        def last(self, rows, length):
            return self.of.last(rows, length)

        def last_times(self, rows, length):
            return None

    reading = Holdout(Reading(holdout.history), holdout.target)
    for exclude_seen in (False, True):
        expected = evaluate(Vectors(), holdout, length=LENGTH, exclude_seen=exclude_seen)
        assert evaluate(Vectors(), reading, length=LENGTH, exclude_seen=exclude_seen) == expected


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_scores_that_are_no_numbers_name_the_model_and_the_first_case(holdout, batch_size, exclude_seen):
    class Diverged(Vectors):
        def interests(self, history):
            found = super().interests(history)
            found[(history.case == 11) | (history.case == 70)] = float("nan")
            return found

    class DivergedScores(Scores):
        def __init__(self):
            super().__init__()
            self.inner = Diverged()

    for model in (Diverged(), DivergedScores()):
        with pytest.raises(
            BadRun, match=r"^Diverged\w*, case 11 \(counted from 0\) of user number 77: a score is not a"
        ):
            evaluate(model, holdout, length=LENGTH, batch_size=batch_size, exclude_seen=exclude_seen)


def test_an_unknown_average_is_refused_before_anything_is_measured(holdout):
    model = Vectors()
    with pytest.raises(BadSetting, match="evaluated, all, users, what means are over; got 'mean'"):
        evaluate(model, holdout, length=LENGTH, average="mean")
    assert model.asked == []
