import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from diffacet.core import graph
from diffacet.core.batch import Histories, PairBatch
from diffacet.core.contract import Facts, Training
from diffacet.data.sequences import Sequences
from diffacet.learn.batches import batch_at, facts
from diffacet.models.lightgcn import LightGCN, LightGCNConfig
from diffacet.models.mf import MF, MFConfig
from reference import normal

U, N, D = 7, 11, 4
ROWS = [[3, 1, 2, 1], [4], [5, 6, 7, 8], [], [2, 9], [10, 1], [3, 4, 5]]  # nobody meets item 11, user 3 meets none


def sequences(rows):
    users = np.array([user for user, row in enumerate(rows) if row], dtype=np.int64)
    kept = [row for row in rows if row]
    return Sequences(np.concatenate(kept).astype(np.int64), np.cumsum([0, *map(len, kept)], dtype=np.int64), users)


def known(rows=ROWS, n_items=N):
    train = sequences(rows)
    return Facts(n_items, 0, train.items, train.offsets, train.users, len(rows))


def model(seed=0, **settings):
    torch.manual_seed(seed)
    return LightGCN(LightGCNConfig(**{"dim": D, **settings}), known()).double()


def dense(rows=ROWS, n_items=N):
    """A (U + N, U + N) of Eq. 3 by loops; the graph is a set of pairs."""
    met = {(user, item) for user, row in enumerate(rows) for item in row}
    A, n = np.zeros((len(rows) + n_items,) * 2), len(rows)
    for user, item in met:
        others, fans = len({i for u, i in met if u == user}), len({u for u, i in met if i == item})
        A[user, n + item - 1] = A[n + item - 1, user] = 1 / math.sqrt(others * fans)
    return A


def stored(one, weight=None):
    """The model's A, dense, with other values if they are given."""
    n = len(one.starts) - 1
    A = torch.zeros(n, n, dtype=torch.float64)
    row = torch.repeat_interleave(torch.arange(n), one.starts.diff())
    A[row, one.neighbours.long()] = one.weight if weight is None else weight
    return A


def layers_of(one, A):
    """[E^0, ..., E^L], float64 arrays."""
    found = [torch.cat([one.users, one.items]).detach().numpy()]
    for _ in range(one.config.layers):
        found.append(A @ found[-1])
    return found


def histories(rows, users):
    items = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for b, row in enumerate(rows):
        items[b, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return Histories(items, torch.tensor(users), torch.zeros(len(rows), dtype=torch.int64))


def pairs():
    return PairBatch(torch.tensor([0, 2, 2, 6]), torch.tensor([1, 5, 8, 3]), torch.tensor([9, 5, 11, 1]))


def scores(one, history):
    return one.interests(history)[:, 0] @ one.catalogue().T


# --- the graph -------------------------------------------------------------------------------------------------


def test_the_graph_is_the_normalised_adjacency():
    one = model()
    A = stored(one)
    assert np.allclose(A.numpy(), dense(), atol=1e-7)  # values are float32
    assert torch.equal(A, A.T)
    assert torch.linalg.eigvalsh(A).max().item() == pytest.approx(1, abs=1e-6)
    assert not A[3].any()
    assert not A[U + N - 1].any()
    assert len(one.weight) == 2 * sum(len(set(row)) for row in ROWS)


def test_the_mirror_of_an_entry_is_its_other_direction():
    starts, neighbours, weight, mirror = graph.adjacency(known())
    row = torch.repeat_interleave(torch.arange(U + N), starts.diff())
    mirror = mirror.long()
    assert torch.equal(row[mirror], neighbours.long())
    assert torch.equal(neighbours[mirror].long(), row)
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))
    assert torch.equal(weight[mirror], weight)


# --- propagation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_propagation_is_the_mean_of_the_layers(layers):
    one = model(layers=layers)
    expected = sum(layers_of(one, stored(one).numpy())) / (layers + 1)
    table = torch.cat([one.users, one.items])
    assert np.allclose(one.train().propagated(table).detach().numpy(), expected, atol=1e-12)
    one.eval()
    answers = one.interests(histories([[1]] * U, list(range(U))))[:, 0].numpy()
    trained = [user for user, row in enumerate(ROWS) if row]
    assert np.allclose(answers[trained], expected[trained], atol=1e-12)
    assert np.allclose(one.catalogue()[1:].numpy(), expected[U:], atol=1e-12)
    assert not one.catalogue()[0].any()
    embeddings = one.item_embeddings()
    assert embeddings.dtype == torch.float32
    assert torch.equal(embeddings, one.catalogue()[1:].float())


