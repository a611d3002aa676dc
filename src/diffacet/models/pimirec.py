"""PIMIRec: multi-interest extraction from items that know their time intervals and their neighbours.

G. Chen et al., "Exploring Periodicity and Interactivity in Multi-Interest Framework for Sequential Recommendation",
IJCAI 2021, in the form of its authors' code, trained by the protocol that all matching models share here.
Shapes: B users, K interests, L history items, M negatives, N items, d dimensions.
"""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import STRICT, Card, Dropout, Facts, ItemDropout, Preset, Search
from diffacet.core.explaining import Explanation
from diffacet.core.interests import StarGraph, select, thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import PIMIREC as PAPER
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class PIMIRecConfig:
    """Settings of PIMIRec; the defaults are those of its code."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and interests")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="interests per user")] = 4
    span: Annotated[
        int,
        Field(ge=0, description="longest interval that is told from longer ones, in units; 0: no intervals"),
        Search(choices=(0, 16, 64, 256)),
    ] = 64
    interval_unit: Annotated[
        int, Field(ge=1, description="seconds of an interval of 1; 1 for a log whose times are ranks")
    ] = 86_400
    blocks: Annotated[int, Field(ge=1, description="rounds of the star graph"), Search(choices=(1, 2, 3))] = 3
    heads: Annotated[int, Field(ge=1, description="attention heads of the star graph; they divide d")] = 4
    mask_centre: Annotated[
        bool, Field(description="hide padding from the centre of the graph; false: as published, zero vectors")
    ] = True
    graph_dropout: Annotated[
        float, Field(ge=0, lt=1, description="dropout on the attention of the star graph"), Search(0.0, 0.5)
    ] = 0.1
    dropout: Dropout = 0.0
    item_dropout: ItemDropout = 0.0

    def __post_init__(self) -> None:
        """A check that involves two settings; raises BadSetting."""
        if self.dim % self.heads:
            raise BadSetting(f"heads divides dim; got heads={self.heads} and dim={self.dim}")


class PIMIRec(nn.Module):
    """K attention rows over a star graph of the history; the one nearest to the target is trained on it."""

    def __init__(self, config: PIMIRecConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim)
        self.extract = StarGraph(
            c.dim,
            c.interests,
            facts.length,
            span=c.span,
            unit=c.interval_unit,
            blocks=c.blocks,
            heads=c.heads,
            dropout=c.graph_dropout,
            mask_centre=c.mask_centre,
        )

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Sampled softmax of the selected interest."""
        c, history = self.config, batch.history
        embedded, target, negatives = self.items.rows(history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, c.dropout, self.training)
        interests, _ = self.extract(embedded, thin(history.mask, c.item_dropout, self.training), history.times)
        user, _ = select(interests, target)
        return {"softmax": objectives.sampled_softmax(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """(B, K, d); a history without times counts all its intervals as 0."""
        return self.explain(history).refined

    def explain(self, history: Histories) -> Explanation:
        """The interests and their attention over the history."""
        embedded = self.items(history.items)
        interests, attention = self.extract(embedded, history.mask, history.times)
        return Explanation(interests, interests, embedded, attention)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding; an item scores by its best interest."""
        return self.items.weight


CARDS = [
    Card(
        "pimirec",
        PIMIRec,
        PIMIRecConfig,
        task="matching",
        summary="multi-interest extraction over a star graph of the history with its time intervals",
        paper=PAPER,
        presets={
            "paper": Preset(PIMIRecConfig(), protocols.BEAUTY, "PIMIRec's code, padding masked; Amazon Beauty"),
            "paper-gowalla": Preset(PIMIRecConfig(), protocols.GOWALLA, "PIMIRec's code, padding masked; Gowalla"),
            "paper-book": Preset(PIMIRecConfig(), protocols.BOOK, "PIMIRec's code, padding masked; Amazon Book"),
            "best": Preset(PIMIRecConfig(item_dropout=0.2), protocols.BEST, "as REMI's"),
        },
        workers=True,
    ),
]
