"""ComiRec-DR: K interests by dynamic routing with a map of its own for each position and interest.

Y. Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020; Eq. are that paper's.
Shapes: B users, K interests, L history items, M negatives, N items, d dimensions.
"""

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import STRICT, Card, Dropout, Facts, ItemDropout, Preset, Search
from diffacet.core.explaining import Explanation
from diffacet.core.interests import DynamicRouting, Routing, select, thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import COMIREC


@dataclass(frozen=True, config=STRICT)
class ComiRecDRConfig:
    """Settings of ComiRec-DR."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and interests")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="interests per user")] = 4
    routing: Annotated[
        Routing, Field(description="routing weights sum to 1 over these (ComiRec's code: capsules, REMI's: positions)")
    ] = "capsules"
    iterations: Annotated[int, Field(ge=1, description="routing passes"), Search(1, 4)] = 3
    dropout: Dropout = 0.0
    item_dropout: ItemDropout = 0.0


class ComiRecDR(nn.Module):
    """Capsules of the history; the one nearest to the target is trained on it."""

    def __init__(self, config: ComiRecDRConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim)
        self.extract = DynamicRouting(  # Eq. 1-5
            c.dim, c.interests, facts.length, routing=c.routing, iterations=c.iterations, own_maps=True
        )

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Sampled softmax of the selected interest (Eq. 8-10)."""
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, self.config.dropout, self.training)
        interests, _ = self.extract(embedded, thin(batch.history.mask, self.config.item_dropout, self.training))
        user, _ = select(interests, target)
        return {"softmax": objectives.sampled_softmax(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """(B, K, d), each shorter than 1."""
        return self.explain(history).refined

    def explain(self, history: Histories) -> Explanation:
        """The interests and their attention over the history."""
        embedded = self.items(history.items)
        interests, attention = self.extract(embedded, history.mask)
        return Explanation(interests, interests, embedded, attention)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding; an item scores by its best interest (Eq. 11)."""
        return self.items.weight


_CODE = replace(protocols.BEAUTY, lr=0.001, patience=50)

CARDS = [
    Card(
        "comirec-dr",
        ComiRecDR,
        ComiRecDRConfig,
        task="matching",
        summary="multi-interest extraction by dynamic routing, a map for each position",
        paper=COMIREC,
        presets={
            "paper": Preset(
                ComiRecDRConfig(),
                replace(protocols.BEAUTY, lr=0.005),
                "ComiRec's code and its learning rate; Amazon Beauty",
            ),
            "paper-gowalla": Preset(
                ComiRecDRConfig(), replace(protocols.GOWALLA, lr=0.005), "ComiRec's code and its learning rate; Gowalla"
            ),
            "paper-book": Preset(
                ComiRecDRConfig(),
                replace(protocols.BOOK, lr=0.005),
                "ComiRec's code and its learning rate; Amazon Book",
            ),
            "remi-code": Preset(ComiRecDRConfig(routing="positions"), _CODE, "REMI's code and its learning rate"),
            "dimerec-table": Preset(ComiRecDRConfig(), protocols.NEXT_ITEM, "ComiRec's code in DimeRec Sec. 4.1"),
            "dimerec-table-long": Preset(ComiRecDRConfig(), protocols.NEXT_ITEM_LONG, "the same; histories of 70"),
            "best": Preset(
                ComiRecDRConfig(item_dropout=0.2),
                replace(protocols.BEST, lr=0.005),
                "as REMI's, with ComiRec's learning rate",
            ),
        },
        workers=True,
    ),
]
