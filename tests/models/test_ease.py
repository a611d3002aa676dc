import itertools

import numpy as np
import pytest
import torch

from diffacet.core.batch import Histories
from diffacet.core.contract import Facts
from diffacet.errors import BadSetting
from diffacet.models import ease
from diffacet.models.ease import EASE, EASEConfig, gram, item_weights, largest

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
    monkeypatch.setattr(ease, "CELLS_AT_ONCE", cells)
    X = matrix(users())
    assert np.array_equal(gram(facts(users())).numpy(), X.T @ X)


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
