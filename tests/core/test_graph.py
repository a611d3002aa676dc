"""The graph of users and items against dense matrices."""

import numpy as np
import torch

from diffacet.core.contract import Facts
from diffacet.core.graph import adjacency, layer_sum, product, propagate
from reference import normal

U, N = 5, 4
ROWS = {0: [1, 3, 1], 2: [2, 3, 4], 4: [3]}  # user 0 met item 1 twice; users 1 and 3 are not in training
FACTS = Facts(
    N,
    0,
    np.array([item for row in ROWS.values() for item in row]),
    np.cumsum([0, *map(len, ROWS.values())]),
    np.array(list(ROWS)),
    U,
)


def dense():
    met = np.zeros((U + N, U + N))
    for user, items in ROWS.items():
        for item in items:
            met[user, U + item - 1] = met[U + item - 1, user] = 1
    degree = met.sum(1)
    root = np.sqrt(np.outer(degree, degree))
    return torch.from_numpy(np.divide(met, root, out=np.zeros_like(met), where=met > 0))


def test_adjacency_is_the_dense_matrix_by_rows():
    starts, column, value, mirror = adjacency(FACTS)
    found = torch.zeros(U + N, U + N, dtype=torch.float64)
    owner = []
    for node in range(U + N):
        for e in range(starts[node], starts[node + 1]):
            found[node, column[e]] += value[e].double()
            owner.append(node)
    assert torch.allclose(found, dense(), atol=1e-7)
    assert starts.tolist()[-1] == len(column) == len(value) == 2 * 6
    for e in range(len(column)):
        assert (owner[mirror[e]], column[mirror[e]]) == (column[e], owner[e])
    assert starts.dtype == column.dtype == mirror.dtype == torch.int32
    assert value.dtype == torch.float32


def test_layers_are_powers_of_the_matrix_and_their_gradients_those_of_the_transpose():
    starts, column, value, mirror = adjacency(FACTS)
    kept = value.double() * torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1])  # no longer symmetric
    A = torch.zeros(U + N, U + N, dtype=torch.float64)
    for node in range(U + N):
        for e in range(starts[node], starts[node + 1]):
            A[node, column[e]] = kept[e]
    table = normal(U + N, 3).requires_grad_()
    assert torch.allclose(product(table.detach(), starts, column, kept), A @ table.detach())
    powers = sum(torch.linalg.matrix_power(A, k) for k in range(4))
    assert torch.allclose(layer_sum(table.detach(), starts, column, kept, 3), powers @ table.detach())
    weight = normal(U + N, 3, seed=1)
    found = propagate(table, starts, column, kept, kept[mirror.long()], 3)
    assert torch.allclose(found, powers @ table)
    (found * weight).sum().backward()
    assert torch.allclose(table.grad, powers.T @ weight)
