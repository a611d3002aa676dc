"""The collaborative protocol's evaluation: masks, metrics and their checkable properties."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffacet.data.sequences import Sequences
from diffacet.data.splits import Holdout
from diffacet.errors import BadLog, BadRun, BadSetting
from diffacet.rank.evaluate import evaluate, per_user

DIFFREC = ("recall", "precision", "ndcg_textbook", "mrr", "recall_min")


class Table:
    """Scores by case from a matrix (U, N), the column of item 1 first."""

    def __init__(self, scores):
        self.table = torch.as_tensor(scores)

    def scores(self, history):
        return torch.nn.functional.pad(self.table[history.case], (1, 0))


def sequences(lists, users=None):
    flat = np.array([item for items in lists for item in items], dtype=np.int64)
    users = np.arange(len(lists)) if users is None else users
    return Sequences(flat, np.cumsum([0, *map(len, lists)]), users)


def holdout(train, target, valid=None, **settings):
    """Items as they are, 1..N; with `valid` the mask is both parts."""
    seen = None if valid is None else sequences([a + b for a, b in zip(train, valid, strict=True)])
    return Holdout(sequences(train), sequences(target), seen, True, **settings)


def drawn(seed=0, users=40, n_items=30):
    """Random parts that are apart, and random scores."""
    rng = np.random.default_rng(seed)
    parts = [[], [], []]
    for _ in range(users):
        order = (1 + rng.permutation(n_items)).tolist()
        ends = np.cumsum(rng.integers(1, 7, 3))
        for part, begin, end in zip(parts, [0, *ends], ends, strict=False):
            part.append(order[begin:end])
    return holdout(parts[0], parts[2], parts[1]), rng.normal(size=(users, n_items)).astype(np.float32)


def measured(cases, scores, ks=(3, 10), **settings):
    return evaluate(Table(scores), cases, length=0, ks=ks, **settings)


def same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name] == pytest.approx(value, **tolerance), name


def test_the_worked_example():
    # Items 0..5 of the example are 1..6 here; the ranking is [4, 0, 2, ...].
    scores = np.tile([5.0, 1.0, 4.0, 0.0, 6.0, 2.0], (3, 1))
    cases = holdout([[4]] * 3, [[1, 3, 6], [5], [6]], everyone=4)
    got = per_user(Table(scores), cases, length=0, ks=(3,))
    expected = {
        "recall@3": [0.666667, 1, 0],
        "precision@3": [0.666667, 0.333333, 0],
        "ndcg_textbook@3": [0.530721, 1, 0],
        "mrr@3": [0.5, 1, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(got.values[name], values, atol=1e-6)
    means, every = got.means(), got.means("all")
    told = {"recall": (0.555556, 0.416667), "ndcg_textbook": (0.510240, 0.382680), "mrr": (0.5, 0.375)}
    for name, (evaluated, over_all) in told.items():
        assert means[f"{name}@3"] == pytest.approx(evaluated, abs=1e-6)
        assert every[f"{name}@3"] == pytest.approx(over_all, abs=1e-6)
    assert evaluate(Table(scores), cases, length=0, ks=(3,), average="all") == every
    assert every["coverage@3"] == means["coverage@3"]
    with pytest.raises(BadSetting, match="evaluated, all, users, what means are over; got 'mean'"):
        got.means("mean")


def test_without_users_left_out_both_averages_are_one():
    cases, scores = drawn()
    assert measured(cases, scores) == measured(cases, scores, average="all")
    same(measured(cases, scores), measured(replace(cases, everyone=len(cases)), scores, average="all"))


def test_against_loops_over_users_and_ranks():
    cases, scores = drawn(1)
    k, rows = 10, []
    for user in range(len(cases)):
        masked = {*cases.seen.row(user).tolist()}
        target = {*cases.target.row(user).tolist()}
        free = [item for item in range(1, scores.shape[1] + 1) if item not in masked]
        order = sorted(free, key=lambda item: (-scores[user, item - 1], item))[:k]
        hits = [item in target for item in order]
        gain = sum(1 / math.log2(j + 2) for j, hit in enumerate(hits) if hit)
        ideal = sum(1 / math.log2(j + 2) for j in range(min(len(target), k)))
        first = hits.index(True) if any(hits) else math.inf
        rows.append(
            [sum(hits) / len(target), sum(hits) / k, gain / ideal, 1 / (first + 1), sum(hits) / min(k, len(target))]
        )
    got = measured(cases, scores, ks=(k,))
    for name, value in zip(DIFFREC, np.mean(rows, axis=0), strict=True):
        assert got[f"{name}@{k}"] == pytest.approx(value, rel=1e-12)
    assert got[f"recall@{k}"] == got[f"recall_textbook@{k}"]


def test_increasing_maps_of_a_users_scores_change_nothing():
    cases, scores = drawn(2)
    reference = measured(cases, scores)
    assert measured(cases, scores + np.linspace(-3, 3, len(scores), dtype=np.float32)[:, None]) == reference
    assert measured(cases, np.exp(scores)) == reference


def test_the_target_indicator_is_perfect():
    cases, scores = drawn(3)
    scores[:] = 0
    for user in range(len(cases)):
        scores[user, cases.target.row(user) - 1] = 1
    got, lengths = measured(cases, scores), cases.target.lengths()
    for k in (3, 10):
        assert got[f"ndcg_textbook@{k}"] == got[f"mrr@{k}"] == got[f"recall_min@{k}"] == pytest.approx(1)
        assert got[f"recall@{k}"] == pytest.approx(np.minimum(1, k / lengths).mean())


def test_masked_items_never_count():
    cases, scores = drawn(4)
    reference = measured(cases, scores, ks=(5, 30))
    for user in range(len(cases)):
        scores[user, cases.seen.row(user) - 1] = np.inf
    assert measured(cases, scores, ks=(5, 30)) == reference
    rows = np.arange(len(cases))
    listed = [{*np.flatnonzero(np.isfinite(row)) + 1} for row in scores]
    assert all(not listed[u] & {*cases.seen.row(u).tolist()} for u in rows)
    assert measured(cases, scores, exclude_seen=False)["recall@3"] == 0
    only_train = replace(cases, seen=None)
    assert measured(only_train, scores) != reference  # masking with train alone is another figure


def test_equal_scores_rank_by_number():
    cases = holdout([[2], [1, 3]], [[1, 3], [2, 5]])
    got = per_user(Table(np.zeros((2, 6))), cases, length=0, ks=(1, 2, 3))
    assert got.values["recall@1"].tolist() == [0.5, 0.5]
    assert got.values["recall@2"].tolist() == [1, 0.5]
    assert got.values["recall@3"].tolist() == [1, 1]


def test_users_without_targets_scale_the_average_over_all():
    cases, scores = drawn(5)
    some = replace(cases, everyone=2 * len(cases))
    reference = measured(cases, scores)
    assert measured(some, scores) == reference
    halved = measured(some, scores, average="all")
    assert all(
        halved[f"{name}@{k}"] == pytest.approx(reference[f"{name}@{k}"] / 2) for name in DIFFREC for k in (3, 10)
    )


def test_no_number_and_targets_among_the_masked_raise():
    cases, scores = drawn(6)
    broken = scores.copy()
    broken[3, 4] = np.nan
    with pytest.raises(BadRun, match="a score is not a number"):
        measured(cases, broken)
    inside = cases.seen.row(2)[:1].tolist()
    lists = [cases.target.row(u).tolist() + (inside if u == 2 else []) for u in range(len(cases))]
    wrong = replace(cases, target=sequences(lists))
    with pytest.raises(BadLog, match=f"1 targets are among .* first item number {inside[0]} of user number 2;"):
        measured(wrong, scores)
    measured(wrong, scores, exclude_seen=False)
    repeats = replace(wrong, exclude_seen=False)  # a protocol in which a user may come back to an item
    measured(repeats, scores, exclude_seen=True)


def test_permuting_items_changes_nothing():
    cases, scores = drawn(7)
    order = np.random.default_rng(0).permutation(scores.shape[1])
    number = np.concatenate([[0], np.argsort(order) + 1])
    moved = replace(
        cases, **{part: replace(getattr(cases, part), items=number[getattr(cases, part).items])
                  for part in ("history", "target", "seen")}
    )  # fmt: skip
    same(measured(cases, scores), measured(moved, scores[:, order]))


def test_the_protocol_decides_unless_told():
    cases, scores = drawn(8)
    assert measured(cases, scores) == measured(cases, scores, exclude_seen=True)
    free = replace(cases, exclude_seen=False)
    assert measured(free, scores) == measured(free, scores, exclude_seen=False) != measured(cases, scores)


def test_a_list_longer_than_what_is_left_ends_early():
    cases = holdout([[1, 2], [1, 2, 3, 4]], [[3], [5]])
    got = per_user(Table(np.arange(10.0).reshape(2, 5)), cases, length=0, ks=(4,))
    assert got.values["precision@4"].tolist() == [0.25, 0.25]
    assert got.values["recall@4"].tolist() == [1, 1]


def test_length_zero_shows_whole_histories():
    class Asked(Table):
        def scores(self, history):
            self.shown = [row[row > 0].tolist() for row in history.items]
            return super().scores(history)

    cases = holdout([[1, 2, 3], [4], [2, 5]], [[5], [1], [1]])
    model = Asked(np.zeros((3, 5)))
    evaluate(model, cases, length=0, ks=(2,))
    assert model.shown == [[1, 2, 3], [4], [2, 5]]
    evaluate(model, cases, length=2, ks=(2,))
    assert model.shown == [[2, 3], [4], [2, 5]]


def test_ndcg_is_the_one_of_the_protocols_papers():
    """DiffRec's is the textbook's; that of the matching papers stops the ideal at the hits."""
    cases, scores = drawn()
    got = measured(cases, scores)
    assert all(got[f"ndcg@{k}"] == got[f"ndcg_textbook@{k}"] for k in (3, 10))
    other = measured(replace(cases, exclude_seen=False), scores)
    assert other["ndcg@10"] != other["ndcg_textbook@10"]
