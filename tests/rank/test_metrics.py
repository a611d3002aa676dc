import csv
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from diffacet.data.sequences import Sequences
from diffacet.errors import BadRun, BadSetting
from diffacet.rank.categories import (
    ItemCategories,
    hit_kinds,
    kinds,
    kinds_all,
    kinds_random,
    mean_difference,
    mean_distance,
    measure,
    uncategorised,
)
from diffacet.rank.metrics import METRICS, check_single_target, match, match_rows, usual_ks
from released import DATA

PUBLISHED = DATA.parent / "published" / "dimerec.csv"


def discount(i):
    return 1 / math.log2(i + 2)


def ideal(h):
    return sum(discount(i) for i in range(h))


def loops(ranked, G, n):
    """One user's metrics, from the definitions: `ranked` without padding, G in time order with repeats."""
    R, S = ranked[:n], set(G)
    h = sum(1 for item in R if item in S)
    gain = sum(discount(i) for i, item in enumerate(R) if item in S)
    mean = sum(discount(i) for i in range(len(R))) / len(R) if R else 0.0
    found = sum(1 for g in G if g in R)
    early = sum(discount(j) for j, g in enumerate(G) if g in R)
    best = ideal(min(n, len(S)))
    first = next((i for i, item in enumerate(R) if item in S), None)
    return {
        "recall": h / len(G) if G else 0.0,
        "hit_rate": float(h > 0),
        "ndcg": gain / ideal(h) if h else 0.0,
        "ndcg_set": h * mean / ideal(h) if h else 0.0,
        "ndcg_target": early / ideal(found) if found else 0.0,
        "recall_textbook": h / len(S) if S else 0.0,
        "ndcg_textbook": gain / best if best else 0.0,
        "precision": h / n,
        "recall_min": h / min(n, len(S)) if S else 0.0,
        "mrr": 0.0 if first is None else 1 / (first + 1),
    }


def packed(lists, targets, width):
    items = np.array([[*row, *[0] * (width - len(row))] for row in lists], dtype=np.int64).reshape(len(lists), width)
    offsets = np.cumsum([0, *map(len, targets)])
    return items, np.array([g for G in targets for g in G], dtype=np.int64), offsets


users = st.lists(
    st.tuples(
        st.lists(st.integers(1, 12), unique=True, max_size=10),
        st.lists(st.integers(1, 14), max_size=20),  # repeats, more than N, outside the list
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(users=users, n=st.integers(1, 12))
def test_metrics_equal_the_loops(users, n):
    lists, targets = [u[0] for u in users], [u[1] for u in users]
    matched = match(*packed(lists, targets, 10))
    for name, metric in METRICS.items():
        expected = [loops(row, G, n)[name] for row, G in zip(lists, targets, strict=True)]
        value = metric(matched, n)
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=0, err_msg=name)


@settings(max_examples=100, deadline=None)
@given(users=users)
def test_the_end_of_a_list_hits_nothing(users):
    """Not even where the user before it has the largest number as a target, whose key is the next user's neighbour."""
    items, targets, offsets = packed([u[0] for u in users], [u[1] for u in users], 10)
    matched = match(items, targets, offsets)
    assert not matched.hits[items == 0].any()
    assert (matched.lengths == [len(u[0]) for u in users]).all()


@settings(max_examples=50, deadline=None)
@given(users=users, n=st.integers(1, 12))
def test_bounds(users, n):
    m = {
        name: metric(match(*packed([u[0] for u in users], [u[1] for u in users], 10)), n)
        for name, metric in METRICS.items()
    }
    for value in m.values():
        assert ((value >= 0) & (value <= 1 + 1e-12)).all()
    assert (m["recall"] <= m["recall_textbook"]).all()
    assert (m["recall_textbook"] <= m["hit_rate"]).all()
    assert (m["ndcg_textbook"] <= m["ndcg"] + 1e-12).all()
    plain = np.array([len(set(G)) == len(G) for _, G in users])
    assert (m["recall"][plain] == m["recall_textbook"][plain]).all()


def test_ndcg_is_one_where_hits_come_first():
    lists, targets = [[4, 2, 7, 8], [1, 2, 3, 4]], [[2, 4, 4, 9], [1]]
    matched = match(*packed(lists, targets, 4))
    np.testing.assert_allclose(METRICS["ndcg"](matched, 4), [1, 1])
    np.testing.assert_allclose(METRICS["ndcg_textbook"](matched, 4), [ideal(2) / ideal(3), 1])


def test_ndcg_set_is_the_mean_over_all_orders():
    listed, G = [3, 1, 4, 7, 5, 9], [4, 9, 9, 2, 7]
    orders = [list(order) for order in itertools.permutations(listed)]
    every = match(*packed(orders, [G] * len(orders), 6))
    one = match(*packed([listed], [G], 6))
    np.testing.assert_allclose(METRICS["ndcg_set"](one, 6)[0], METRICS["ndcg"](every, 6).mean())


def test_ndcg_set_constants():
    matched = match(*packed([list(range(1, 51))], [[1]], 50))
    np.testing.assert_allclose(METRICS["ndcg_set"](matched, 20), [0.352013], atol=5e-7)
    np.testing.assert_allclose(METRICS["ndcg_set"](matched, 50), [0.257955], atol=5e-7)


def test_ndcg_textbook_is_scikit_learns():
    rng = np.random.default_rng(0)
    relevance = (rng.random((40, 60)) < 0.1).astype(int)
    relevance[:, 0] = 1  # scikit-learn leaves out rows without a relevant item
    scores = rng.permuted(np.tile(np.arange(60.0), (40, 1)), axis=1)
    lists = np.argsort(-scores, axis=1) + 1
    targets = [(np.flatnonzero(row) + 1).tolist() for row in relevance]
    matched = match(*packed(lists.tolist(), targets, 60))
    for n in (1, 5, 20, 60):
        ours = METRICS["ndcg_textbook"](matched, n).mean()
        np.testing.assert_allclose(ours, ndcg_score(relevance, scores, k=n), rtol=1e-12)


def test_rows_of_a_holdout():
    items, flat, offsets = packed([[1, 2], [3, 4], [5, 6]], [[1, 1], [7], [6, 2]], 2)
    whole, target = match(items, flat, offsets), Sequences(flat, offsets, np.arange(3))
    part = match_rows(items[1:], target, 1)
    assert whole.hits[1:].tolist() == part.hits.tolist() == [[False, False], [False, True]]
    assert part.targets.tolist() == [1, 2]
    assert whole.distinct.tolist() == [1, 1, 2]


lists_of_categories = st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), min_size=8, max_size=8)


