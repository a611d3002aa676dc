import itertools

import numpy as np
import pytest
import torch

from diffacet.core import cooccurrence
from diffacet.core.batch import Histories
from diffacet.core.contract import Facts
from diffacet.core.cooccurrence import gram
from diffacet.errors import BadSetting
from diffacet.models import ease
from diffacet.models.ease import CARDS, EASE, EASEConfig, item_weights, largest

N, L, U = 15, 6, 40


def facts(sequences, n_items=N):
    items = np.array(list(itertools.chain.from_iterable(sequences)), dtype=np.int64)
    return Facts(n_items, L, items, np.cumsum([0, *map(len, sequences)], dtype=np.int64))


def users(seed=0):
    """Sequences with repeated items; the last item of the catalogue is met by nobody."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, N, rng.integers(0, 9)).tolist() for _ in range(U)]


def matrix(sequences):
    """X (U, N + 1), 0/1."""
    X = np.zeros((len(sequences), N + 1))
    for user, row in enumerate(sequences):
        for item in row:
            X[user, item] = 1
    return X


def weights(row, oldest):
    """{item: weight} of a row, each item where it came last, rising evenly from the oldest to 1."""
    distinct = [item for place, item in enumerate(row) if item not in row[place + 1 :]]
    steps = max(1, len(distinct) - 1)
    return {item: oldest + place / steps * (1 - oldest) for place, item in enumerate(distinct)}


def weighted(sequences, oldest):
    """X (U, N + 1) of weights."""
    X = np.zeros((len(sequences), N + 1))
    for user, row in enumerate(sequences):
        for item, weight in weights(row, oldest).items():
            X[user, item] = weight
    return X


def solved(X, l2):
    """Every column of B as the ridge regression of its item on all the others, in float64."""
    B = np.zeros((N + 1, N + 1))
    for j in range(N + 1):
        others = [i for i in range(N + 1) if i != j]
        A = X[:, others]
        B[others, j] = np.linalg.solve(A.T @ A + l2 * np.eye(N), A.T @ X[:, j])
    return B


def histories(rows, width=L):
    items = torch.zeros(len(rows), width, dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.full((len(rows),), -1), torch.zeros(len(rows), dtype=torch.int64))


@pytest.mark.parametrize("cells", [1, 100, 2**25])
def test_gram_counts_the_users_of_two_items(cells, monkeypatch):
    monkeypatch.setattr(cooccurrence, "CELLS_AT_ONCE", cells)
    X = matrix(users())
    assert np.array_equal(gram(facts(users())).numpy(), X.T @ X)


@pytest.mark.parametrize("oldest", [0.0, 0.3])
@pytest.mark.parametrize("cells", [100, 2**25])
def test_gram_of_weighted_rows(oldest, cells, monkeypatch):
    monkeypatch.setattr(cooccurrence, "CELLS_AT_ONCE", cells)
    X = weighted(users(), oldest)
    assert np.allclose(gram(facts(users()), oldest).numpy(), X.T @ X, atol=1e-5)


@pytest.mark.parametrize("l2", [0.5, 10.0, 500.0])
def test_weights_are_one_ridge_regression_per_item(l2):
    X = matrix(users())
    expected = torch.from_numpy(solved(X, l2))
    found = item_weights(torch.from_numpy(X.T @ X), l2)
    assert torch.allclose(found, expected, atol=1e-12)
    single = EASE(EASEConfig(l2=l2), facts(users())).weights
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), expected, atol=1e-5)
    assert not single.diagonal().any()
    assert not single[0].any()  # padding
    assert not single[:, 0].any()
    assert not single[:, N].any()  # nobody's item


def test_a_large_penalty_leaves_the_counts():
    X = matrix(users())
    counts = X.T @ X
    np.fill_diagonal(counts, 0)
    assert torch.allclose(1e7 * item_weights(torch.from_numpy(X.T @ X), 1e7), torch.from_numpy(counts), atol=1e-3)


def test_weights_follow_the_items_and_ignore_empty_users():
    rng = np.random.default_rng(1)
    order = np.concatenate([[0], 1 + rng.permutation(N)])
    turned = [[int(order[item]) for item in row] for row in users()]
    plain, other = (EASE(EASEConfig(l2=5), facts(rows)).weights for rows in (users(), turned))
    assert torch.allclose(other[order][:, order], plain, atol=1e-6)
    more = EASE(EASEConfig(l2=5), facts([[], *users(), []])).weights
    assert torch.allclose(more, plain, atol=1e-6)


@pytest.mark.parametrize("keep", [None, 4])
def test_scores_are_weighted_sums_over_the_window(keep):
    model = EASE(EASEConfig(l2=5.0, recency=0.7, keep=keep), facts(users())).double()
    B = solved(matrix(users()), 5.0)
    if keep is not None:
        for i in range(N + 1):
            B[i, np.argsort(-np.abs(B[i]))[keep:]] = 0
    rows = [[1, 2, 3, 4, 5, 6], [7, 7], [], [9]]
    found = model.scores(histories(rows))
    assert found.shape == (4, N + 1)
    for b, row in enumerate(rows):
        for j in range(N + 1):
            expected = sum(0.7 ** (len(row) - 1 - place) * B[item, j] for place, item in enumerate(row))
            assert found[b, j].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("keep", [None, 4])
@pytest.mark.parametrize("recency", [1.0, 0.7])
def test_time_weights_act_on_what_is_scored_and_leave_the_fit(recency, keep):
    settings = {"l2": 5.0, "recency": recency, "keep": keep}
    plain, model = (EASE(EASEConfig(**settings, oldest_weight=oldest), facts(users())) for oldest in (1.0, 0.2))
    assert torch.equal(plain.weights, model.weights)
    assert torch.equal(plain.neighbours, model.neighbours)
    rows = [[1, 2, 3, 4, 5, 6], [7, 2, 7, 1], [], [9]]
    alone = plain.scores(histories([[item] for item in range(1, N + 1)])).numpy()  # (N, N + 1): rows of B
    found = model.scores(histories(rows)).numpy()
    for b, row in enumerate(rows):
        weighed = list(weights(row, 0.2).items())
        expected = sum(
            recency ** (len(weighed) - 1 - place) * weight * alone[item - 1]
            for place, (item, weight) in enumerate(weighed)
        )
        assert np.allclose(found[b], expected, atol=1e-6)


def test_the_fit_may_be_weighted_as_well():
    model = EASE(EASEConfig(l2=5.0, oldest_weight=0.2, weighted_fit=True), facts(users()))
    assert np.allclose(model.weights.numpy(), solved(weighted(users(), 0.2), 5.0), atol=1e-5)
    same = EASE(EASEConfig(l2=5.0, weighted_fit=True), facts(users())).weights
    assert torch.equal(same, EASE(EASEConfig(l2=5.0), facts(users())).weights)


def test_whole_histories_are_scored_in_any_width():
    """As collaborative protocols show them: no length is known when the model is made."""
    rows = [list(range(1, 14)), [3], []]
    flat = Facts(N, 0, facts(users()).train_items, facts(users()).train_offsets)
    model = EASE(CARDS[0].presets["collaborative-time"].model, flat)
    narrow, wide = model.scores(histories(rows, 13)), model.scores(histories(rows, 40))
    assert torch.equal(narrow, wide)
    assert narrow[0].any()


def test_turning_users_turns_the_scores_to_the_bit():
    model, rows = EASE(EASEConfig(l2=5.0, oldest_weight=0.5), facts(users())), [[1, 2], [5, 3, 9], [], [7]]
    scores = model.scores(histories(rows))
    order = [2, 0, 3, 1]
    assert torch.equal(model.scores(histories([rows[u] for u in order])), scores[order])


@pytest.mark.parametrize("cells", [1, 2**25])
def test_the_largest_are_kept(cells, monkeypatch):
    monkeypatch.setattr(ease, "CELLS_AT_ONCE", cells)
    weights = EASE(EASEConfig(l2=5.0), facts(users())).weights
    values, columns = largest(weights, 3)
    assert values.shape == columns.shape == (N + 1, 3)
    assert columns.dtype == torch.int32
    for i in range(1, N):
        kept = columns[i].tolist()
        assert len(set(kept)) == 3
        assert values[i].tolist() == [float(weights[i, j]) for j in kept]
        left = [abs(float(weights[i, j])) for j in range(N + 1) if j not in kept]
        assert values[i].abs().min() >= max(left)


def test_as_many_as_there_are_is_all():
    whole, sparse = (EASE(EASEConfig(l2=5.0, keep=keep), facts(users())) for keep in (None, N))
    assert torch.equal(whole.weights, sparse.weights)
    almost = EASE(EASEConfig(l2=5.0, keep=N - 1), facts(users()))
    assert almost.weights.shape == (N + 1, N - 1)
    rows = histories([[1, 2, 3], [4]])
    assert torch.allclose(almost.scores(rows), whole.scores(rows), atol=1e-3)


def test_a_catalogue_that_is_too_large_is_refused_before_any_work():
    with pytest.raises(BadSetting, match=r"max_items=10 .*; got 15.* 1024 bytes .*--set max_items=15"):
        EASE(EASEConfig(max_items=10), facts(users()))
    EASE(EASEConfig(max_items=15), facts(users()))


def test_without_training_sequences_nothing_is_fitted():
    """As a run is loaded: buffers are put in later, and the catalogue may be of any size."""
    model = EASE(EASEConfig(keep=7), Facts(10**7, L))
    assert model.weights.numel() == model.neighbours.numel() == 0
