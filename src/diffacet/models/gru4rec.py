"""GRU4Rec: the last state of a GRU over the history, one vector per user.

B. Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, in the form that REMI's
code gives it: dropout on the input, states twice as wide as the embeddings, a linear layer back, and the sampled
softmax of the other models in place of the paper's session-parallel batches and ranking losses. ComiRec's code takes
states as wide as the embeddings, and no layer.
Shapes: B users, P targets, L history items, h state width, M negatives, N items, d dimensions.
"""

import math
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from diffacet.core import objectives, protocols
from diffacet.core.batch import Histories, PositionBatch, SequenceBatch
from diffacet.core.contract import STRICT, Card, Dropout, Facts, ItemDropout, Preset, Search
from diffacet.core.interests import thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import GRU4REC
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class GRU4RecConfig:
    """Settings of GRU4Rec."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and of the user vector")] = 64
    hidden: Annotated[
        int,
        Field(ge=0, title="h", description="width of the GRU's states; 0: d; REMI's code: 2d"),
        Search(32, 256, log=True),
    ] = 128
    layers: Annotated[int, Field(ge=1, description="GRU layers, one on the other"), Search(1, 2)] = 1
    bias: Annotated[bool, Field(description="biases inside the GRU")] = False
    projection: Annotated[bool, Field(description="a layer from states to d; without it h is d")] = True
    table: Annotated[
        Literal["xavier", "kaiming", "normal"],
        Field(description="initial item vectors: deviation sqrt(2 / (N + 1 + d)), sqrt(2 / d), or 1 / sqrt(d)"),
        Search(choices=("xavier", "kaiming")),
    ] = "xavier"
    dropout: Dropout = 0.2
    item_dropout: ItemDropout = 0.0

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if not self.projection and self.hidden not in (0, self.dim):
            raise BadSetting(f"without projection hidden is dim={self.dim}, or 0; got hidden={self.hidden}")


class GRU4Rec(nn.Module):
    """u = W_o h_n + b_o, with h_n the GRU's state after the last item; u = h_n without a projection."""

    def __init__(self, config: GRU4RecConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim, deviation=c.dim**-0.5 if c.table == "normal" else None)
        self.gru = nn.GRU(c.dim, c.hidden or c.dim, c.layers, bias=c.bias, batch_first=True)
        self.out = nn.Linear(c.hidden or c.dim, c.dim) if c.projection else nn.Identity()
        for matrix in ("weight_ih_l0", "weight_hh_l0"):
            nn.init.xavier_uniform_(self.gru.get_parameter(matrix))
        for name, parameter in self.gru.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
        if c.table == "xavier":
            with torch.no_grad():
                self.items.weight.mul_(math.sqrt(c.dim / (facts.n_items + 1 + c.dim)))

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B, L, d) and its mask, which may have holes -> (B, d); b_o without any real position."""
        if self.training:
            state = self.gru(_packed(embedded, mask))[1][-1]  # (B, h)
        else:  # packed, an answer would depend on how long the others' histories are, to the bit
            at = (mask.sum(-1) - 1).clamp(min=0)
            state = self.gru(_compact(embedded, mask))[0][torch.arange(len(at), device=at.device), at]
        return self.out(state * mask.any(-1, keepdim=True))

    def encode_at(self, embedded: Tensor, mask: Tensor, row: Tensor, position: Tensor) -> Tensor:
        """As `encode` of what row[p] has up to position[p], (P,) each -> (P, d), all by one pass over the rows."""
        states, _ = pad_packed_sequence(self.gru(_packed(embedded, mask))[0], batch_first=True)  # (B, longest, h)
        seen = mask.cumsum(1)[row, position]
        return self.out(states[row, (seen - 1).clamp(min=0)] * (seen > 0).unsqueeze(-1))

    def loss(self, batch: SequenceBatch | PositionBatch) -> dict[str, Tensor]:
        """Sampled softmax of the next item: of a history, or at every position of a window."""
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, self.config.dropout, self.training)
        mask = thin(batch.history.mask, self.config.item_dropout, self.training)
        if isinstance(batch, PositionBatch):
            user = self.encode_at(embedded, mask, batch.row, batch.position)
        else:
            user = self.encode(embedded, mask)
        return {"softmax": objectives.sampled_softmax(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """The user vector as one interest, (B, 1, d)."""
        return self.encode(self.items(history.items), history.mask).unsqueeze(1)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding."""
        return self.items.weight


def _compact(embedded: Tensor, mask: Tensor) -> Tensor:
    """(B, L, d) with the real positions of each row first, in their order."""
    order = (~mask).long().argsort(dim=1, stable=True)
    return embedded.gather(1, order.unsqueeze(-1).expand_as(embedded))


def _packed(embedded: Tensor, mask: Tensor) -> PackedSequence:
    """(B, L, d) and its mask -> the real positions of each row in their order, the first one where none is real.

    A training history fills less than a third of its window, and padding would be stepped through.
    """
    return pack_padded_sequence(
        _compact(embedded, mask), mask.sum(-1).clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
    )


_CODE = replace(protocols.BEAUTY, lr=0.001, patience=50)
_COMIREC = GRU4RecConfig(hidden=0, bias=True, projection=False, table="normal", dropout=0.0)
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
            "dimerec-table": Preset(_COMIREC, protocols.NEXT_ITEM, "ComiRec's code in DimeRec Sec. 4.1"),
            "dimerec-table-long": Preset(_COMIREC, protocols.NEXT_ITEM_LONG, "the same; histories of 70"),
            "next-item": Preset(
                GRU4RecConfig(bias=True, table="normal"),
                protocols.NEXT_ITEM_EVERY,
                "ours: every position of a window, full softmax",
            ),
            "next-item-long": Preset(
                GRU4RecConfig(bias=True, table="normal"), protocols.NEXT_ITEM_LONG_EVERY, "the same for long histories"
            ),
            "best": Preset(GRU4RecConfig(item_dropout=0.2), protocols.BEST, "as REMI's"),
        },
        also=(PositionBatch,),
        workers=True,
    ),
]
