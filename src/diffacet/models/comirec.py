"""ComiRec-SA: K interests by self-attention over the history.

Y. Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020; Eq. are that paper's.
Shapes: B users, K interests, L history items, M negatives, N items, d dimensions.
"""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import STRICT, Card, Dropout, Facts, ItemDropout, Preset
from diffacet.core.explaining import Explanation
from diffacet.core.interests import SelfAttentive, select, thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import COMIREC


@dataclass(frozen=True, config=STRICT)
class ComiRecSAConfig:
    """Settings of ComiRec-SA."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and interests")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="interests per user")] = 4
    dropout: Dropout = 0.0
    item_dropout: ItemDropout = 0.0


class ComiRecSA(nn.Module):
    """K attention rows; the one nearest to the target is trained on it."""

    def __init__(self, config: ComiRecSAConfig, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTable(facts.n_items, config.dim)
        self.extract = SelfAttentive(config.dim, config.interests, facts.length)  # Eq. 6-7

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Sampled softmax of the selected interest (Eq. 8-10)."""
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, self.config.dropout, self.training)
        interests, _ = self.extract(embedded, thin(batch.history.mask, self.config.item_dropout, self.training))
        user, _ = select(interests, target)
        return {"softmax": objectives.sampled_softmax(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """(B, K, d)."""
        return self.explain(history).refined

    def explain(self, history: Histories) -> Explanation:
        """The interests and their attention over the history."""
        embedded = self.items(history.items)
        interests, attention = self.extract(embedded, history.mask)
        return Explanation(interests, interests, embedded, attention)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding; an item scores by its best interest (Eq. 11)."""
        return self.items.weight


CARDS = [
    Card(
        "comirec-sa",
        ComiRecSA,
        ComiRecSAConfig,
        task="matching",
        summary="multi-interest extraction by self-attention",
        paper=COMIREC,
        presets={
            "paper": Preset(ComiRecSAConfig(), protocols.BEAUTY, "REMI's code; Amazon Beauty"),
            "paper-gowalla": Preset(ComiRecSAConfig(), protocols.GOWALLA, "REMI's code; Gowalla"),
            "paper-book": Preset(ComiRecSAConfig(), protocols.BOOK, "REMI's code; Amazon Book"),
            "dimerec-table": Preset(ComiRecSAConfig(), protocols.NEXT_ITEM, "DimeRec Sec. 4.1; histories of 10"),
            "dimerec-table-long": Preset(ComiRecSAConfig(), protocols.NEXT_ITEM_LONG, "the same; histories of 70"),
            "best": Preset(ComiRecSAConfig(item_dropout=0.2), protocols.BEST, "as REMI's"),
        },
        workers=True,
    ),
]
