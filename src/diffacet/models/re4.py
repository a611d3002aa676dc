"""Re4: multi-interest extraction with three losses that run back from the interests to the items.

S. Zhang et al., "Re4: Learning to Re-contrast, Re-attend, Re-construct for Multi-interest Recommendation", WWW 2022,
in the form of its authors' code, trained by the protocol that all matching models share here.
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
from diffacet.core.interests import ReAttentive, select, thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import RE4 as PAPER


@dataclass(frozen=True, config=STRICT)
class Re4Config:
    """Settings of Re4; the weights and the temperature are those of its code's Amazon Book example."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and interests")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="interests per user")] = 4
    attend: Annotated[
        float,
        Field(ge=0, title="λ_att", description="weight of re-attending: the attention is what interests find back"),
        Search(1e-4, 1.0, log=True),
    ] = 0.001
    contrast: Annotated[
        float,
        Field(ge=0, title="λ_con", description="weight of re-contrasting: an interest is nearest to its own items"),
        Search(1e-3, 1.0, log=True),
    ] = 0.1
    construct: Annotated[
        float,
        Field(ge=0, title="λ_rec", description="weight of re-constructing: an interest holds what its items are"),
        Search(1e-3, 1.0, log=True),
    ] = 0.1
    temperature: Annotated[
        float, Field(gt=0, title="τ", description="temperature of the contrast"), Search(0.01, 0.5, log=True)
    ] = 0.02
    dropout: Dropout = 0.0
    item_dropout: ItemDropout = 0.0


class Re4(nn.Module):
    """K attention rows; the one nearest to the target is trained on it, and all are led back to their items."""

    def __init__(self, config: Re4Config, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTable(facts.n_items, config.dim)
        self.extract = ReAttentive(config.dim, config.interests, facts.length, config.temperature)

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Sampled softmax of the selected interest, re-attending, re-contrasting and re-constructing."""
        c = self.config
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, c.dropout, self.training)
        mask = thin(batch.history.mask, c.item_dropout, self.training)
        coarse, attention = self.extract.coarse(embedded, mask)
        back = self.extract.losses(embedded, mask, coarse, attention)
        user, _ = select(self.extract.finish(coarse), target)
        return {
            "softmax": objectives.sampled_softmax(user, target, negatives, batch),
            "attend": c.attend * back["attend"],
            "contrast": c.contrast * back["contrast"],
            "construct": c.construct * back["construct"],
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
        "re4",
        Re4,
        Re4Config,
        task="matching",
        summary="multi-interest extraction that is led back to its items by three losses",
        paper=PAPER,
        presets={
            "paper": Preset(Re4Config(), protocols.BEAUTY, "Re4's code, weights of its Book example; Amazon Beauty"),
            "paper-gowalla": Preset(Re4Config(), protocols.GOWALLA, "Re4's code, weights of its Book example; Gowalla"),
            "paper-book": Preset(Re4Config(), protocols.BOOK, "Re4's code; Amazon Book"),
            "best": Preset(Re4Config(item_dropout=0.2), protocols.BEST, "as REMI's"),
        },
        workers=True,
    ),
]
