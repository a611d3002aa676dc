"""EASE: a linear item-to-item model with a zero diagonal and a ridge penalty, in closed form.

H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019; Eq. are that paper's. Fitted on whole
training sequences and scored from the history that a model sees, where recent items may count more.
Shapes: U training users, B users, L history items, N items.
"""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.batch import Histories
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Preset, Search, Training
from diffacet.core.papers import EASE as PAPER
from diffacet.errors import BadSetting

CELLS_AT_ONCE = 2**25
"""Dense cells that are held beside the matrix while it is filled and thinned (4 bytes each, a few times)."""


@dataclass(frozen=True, config=STRICT)
class EASEConfig:
    """Settings of EASE."""

    l2: Annotated[float, Field(gt=0, title="λ", description="ridge penalty (Eq. 4)"), Search(10, 5_000, log=True)] = (
        500.0
    )
    recency: Annotated[
        float,
        Field(gt=0, le=1, description="weight of a history item for each step back in time"),
        INFERENCE,
        Search(0.5, 1.0),
    ] = 1.0
    keep: Annotated[
        int | None,
        Field(ge=1, description="weights of a history item that are kept, the largest; none: all N"),
        Search(choices=(None, 50, 100, 200)),
    ] = None
    max_items: Annotated[
        int, Field(ge=1, description="largest catalogue that is accepted; fitting takes 4 N^2 bytes and N^3 time")
    ] = 50_000


class EASE(nn.Module):
    """score(j) = sum over history items i of recency^age(i) * B_ij; the latest item has age 0."""

    weights: Tensor
    neighbours: Tensor

    def __init__(self, config: EASEConfig, facts: Facts) -> None:
        """Fits B; without training sequences the buffers stay empty, for a run to fill them.

        Raises:
            BadSetting: when the catalogue is larger than `max_items`.
        """
        super().__init__()
        self.config, self.n_items = config, facts.n_items
        weights, neighbours = torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.int32)
        if len(facts.train_items):
            if facts.n_items > config.max_items:
                raise BadSetting(
                    f"ease takes at most max_items={config.max_items} items; got {facts.n_items}, whose matrix takes "
                    f"{4 * (facts.n_items + 1) ** 2} bytes and a time that grows with the cube of the items; "
                    f"with that much memory pass --set max_items={facts.n_items}, else choose item-knn"
                )
            weights = item_weights(gram(facts), config.l2)
            if config.keep is not None and config.keep < facts.n_items:
                weights, neighbours = largest(weights, config.keep)
        self.register_buffer("weights", weights)  # (N + 1, N + 1), or (N + 1, keep)
        self.register_buffer("neighbours", neighbours)  # () int32, or (N + 1, keep): which items the weights are of

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1), 0 where no history item has a weight for the item."""
        items, mask = history.items, history.mask
        age = mask.sum(-1, keepdim=True) - 1 - torch.arange(items.shape[1], device=items.device)
        share = self.config.recency ** age.to(self.weights.dtype) * mask  # (B, L)
        if not self.neighbours.numel():
            return functional.embedding_bag(items, self.weights, mode="sum", per_sample_weights=share)
        scores = self.weights.new_zeros(len(items), self.n_items + 1)
        where = self.neighbours[items].long().flatten(1)  # (B, L * keep)
        return scores.scatter_add_(1, where, (share.unsqueeze(-1) * self.weights[items]).flatten(1))


def gram(facts: Facts) -> Tensor:
    """X^T X of the training users' 0/1 rows, (N + 1, N + 1) float32; row and column 0 are 0.

    Made block by block from sparse X: beside the result it takes CELLS_AT_ONCE cells, not its size.
    """
    n, users = facts.n_items + 1, len(facts.train_offsets) - 1
    owner = np.repeat(np.arange(users), np.diff(facts.train_offsets))
    pairs = np.unique(owner * n + facts.train_items)  # a repeated item counts once
    user, item = torch.from_numpy(pairs // n), torch.from_numpy(pairs % n)
    ones = torch.ones(len(pairs))
    transposed = torch.sparse_coo_tensor(torch.stack([item, user]), ones, (n, users), check_invariants=False).coalesce()
    product, width = torch.zeros(n, n), max(1, CELLS_AT_ONCE // max(n, users))
    order = item.argsort(stable=True)
    ends = torch.searchsorted(item[order], torch.arange(n + 1))
    for begin in range(0, n, width):
        end = min(begin + width, n)
        chosen = order[ends[begin] : ends[end]]
        block = torch.zeros(users, end - begin)
        block[user[chosen], item[chosen] - begin] = 1
        product[:, begin:end] = torch.sparse.mm(transposed, block)
    return product


def item_weights(product: Tensor, l2: float) -> Tensor:
    """B = I - P diag(1 / diag P) with P = (X^T X + l2 I)^-1, zero on the diagonal (Eq. 8).

    product (n, n) = X^T X -> (n, n), in the memory of `product`, which is lost. By Cholesky, in its precision.
    """
    product.diagonal().add_(l2)
    # A transposed view has columns one after another, as LAPACK wants it: it then works in place.
    columns = product.mT
    torch.linalg.cholesky_ex(columns, out=(columns, torch.empty(0, dtype=torch.int32)))
    torch.cholesky_inverse(columns, out=columns)  # symmetric, so `product` is P as well
    product.div_(-product.diagonal().clone())
    return product.fill_diagonal_(0)


def largest(weights: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` weights of largest magnitude of every row, (n, keep), and their columns, (n, keep) int32."""
    values, columns = weights.new_empty(len(weights), keep), torch.empty(len(weights), keep, dtype=torch.int32)
    width = max(1, CELLS_AT_ONCE // len(weights))
    for begin in range(0, len(weights), width):
        rows = weights[begin : begin + width]
        chosen = rows.abs().topk(keep).indices
        values[begin : begin + width] = rows.gather(1, chosen)
        columns[begin : begin + width] = chosen
    return values, columns


_UNTRAINED = Training(max_steps=0)

CARDS = [
    Card(
        "ease",
        EASE,
        EASEConfig,
        task="matching",
        summary="linear item-to-item regression in closed form, untrained",
        paper=PAPER,
        presets={
            "paper": Preset(EASEConfig(), _UNTRAINED, "the usual penalty, all history equal; search l2 for a log"),
            "best": Preset(
                EASEConfig(l2=100.0, recency=0.9, keep=100),
                _UNTRAINED,
                "chosen on validation of Amazon Beauty, one split",
            ),
        },
    ),
]
