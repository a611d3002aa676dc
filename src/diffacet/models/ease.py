"""EASE: a linear item-to-item model with a zero diagonal and a ridge penalty, in closed form.

H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019; Eq. are that paper's. Fitted on whole
training sequences and scored from the history that a model sees, where recent items may count more.
Shapes: U training users, B users, L history items, N items.
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.batch import Histories
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, OldestWeight, Preset, Search, Training
from diffacet.core.cooccurrence import CELLS_AT_ONCE, gram, weighed
from diffacet.core.papers import EASE as PAPER
from diffacet.core.protocols import ROWS
from diffacet.errors import BadSetting


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
    oldest_weight: Annotated[OldestWeight, INFERENCE] = 1.0
    weighted_fit: Annotated[
        bool, Field(description="fit B on rows with the weights of oldest_weight as well, not on rows of 0 and 1")
    ] = False


class EASE(nn.Module):
    """score(j) = sum over history items i of recency^age(i) * w_i * B_ij; the latest item has age 0.

    w_i is 1, or with an `oldest_weight` below 1 the item's time weight; then an item counts once in a history.
    """

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
            weights = item_weights(gram(facts, config.oldest_weight if config.weighted_fit else 1.0), config.l2)
            if config.keep is not None and config.keep < facts.n_items:
                weights, neighbours = largest(weights, config.keep)
        self.register_buffer("weights", weights)  # (N + 1, N + 1), or (N + 1, keep)
        self.register_buffer("neighbours", neighbours)  # () int32, or (N + 1, keep): which items the weights are of

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1), 0 where no history item has a weight for the item."""
        c, users = self.config, len(history.items)
        row, item, share = weighed(history, c.recency, c.oldest_weight, self.weights.dtype)
        if not self.neighbours.numel():
            starts = torch.searchsorted(row, torch.arange(users, device=row.device))
            return functional.embedding_bag(item, self.weights, starts, mode="sum", per_sample_weights=share)
        scores = self.weights.new_zeros(users * (self.n_items + 1))
        cell = row.unsqueeze(1) * (self.n_items + 1) + self.neighbours[item]  # (n, keep)
        scores.index_add_(0, cell.flatten(), (share.unsqueeze(1) * self.weights[item]).flatten())
        return scores.view(users, self.n_items + 1)


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
            "collaborative": Preset(EASEConfig(), ROWS, "the usual penalty, whole rows; search l2 for a log"),
            "collaborative-time": Preset(
                EASEConfig(oldest_weight=0.1), ROWS, "the same, scored on rows with T-DiffRec's time weights"
            ),
        },
    ),
]
