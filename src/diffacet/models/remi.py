"""REMI: ComiRec-SA with hard negatives aware of the interest, and a penalty on attention that collapses.

Y. Xie et al., "Rethinking Multi-Interest Learning for Candidate Matching in Recommender Systems", RecSys 2023.
With hardness 0 and routing 0 it is ComiRec-SA bit for bit.
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
from diffacet.core.interests import SelfAttentive, select, thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import REMI as PAPER


@dataclass(frozen=True, config=STRICT)
class REMIConfig:
    """Settings of REMI."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and interests")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="interests per user")] = 4
    hardness: Annotated[
        float,
        Field(ge=0, title="β", description="hardness of the negatives; 0: plain"),
        Search(0.01, 3.0, log=True),
    ] = 0.1
    routing: Annotated[
        float,
        Field(ge=0, title="λ_RR", description="weight of the routing loss"),
        Search(1.0, 1000.0, log=True),
    ] = 100.0
    dropout: Dropout = 0.0
    item_dropout: ItemDropout = 0.0


class REMI(nn.Module):
    """ComiRec-SA's extractor under REMI's two losses."""

    def __init__(self, config: REMIConfig, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTable(facts.n_items, config.dim)
        self.extract = SelfAttentive(config.dim, config.interests, facts.length)

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Softmax over hard negatives of the selected interest, and the routing regulariser."""
        c = self.config
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, c.dropout, self.training)
        interests, attention = self.extract(embedded, thin(batch.history.mask, c.item_dropout, self.training))
        user, _ = select(interests, target)
        return {
            "softmax": objectives.sampled_softmax(user, target, negatives, batch, c.hardness),
            "routing": c.routing * objectives.routing_regulariser(attention, c.dim),
        }

    def interests(self, history: Histories) -> Tensor:
        """(B, K, d)."""
        return self.explain(history).refined

    def explain(self, history: Histories) -> Explanation:
        """The interests and their attention over the history."""
        embedded = self.items(history.items)
        interests, attention = self.extract(embedded, history.mask)
        return Explanation(interests, interests, embedded, attention)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding; an item scores by its best interest."""
        return self.items.weight


CARDS = [
    Card(
        "remi",
        REMI,
        REMIConfig,
        task="matching",
        summary="multi-interest extraction with hard negatives and spread attention",
        paper=PAPER,
        presets={
            "paper": Preset(REMIConfig(), protocols.BEAUTY, "REMI's code; Amazon Beauty, hardness by search"),
            "paper-gowalla": Preset(REMIConfig(hardness=1.0), protocols.GOWALLA, "REMI's code; Gowalla"),
            "paper-book": Preset(REMIConfig(hardness=10.0), protocols.BOOK, "REMI's code; Amazon Book"),
            "best": Preset(REMIConfig(item_dropout=0.2), protocols.BEST, "chosen on validation of Amazon Beauty"),
        },
        workers=True,
    ),
]
