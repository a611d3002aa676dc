"""GRU4Rec: the last state of a GRU over the history, one vector per user.

B. Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, in the form that REMI's
code gives it: dropout on the input, states twice as wide as the embeddings, a linear layer back, and the sampled
softmax of the other models in place of the paper's session-parallel batches and ranking losses.
Shapes: B users, L history items, h state width, M negatives, N items, d dimensions.
"""

import math
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from diffacet.core import objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import STRICT, Card, Dropout, Facts, ItemDropout, Preset, Search
from diffacet.core.interests import thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import GRU4REC


@dataclass(frozen=True, config=STRICT)
class GRU4RecConfig:
    """Settings of GRU4Rec."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and of the user vector")] = 64
    hidden: Annotated[
        int, Field(ge=1, title="h", description="width of the GRU's states; REMI's code: 2d"), Search(32, 256, log=True)
    ] = 128
    layers: Annotated[int, Field(ge=1, description="GRU layers, one on the other"), Search(1, 2)] = 1
    bias: Annotated[bool, Field(description="biases inside the GRU")] = False
    table: Annotated[
        Literal["xavier", "kaiming"],
        Field(description="initial item vectors: deviation sqrt(2 / (N + 1 + d)), or sqrt(2 / d) as in other models"),
        Search(choices=("xavier", "kaiming")),
    ] = "xavier"
    dropout: Dropout = 0.2
    item_dropout: ItemDropout = 0.0


class GRU4Rec(nn.Module):
    """u = W_o h_n + b_o, with h_n the GRU's state after the last item."""

    def __init__(self, config: GRU4RecConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim)
        self.gru = nn.GRU(c.dim, c.hidden, c.layers, bias=c.bias, batch_first=True)
        self.out = nn.Linear(c.hidden, c.dim)
        for matrix in ("weight_ih_l0", "weight_hh_l0"):
            nn.init.xavier_uniform_(self.gru.get_parameter(matrix))
        if c.table == "xavier":
            with torch.no_grad():
                self.items.weight.mul_(math.sqrt(c.dim / (facts.n_items + 1 + c.dim)))

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B, L, d) and its mask, which may have holes -> (B, d); b_o without any real position."""
        count = mask.sum(-1)
        order = (~mask).long().argsort(dim=1, stable=True)  # real positions first, in their order
        compact = embedded.gather(1, order.unsqueeze(-1).expand_as(embedded))
        # Packed: a training history fills less than a third of its window, and padding would be stepped through.
        packed = pack_padded_sequence(compact, count.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        _, states = self.gru(packed)  # (layers, B, h)
        return self.out(states[-1] * (count > 0).unsqueeze(-1))

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Sampled softmax of the next item."""
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, self.config.dropout, self.training)
        user = self.encode(embedded, thin(batch.history.mask, self.config.item_dropout, self.training))
        return {"softmax": objectives.sampled_softmax(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """The user vector as one interest, (B, 1, d)."""
        return self.encode(self.items(history.items), history.mask).unsqueeze(1)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding."""
        return self.items.weight


_CODE = replace(protocols.BEAUTY, lr=0.001, patience=50)

CARDS = [
    Card(
        "gru4rec",
        GRU4Rec,
        GRU4RecConfig,
        task="matching",
        summary="last state of a GRU over the history, one vector per user",
        paper=GRU4REC,
        presets={
            "paper": Preset(GRU4RecConfig(), protocols.BEAUTY, "REMI's code; Amazon Beauty"),
            "paper-gowalla": Preset(GRU4RecConfig(), protocols.GOWALLA, "REMI's code; Gowalla"),
            "paper-book": Preset(GRU4RecConfig(), protocols.BOOK, "REMI's code; Amazon Book"),
            "remi-code": Preset(GRU4RecConfig(), _CODE, "REMI's code and its learning rate"),
            "best": Preset(GRU4RecConfig(item_dropout=0.2), protocols.BEST, "as REMI's"),
        },
    ),
]
