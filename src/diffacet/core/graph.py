"""The graph of users and the items that they met: its normalised adjacency, and vectors that travel along it.

A matrix A is held by rows, as (starts, neighbours, weight): row v has the columns neighbours[starts[v]:starts[v + 1]].
Shapes: U users, N items, n = U + N nodes, E interactions, d dimensions, L layers.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diffacet.arrays import distinct
from diffacet.core.contract import Facts


def adjacency(facts: Facts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A of the training graph by rows: starts (n + 1,), columns (2E,), values (2E,) float32, mirror (2E,).

    Node u is a user, node U + i - 1 item i; an item that a user met several times is one interaction. The value of
    u and i is 1 / sqrt(D_u D_i), D being a node's interactions (LightGCN, Eq. 3). Entry e is of nodes v and w where
    entry mirror[e] is of w and v.
    """
    users, n = facts.n_users, facts.n_users + facts.n_items
    owner = np.repeat(facts.train_users, np.diff(facts.train_offsets))
    user, item = np.divmod(distinct(owner * n + users - 1 + facts.train_items), n)  # by user
    by_item = np.argsort(item * n + user)
    row, column = np.concatenate([user, item[by_item]]), np.concatenate([item, user[by_item]])
    degree = np.bincount(row, minlength=n)
    number = np.int32 if len(row) < 2**31 else np.int64
    starts = np.concatenate([[0], degree.cumsum()]).astype(number)
    value = (degree[row] * degree[column]).astype(np.float64) ** -0.5
    there = np.empty_like(by_item)
    there[by_item] = np.arange(len(by_item))
    mirror = np.concatenate([len(user) + there, by_item])
    arrays = starts, column.astype(number), value.astype(np.float32), mirror.astype(number)
    return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]


def layer_sum(table: Tensor, starts: Tensor, neighbours: Tensor, weight: Tensor, layers: int) -> Tensor:
    """(n, d) E^0 -> (n, d) sum over k = 0..L of A^k E^0, as E^0 + A (E^0 + A (E^0 + ...)): one product a layer."""
    total = table
    for _ in range(layers):
        total = product(total, starts, neighbours, weight).add_(table)
    return total


def product(table: Tensor, starts: Tensor, neighbours: Tensor, weight: Tensor) -> Tensor:
    """(n, d) -> (n, d) A times `table`: for each node the weighted sum of its neighbours' vectors."""
    # On a CPU several times faster than a product with torch's sparse matrices.
    return functional.embedding_bag(
        neighbours, table, starts, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


def propagate(table: Tensor, starts: Tensor, neighbours: Tensor, weight: Tensor, turned: Tensor, layers: int) -> Tensor:
    """`layer_sum`, with a gradient for `table`: the same sum with A transposed, so no layer is kept for it.

    turned: (2E,) the values of A transposed, in the places of A's own: A is not symmetric where entries are dropped.
    """
    return _LayerSum.apply(table, starts, neighbours, weight, turned, layers)  # type: ignore[no-untyped-call]


class _LayerSum(torch.autograd.Function):
    """See `propagate`."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        table: Tensor,
        starts: Tensor,
        neighbours: Tensor,
        weight: Tensor,
        turned: Tensor,
        layers: int,
    ) -> Tensor:
        ctx.save_for_backward(starts, neighbours, turned)
        ctx.layers = layers  # type: ignore[attr-defined]
        return layer_sum(table, starts, neighbours, weight, layers)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        starts, neighbours, turned = ctx.saved_tensors  # type: ignore[attr-defined]
        back = layer_sum(gradients[0].contiguous(), starts, neighbours, turned, ctx.layers)  # type: ignore[attr-defined]
        return back, None, None, None, None, None