def hamming_loop(names, row):
    sets = [set(names[i - 1]) for i in row if i and names[i - 1]]
    pairs = [len(a ^ b) for a, b in itertools.combinations(sets, 2)]
    return sum(pairs) / len(pairs) if pairs else math.nan


def difference_loop(names, row):
    leaves = [names[i - 1][-1] for i in row if i and names[i - 1]]
    pairs = [a != b for a, b in itertools.combinations(leaves, 2)]
    return sum(pairs) / len(pairs) if pairs else math.nan


@settings(max_examples=100, deadline=None)
@given(
    names=lists_of_categories,
    rows=st.lists(st.permutations([0, 0, 1, 2, 3, 4, 5, 6, 7, 8]), min_size=1, max_size=5),
    n=st.integers(1, 10),
    data=st.data(),
)
def test_category_metrics_equal_the_loops(names, rows, n, data):
    categories, items = ItemCategories.from_lists(names), np.array(rows)[:, :n]
    np.testing.assert_allclose(mean_distance(categories, items), [hamming_loop(names, row) for row in items])
    np.testing.assert_allclose(mean_difference(categories, items), [difference_loop(names, row) for row in items])
    hits = np.array(
        data.draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=len(rows), max_size=len(rows)))
    )
    hits &= items > 0
    found = [len({names[i - 1][-1] for i in row[hit] if names[i - 1]}) for row, hit in zip(items, hits, strict=True)]
    assert hit_kinds(categories, items, hits).tolist() == found
    without = []
    for row in items:
        there = [i for i in row if i]
        without.append(sum(not names[i - 1] for i in there) / len(there) if there else math.nan)
    np.testing.assert_allclose(uncategorised(categories, items), without)
    shown = [[names[i - 1] for i in row if i] for row in items]
    assert kinds(categories, items).tolist() == [len({own[-1] if own else None for own in row}) for row in shown]
    every = [len({name for own in row for name in own or [None]}) for row in shown]
    assert kinds_all(categories, items).tolist() == every


