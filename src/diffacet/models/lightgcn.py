"""LightGCN: vectors of users and items, averaged over the layers of their graph.

X. He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", SIGIR 2020; Eq. are
that paper's. Trained by pairs (BPR).
Shapes: U users, N items, n = U + N nodes, E interactions, B users and P pairs of a batch, d dimensions, L layers.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import graph, objectives, profiles, protocols
from diffacet.core.batch import Histories, PairBatch
from diffacet.core.contract import STRICT, Card, Facts, Preset, Search
from diffacet.core.papers import LIGHTGCN


@dataclass(frozen=True, config=STRICT)
class LightGCNConfig:
    """Settings of LightGCN."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of the vectors"), Search(choices=(32, 64, 128))] = 64
    layers: Annotated[
        int, Field(ge=0, title="L", description="steps along the graph; 0: none"), Search(choices=(1, 2, 3))
    ] = 3
    edge_dropout: Annotated[
        float,
        Field(ge=0, lt=1, title="p", description="share of the graph's entries left out in a training step"),
        Search(choices=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
    ] = 0.0
    l2: Annotated[
        float,
        Field(ge=0, title="λ", description="weight of half the squared lengths of a pair's own vectors (Eq. 15)"),
        Search(choices=(1e-6, 1e-5, 1e-4)),
    ] = 1e-4


class LightGCN(nn.Module):
    """score(u, i) = E_u . E_i, with E = (1 / (L + 1)) sum over k = 0..L of A^k E^0 (Eq. 8).

    A is the normalised adjacency of the training graph: 1 / sqrt(D_u D_i) in both directions of an interaction,
    D counting distinct neighbours; no node is its own neighbour.
    """

    starts: Tensor
    neighbours: Tensor
    weight: Tensor
    mirror: Tensor

    def __init__(self, config: LightGCNConfig, facts: Facts) -> None:
        """Reads the graph; without training sequences its buffers stay empty, for a run to fill them."""
        super().__init__()
        c = self.config = config
        self.users = nn.Parameter(0.1 * torch.randn(facts.n_users, c.dim))  # E^0
        self.items = nn.Parameter(0.1 * torch.randn(facts.n_items, c.dim))  # row i is item i + 1
        starts, neighbours, weight, mirror = graph.adjacency(facts)
        self.register_buffer("starts", starts)  # (n + 1,): row v of A has the entries starts[v]:starts[v + 1]
        self.register_buffer("neighbours", neighbours)  # (2E,) their columns: users, then items
        self.register_buffer("weight", weight)  # (2E,) their values
        # Where an entry's other direction stands; only training asks, and only where entries are left out.
        self.register_buffer("mirror", mirror if c.edge_dropout else mirror[:0], persistent=False)
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """BPR on the propagated vectors, and the penalty on those of layer 0 (Eq. 15, as a mean over pairs)."""
        first = len(self.users) - 1  # item 1 is the node after the last user
        nodes = torch.cat([batch.user, first + batch.item, first + batch.negative])
        table = torch.cat([self.users, self.items])
        user, item, negative = functional.embedding(nodes, self.propagated(table)).chunk(3)
        return {
            "bpr": objectives.bpr((user * item).sum(-1), (user * negative).sum(-1)),
            "l2": self.config.l2 * objectives.half_squares(*functional.embedding(nodes, table).chunk(3)),
        }

    def propagated(self, table: Tensor) -> Tensor:
        """E^0 (n, d) -> E (n, d), users before items (Eq. 4, 8).

        In training each of the 2E entries of A is kept with 1 - p and divided by it, the same ones in all layers;
        so the two directions of an interaction go their own ways.
        """
        c, weight, turned = self.config, self.weight, self.weight
        if self.training and c.edge_dropout:
            weight = functional.dropout(weight, c.edge_dropout)
            turned = weight[self.mirror]
        summed = graph.propagate(table, self.starts, self.neighbours, weight, turned, c.layers)
        return summed / (c.layers + 1)

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, d) E_u, without gradient.

        A user without training rows reads the graph and does not change it: E^0_u = 0, and each layer takes the
        history's items of the layer before, E^(k+1)_u = sum_i E^k_i / sqrt(D_u D_i), with D_i as in training.
        """
        users, _, shares = self._answers()
        rows = profiles.read(history, dtype=shares.dtype)
        read = rows.summed(shares) / rows.total(rows.value).clamp(min=1).sqrt().unsqueeze(1)
        # One row more, which -1 names as well: the user whom training does not hold.
        trained = functional.pad(self.starts.diff()[: len(users) - 1] > 0, (0, 1))
        return torch.where(trained[history.users].unsqueeze(1), users[history.users], read).unsqueeze(1)

    def catalogue(self) -> Tensor:
        """(N + 1, d) E_i, without gradient; row 0 is padding."""
        return self._answers()[1]

    def item_embeddings(self) -> Tensor:
        """(N, d) float32: E_i of item i + 1, as clusters of items are made of them."""
        return self.catalogue()[1:].float()

    def train(self, mode: bool = True) -> "LightGCN":
        """As in torch; what evaluation has kept is forgotten, also by `eval()`."""
        self._kept = None
        return super().train(mode)

    @torch.no_grad()
    def _answers(self) -> tuple[Tensor, Tensor, Tensor]:
        """(U + 1, d) E_u and a row of 0; (N + 1, d) E_i; (N + 1, d) what an item gives to a user that is new.

        Kept in evaluation, where weights stand still: one propagation serves all users.
        """
        if self._kept is not None:
            return self._kept
        layers, matrix = self.config.layers, (self.starts, self.neighbours, self.weight)
        table = torch.cat([self.users, self.items])
        before = graph.layer_sum(table, *matrix, layers - 1) if layers else torch.zeros_like(table)
        final = (table + graph.product(before, *matrix)) / (layers + 1)
        users = len(self.users)
        degree = self.starts.diff()[users:].unsqueeze(1)
        # An item that nobody met is nobody's neighbour: its entries of A are 0.
        share = (before[users:] / (layers + 1) / degree.clamp(min=1).sqrt()).where(degree > 0, 0.0)
        found = functional.pad(final[:users], (0, 0, 0, 1)), _padded(final[users:]), _padded(share)
        self._kept = None if self.training else found
        return found


def _padded(vectors: Tensor) -> Tensor:
    """(N, d) -> (N + 1, d), row 0 being padding."""
    return functional.pad(vectors, (0, 0, 1, 0))


_PAPER = Preset(
    LightGCNConfig(),
    protocols.PAIRS,
    "d = 64, L = 3, λ = 1e-4 and no dropout, as in LightGCN's code; batches and stopping of DiffRec's protocol",
)

CARDS = [
    Card(
        "lightgcn",
        LightGCN,
        LightGCNConfig,
        task="collaborative",
        summary="vectors of users and items, averaged over the layers of their graph; BPR",
        paper=LIGHTGCN,
        presets={
            "paper": _PAPER,
            "best": replace(
                _PAPER,
                training=replace(_PAPER.training, lr=0.005),
                source="2 settings on validation of ML-1M",
            ),
        },
        batch=PairBatch,
        search=protocols.PAIRS_SEARCH,
    ),
]