def test_propagation_is_linear():
    one, x, y = model(), normal(U + N, D, seed=1), normal(U + N, D, seed=2)
    both = one.propagated(2 * x - 3 * y)
    assert torch.allclose(both, 2 * one.propagated(x) - 3 * one.propagated(y), atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_nobody_meets_keeps_its_share_of_layer_0(layers):
    one = model(layers=layers).eval()
    assert torch.allclose(one.catalogue()[N], one.items[N - 1] / (layers + 1), rtol=1e-12)


def test_one_user_and_one_item_meet_half_way():
    torch.manual_seed(0)
    one = LightGCN(LightGCNConfig(dim=D, layers=1), known([[1]], 1)).eval()
    half = (one.users[0] + one.items[0]) / 2
    assert torch.allclose(one.interests(histories([[1]], [0]))[0, 0], half, rtol=1e-6)
    assert torch.allclose(one.catalogue()[1], half, rtol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradient_is_that_of_dense_matrices(dropout):
    """Each direction of an interaction is dropped on its own, so the gradient needs the transposed matrix."""
    one, table = model(edge_dropout=dropout).train(), normal(U + N, D, seed=1).requires_grad_()
    factor = normal(U + N, D, seed=2)
    torch.manual_seed(3)
    found = one.propagated(table)
    (gradient,) = torch.autograd.grad((found * factor).sum(), table)
    torch.manual_seed(3)
    A = stored(one, functional.dropout(one.weight, dropout))
    assert torch.equal(A, A.T) == (dropout == 0)
    powers = [torch.eye(U + N, dtype=torch.float64)]
    for _ in range(3):
        powers.append(A @ powers[-1])
    expected = sum(powers) @ table / 4
    (slow,) = torch.autograd.grad((expected * factor).sum(), table)
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.allclose(gradient, slow, atol=1e-12)


def test_dropped_entries_come_back_in_evaluation():
    one = model(edge_dropout=0.5)
    table = torch.cat([one.users, one.items])
    expected = model().propagated(table)
    assert not torch.allclose(one.train().propagated(table), expected)
    assert torch.allclose(one.eval().propagated(table), expected)
    A = torch.stack([stored(one, functional.dropout(one.weight, 0.5)) for _ in range(400)]).mean(0)
    assert torch.allclose(A, stored(one), atol=0.25)  # five deviations of the mean of the largest entry


# --- the loss --------------------------------------------------------------------------------------------------


def test_loss_is_its_loop():
    one, batch = model(l2=0.3, layers=2).train(), pairs()
    layers = layers_of(one, stored(one).numpy())
    E, first = sum(layers) / 3, layers[0]
    ranked, squares = [], []
    for u, i, j in zip(batch.user.tolist(), batch.item.tolist(), batch.negative.tolist(), strict=True):
        i, j = U + i - 1, U + j - 1
        difference = sum(E[u][k] * (E[j][k] - E[i][k]) for k in range(D))
        ranked.append(math.log(1 + math.exp(difference)))
        squares.append(sum(x**2 for node in (u, i, j) for x in first[node]))
    terms = one.loss(batch)
    assert terms["bpr"].item() == pytest.approx(sum(ranked) / 4, rel=1e-12)
    assert terms["l2"].item() == pytest.approx(0.3 * sum(squares) / 8, rel=1e-12)


def test_without_layers_it_is_mf():
    one, other = model(layers=0, l2=0.3), MF(MFConfig(dim=D, dropout=0.0, l2=0.3), known()).double()
    with torch.no_grad():
        other.users.copy_(one.users)
        other.items.weight[1:] = one.items
    found, expected = one.train().loss(pairs()), other.train().loss(pairs())
    assert found.keys() == expected.keys()
    for name, term in found.items():
        assert torch.allclose(term, expected[name], rtol=1e-12)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    assert torch.allclose(one.users.grad, other.users.grad, atol=1e-12)
    assert torch.allclose(one.items.grad, other.items.weight.grad[1:], atol=1e-12)


def test_parameters_are_the_vectors_of_layer_0():
    one = LightGCN(LightGCNConfig(), Facts(2000, 0, n_users=1000))
    assert sum(parameter.numel() for parameter in one.parameters()) == 64 * (1000 + 2000)
    for vectors in (one.users, one.items):
        assert vectors.std().item() == pytest.approx(0.1, rel=0.02)
        assert abs(vectors.mean().item()) < 0.002


# --- users that training does not hold -------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("user", [-1, 3])
def test_a_new_user_reads_the_graph(layers, user):
    """E^0_u = 0 and E^(k+1)_u = sum_i E^k_i / sqrt(D_u D_i); items count once, those that nobody met not at all."""
    one = model(layers=layers).eval()
    E = layers_of(one, stored(one).numpy())
    fans = {item: sum(item in row for row in ROWS) for item in range(1, N + 1)}
    rows = [[2, 5, 2], [4, 11], [11], []]
    found = one.interests(histories(rows, [user] * 4))
    assert found.shape == (4, 1, D)
    assert found.isfinite().all()
    for b, row in enumerate(rows):
        expected = np.zeros(D)
        for k in range(layers):
            for item in set(row) - {11}:
                expected += E[k][U + item - 1] / math.sqrt(len(set(row)) * fans[item]) / (layers + 1)
        assert np.allclose(found[b, 0].numpy(), expected, atol=1e-7)


def test_with_one_layer_a_new_user_is_a_known_one_without_a_vector():
    one = model(layers=1)
    with torch.no_grad():
        one.users[2] = 0
    found = one.eval().interests(histories([ROWS[2], ROWS[2]], [-1, 2]))
    assert torch.allclose(found[0], found[1], atol=1e-7)


def test_without_training_sequences_every_user_is_new():
    bare = LightGCN(LightGCNConfig(dim=D), Facts(N, 0, n_users=U)).eval()
    assert len(bare.neighbours) == 0
    assert not bare.interests(histories([[1], [2]], [0, -1])).any()
    assert LightGCN(LightGCNConfig(dim=D), Facts(N, 0)).eval().interests(histories([[1]], [-1])).shape == (1, 1, D)


# --- evaluation, and a run -------------------------------------------------------------------------------------


def test_evaluation_costs_one_propagation(monkeypatch):
    one, products, product = model().eval(), [], graph.product

    def counted(*arguments):
        products.append(1)
        return product(*arguments)

    monkeypatch.setattr(graph, "product", counted)
    before = one.catalogue()
    for _ in range(5):
        one.interests(histories([[1, 2], []], [0, -1]))
    assert len(products) == one.config.layers
    one.train()
    with torch.no_grad():
        one.items.add_(1.0)
    assert not torch.allclose(one.eval().catalogue(), before)
    assert len(products) == 2 * one.config.layers


def test_blocks_are_learned_for_known_and_for_new_users():
    """Users of a block meet seven of its ten items; items 1..10 are one block, 11..20 the other."""
    rng = np.random.default_rng(5)
    rows = [(1 + 10 * (user % 2) + rng.choice(10, 7, replace=False)).tolist() for user in range(20)]
    train, training = sequences(rows), Training(length=0, batch_size=70, lr=0.02)
    torch.manual_seed(0)
    one = LightGCN(LightGCNConfig(dim=8, edge_dropout=0.1), facts(train, 20, training))
    draw, optimizer = batch_at(train, 20, training, PairBatch), torch.optim.Adam(one.parameters(), training.lr)
    for step in range(60):
        optimizer.zero_grad()
        sum(one.train().loss(draw(step)).values()).backward()
        optimizer.step()
    one.eval()
    for users in (list(range(20)), [-1] * 20):
        found = scores(one, histories(rows, users))
        for user, row in enumerate(rows):
            own = set(range(1 + 10 * (user % 2), 11 + 10 * (user % 2)))
            missing, other = sorted(own - set(row)), sorted(set(range(1, 21)) - own)
            assert found[user, missing].min() > found[user, other].max()