def test_category_limits():
    items = np.array([[1, 2, 3, 4]])
    same, differ = ItemCategories.from_lists([["x"]] * 4), ItemCategories.from_lists([[c] for c in "abcd"])
    assert (mean_distance(same, items)[0], mean_difference(same, items)[0]) == (0, 0)
    assert (mean_distance(differ, items)[0], mean_difference(differ, items)[0]) == (2, 1)
    assert (kinds(same, items)[0], kinds_all(same, items)[0]) == (1, 1)
    assert (kinds(differ, items)[0], kinds_all(differ, items)[0]) == (4, 4)
    assert kinds(differ, np.array([[3, 0, 0], [0, 0, 0]])).tolist() == [1, 0]


def test_kinds_of_random_lists_are_the_mean_over_all_lists():
    names = [["a"], ["b", "c"], ["c"], None, ["a"], [], ["a"]]
    categories = ItemCategories.from_lists(names)
    for n in range(1, 8):
        lists = np.array(list(itertools.combinations(range(1, 8), n)))
        assert kinds_random(categories, n) == pytest.approx(kinds(categories, lists).mean(), rel=1e-12)
    assert kinds_random(categories, 500) == kinds_random(categories, 7) == pytest.approx(3)
    assert kinds_random(ItemCategories.from_lists([["x"]] * 9), 4) == 1


def test_kinds_of_random_lists_of_a_large_catalogue():
    draw, N = np.random.default_rng(0), 3_000
    categories = ItemCategories.from_lists([[f"c{c}"] for c in np.minimum(draw.zipf(1.5, N), 40)])
    lists = np.argpartition(draw.random((400, N)), 100, axis=1)[:, :100] + 1
    found = kinds(categories, lists)
    assert (found <= min(100, len(categories.names))).all()
    error = found.std(ddof=1) / math.sqrt(len(found))
    assert abs(kinds_random(categories, 100) - found.mean()) < 4 * error
    assert kinds_random(categories, N) == pytest.approx(len(categories.names), rel=1e-12)


def test_conc_averages_the_interests_that_have_a_value():
    names = [["a", "b"], ["a"], [], ["c"]]
    categories = ItemCategories.from_lists(names)
    lists = np.array([[[1, 2], [2, 4], [3, 4]]])  # distances 1 and 2; the third has one item with a category
    merged = np.array([[1, 4]])
    values = measure(categories, merged, np.array([[True, True]]), lists, [1, 2])
    assert values["conc@2"].tolist() == [1.5]
    assert values["conc_merged@2"].tolist() == [3]
    assert values["div_hit_mean@2"].tolist() == [2]
    assert values["div_hit_mean@1"].tolist() == [1]
    assert math.isnan(values["conc@1"][0])
    assert "conc@2" not in measure(categories, merged, np.array([[True, True]]), None, [2])


def test_categories_of_items():
    categories = ItemCategories.from_lists([["a", "b", "a"], None, [], ["b"]])
    assert categories.names == ("a", "b")
    assert categories.n_items == 4
    assert categories.primary.tolist() == [-1, 0, -1, -1, 1]
    assert categories.offsets.tolist() == [0, 0, 2, 2, 2, 3]


@pytest.mark.parametrize("shape", [(0, 5), (3, 5)])
def test_no_targets_at_all(shape):
    matched = match(np.ones(shape, np.int64).cumsum(1), np.zeros(0, np.int64), np.zeros(shape[0] + 1, np.int64))
    for metric in METRICS.values():
        assert metric(matched, 5).tolist() == [0.0] * shape[0]


def test_which_category_is_the_one():
    # a is of four items, b of three, c of two, d of two
    names = [["a", "b", "c"], ["b", "a"], ["d", "c", "a"], None, ["b", "a"], ["d"], []]
    number = {name: n for n, name in enumerate("abcd")}

    def of(primary):
        categories = ItemCategories.from_lists(names, primary)
        assert categories.names == tuple(number)
        return ["abcd"[n] if n >= 0 else None for n in categories.primary[1:]]

    assert of("first") == ["a", "b", "d", None, "b", "d", None]
    assert of("last") == ["c", "a", "a", None, "a", "d", None]
    assert of("rarest") == ["c", "b", "d", None, "b", "d", None]  # of d and c, equally rare, the earlier
    assert ItemCategories.from_lists([["x", "x", "y"], ["y"]], "rarest").primary.tolist() == [-1, 0, 1]
    assert ItemCategories.from_lists([None, []], "rarest").primary.tolist() == [-1, -1, -1]
    with pytest.raises(BadSetting, match="first, last, rarest"):
        ItemCategories.from_lists(names, "leaf")


