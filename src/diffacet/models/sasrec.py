"""SASRec: a causal Transformer over the history, whose last state is the user.

W.-C. Kang and J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018 (key `sasrec`). A pass over a
sequence gives the state at every position, so that every item but the first is a target of the same pass.
Shapes: B users, P targets, L history items, M negatives, N items, d dimensions.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import objectives, protocols
from diffacet.core.batch import Histories, PositionBatch, SequenceBatch
from diffacet.core.contract import STRICT, Card, Facts, Preset, Search
from diffacet.core.encoders import Activation, CausalTransformer, Norm
from diffacet.core.layers import ItemTable
from diffacet.core.papers import SASREC
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class SASRecConfig:
    """Settings of SASRec."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and of the user vector")] = 64
    layers: Annotated[int, Field(ge=0, description="blocks, one on the other"), Search(1, 3)] = 2
    heads: Annotated[int, Field(ge=1, description="parts of d in which attention is computed; divides d")] = 1
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="dropout on the input and on both parts of every block"), Search(0.1, 0.5)
    ] = 0.2
    norm: Annotated[
        Norm,
        Field(
            description="layer normalisation: original: of queries only; pre: of what a part reads; post: of its sum"
        ),
    ] = "original"
    inner: Annotated[int | None, Field(ge=1, description="width inside the feed-forward part; none: d")] = None
    activation: Annotated[Activation, Field(description="inside the feed-forward part")] = "relu"
    scale: Annotated[bool, Field(description="embeddings times sqrt(d) before positions are added")] = True
    deviation: Annotated[
        float | None,
        Field(
            gt=0, description="of all initial weights; none: 1 / sqrt(d) for items and positions, Xavier's in layers"
        ),
    ] = None
    objective: Annotated[
        Literal["softmax", "binary"],
        Field(description="softmax: the target among the negatives; binary: apart from each of them, as in the paper"),
    ] = "softmax"

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if self.dim % self.heads:
            raise BadSetting(f"heads divides dim={self.dim}; got heads={self.heads}")


class SASRec(nn.Module):
    """The state at the last item, matched with the vectors of the table that the history was read with."""

    def __init__(self, config: SASRecConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim, deviation=c.dim**-0.5)
        self.encoder = CausalTransformer(
            c.dim,
            facts.length,
            layers=c.layers,
            heads=c.heads,
            dropout=c.dropout,
            norm=c.norm,
            inner=c.inner,
            activation=c.activation,
            scale=c.scale,
        )
        if c.deviation is not None:
            self.items.draw(c.deviation)
            for weight in (weight for weight in self.encoder.parameters() if weight.ndim == 2):
                nn.init.normal_(weight, std=c.deviation)

    def loss(self, batch: PositionBatch | SequenceBatch) -> dict[str, Tensor]:
        """The next item from the state before it: at every position of a window, or at the end of a history."""
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        if isinstance(batch, PositionBatch):
            user = self.encoder(embedded, batch.history.mask)[batch.row, batch.position]
        else:
            user = self.encoder.last(embedded, batch.history.mask)
        objective = objectives.sampled_softmax if self.config.objective == "softmax" else objectives.binary
        return {self.config.objective: objective(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """The user vector as one interest, (B, 1, d); 0 for an empty history."""
        return self.encoder.last(self.items(history.items), history.mask).unsqueeze(1)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding."""
        return self.items.weight


_BINARY = replace(protocols.NEXT_ITEM_EVERY, negatives=1, own_negatives=True)

CARDS = [
    Card(
        "sasrec",
        SASRec,
        SASRecConfig,
        task="next-item",
        summary="a causal Transformer over the history, one vector per user",
        paper=SASREC,
        presets={
            "paper": Preset(
                SASRecConfig(dim=50, objective="binary"),
                replace(_BINARY, length=200, max_epochs=1000, validate_epochs=5, patience=3),
                "SASRec Sec. IV-D for MovieLens-1M; its code's stop after 20 epochs without gain",
            ),
            "dimerec-table": Preset(
                SASRecConfig(), replace(protocols.NEXT_ITEM, targets="one"), "DimeRec Sec. 4.1; histories of 10"
            ),
            "dimerec-table-long": Preset(
                SASRecConfig(), replace(protocols.NEXT_ITEM_LONG, targets="one"), "DimeRec Sec. 4.1; histories of 70"
            ),
            "recbole": Preset(
                SASRecConfig(
                    heads=2, dropout=0.5, norm="post", inner=256, activation="gelu", scale=False, deviation=0.02
                ),
                replace(protocols.NEXT_ITEM_EVERY, targets="one", batch_size=2048, max_epochs=300, validate_epochs=1),
                "RecBole 1.2's defaults: a pass for each prefix, full softmax",
            ),
            "best": Preset(
                SASRecConfig(heads=2, norm="pre"),
                protocols.NEXT_ITEM_EVERY,
                "ours: every position of a window, full softmax",
            ),
            "best-long": Preset(
                SASRecConfig(dim=128, heads=2, norm="pre", dropout=0.1),
                protocols.NEXT_ITEM_LONG_EVERY,
                "the same for long histories, the best of 3 settings on validation of MovieLens-1M",
            ),
        },
        batch=PositionBatch,
        also=(SequenceBatch,),
        search=protocols.NEXT_ITEM_SEARCH,
        workers=True,
    ),
]