def test_lengths_of_lists_by_protocol():
    assert usual_ks("leave-last") == usual_ks("next-item") == usual_ks("next-item-last") == (5, 10, 20, 50)
    assert usual_ks("by-user") == usual_ks("collaborative") == (20, 50)
    assert usual_ks("by-user", "recall@5") == (5, 20, 50)
    assert usual_ks("next-item", "hit_rate@20") == (5, 10, 20, 50)


def means(ranks, ks):
    """HR and NDCG of targets of these ranks."""
    told = {}
    for k in ks:
        told[f"hit_rate@{k}"] = sum(r <= k for r in ranks) / len(ranks)
        told[f"ndcg@{k}"] = sum(discount(r - 1) for r in ranks if r <= k) / len(ranks)
    return told


@given(ranks=st.lists(st.integers(1, 60), min_size=1, max_size=30), ks=st.sets(st.integers(1, 60), min_size=1))
def test_lists_of_one_run_pass(ranks, ks):
    check_single_target({**means(ranks, ks), "recall@7": 2.0})
    printed = {name: round(value, 4) for name, value in means(ranks, ks).items()}
    check_single_target(printed, rounding=5e-5 + 1e-12)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ndcg@10": 0.26}, "hit_rate@5 0.25, ndcg@5 0.25, hit_rate@10 0.5, ndcg@10 0.26"),  # rises too little
        ({"ndcg@10": 0.36}, "hit_rate@5 0.25, ndcg@5 0.25, hit_rate@10 0.5, ndcg@10 0.36"),  # rises too much
        ({"hit_rate@10": 0.2}, "hit_rate@10 0.2"),  # falls
        ({"ndcg@5": 0.251}, "^hit_rate@5 0.25, ndcg@5 0.251 cannot"),  # above the hit rate
        ({"ndcg@5": 0.09}, "^hit_rate@5 0.25, ndcg@5 0.09 cannot"),  # below hits that all come last
        ({"ndcg@10": math.nan}, "ndcg@10 nan"),
    ],
)
def test_columns_of_different_runs_are_refused(changes, named):
    told = means([1, 7, 40, 41], (5, 10))
    check_single_target(told)
    with pytest.raises(BadRun, match=named):
        check_single_target(told | changes)


@pytest.mark.parametrize(
    ("told", "edge"),
    [
        ({"hit_rate@1": 0.25, "ndcg@1": 0.25}, 0.27),  # each is off by 0.01: 0.26 hits, all first, and 0.01 more
        ({"hit_rate@4": 0.25, "ndcg@4": 0.25}, 0.27),
        # From k to the next both ends are off, twice 0.01: 0.27 of 0.25 new hits, at rank 3 at best.
        ({"hit_rate@2": 0.25, "ndcg@2": 0.2, "hit_rate@6": 0.5, "ndcg@6": 0.3}, 0.2 + 0.27 / math.log2(4) + 0.02),
    ],
)
def test_rounding_is_allowed_once_for_the_first_column_and_twice_for_a_step(told, edge):
    last = list(told)[-1]
    check_single_target(told | {last: edge - 1e-6}, rounding=0.01)
    with pytest.raises(BadRun, match="cannot be of the same lists"):
        check_single_target(told | {last: edge + 1e-6}, rounding=0.01)


@pytest.mark.parametrize("off", [1.5e-9, 1e-6])
def test_exact_means_may_be_off_by_the_last_digits_only(off):
    check_single_target({"hit_rate@1": 0.5, "ndcg@1": 0.5 + 1e-9})
    with pytest.raises(BadRun, match="cannot be of the same lists"):
        check_single_target({"hit_rate@1": 0.5, "ndcg@1": 0.5 + 2 * 1e-9 + off})


def test_a_metric_that_stands_alone_is_not_compared():
    check_single_target({"hit_rate@5": 0.2, "ndcg@10": 0.9, "recall@10": 0.1})
    check_single_target({})


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="no published numbers beside the repository")
def test_four_published_rows_cannot_be_of_one_run():
    rows = {}
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["table"] == "Table 1":
                name = {"HR": "hit_rate", "NDCG": "ndcg"}[row["metric"]]
                rows.setdefault((row["dataset"], row["model"]), {})[f"{name}@{row['k']}"] = float(row["value"])
    assert len(rows) == 24
    impossible = set()
    for place, told in rows.items():
        try:
            check_single_target(told, rounding=5e-5)
        except BadRun:
            impossible.add(place)
    assert impossible == {(data, "Mult-VAE") for data in ("YooChoose", "KuaiRec", "ML-10M")} | {("KuaiRec", "ComiRec")}
