"""MIND: K interests by dynamic routing of the history into capsules.

C. Li et al., "Multi-Interest Network with Dynamic Routing for Recommendation at Tmall", CIKM 2019, in the form that
the codes of ComiRec and REMI give it: a fixed number of interests, no profile features, the interest nearest
to the target trained on it.
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
from diffacet.core.layers import ItemTable, kaiming
from diffacet.core.papers import MIND as PAPER


@dataclass(frozen=True, config=STRICT)
class MINDConfig:
    """Settings of MIND."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and interests")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="interests per user")] = 4
    routing: Annotated[
        Routing, Field(description="routing weights sum to 1 over these (ComiRec's code: capsules, REMI's: positions)")
    ] = "capsules"
    iterations: Annotated[int, Field(ge=1, description="routing passes"), Search(1, 4)] = 3
    relu: Annotated[bool, Field(description="a ReLU layer after the routing, as both codes have it on Book")] = False
    dropout: Dropout = 0.0
    item_dropout: ItemDropout = 0.0


class MIND(nn.Module):
    """Capsules of the history; the one nearest to the target is trained on it."""

    def __init__(self, config: MINDConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim)
        self.extract = DynamicRouting(
            c.dim, c.interests, facts.length, routing=c.routing, iterations=c.iterations, random_start=True
        )
        self.layer = kaiming(c.dim, c.dim) if c.relu else None

    def encode(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) and its mask -> interests (B, K, d) and their attention (B, K, L)."""
        interests, attention = self.extract(embedded, mask)
        return interests if self.layer is None else functional.relu(interests @ self.layer.T), attention

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Sampled softmax of the selected interest: label-aware attention whose power is infinite (Sec. 3.4)."""
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, self.config.dropout, self.training)
        interests, _ = self.encode(embedded, thin(batch.history.mask, self.config.item_dropout, self.training))
        user, _ = select(interests, target)
        return {"softmax": objectives.sampled_softmax(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """(B, K, d)."""
        return self.explain(history).refined

    def explain(self, history: Histories) -> Explanation:
        """The interests and their attention over the history, the last routing weights."""
        embedded = self.items(history.items)
        interests, attention = self.encode(embedded, history.mask)
        return Explanation(interests, interests, embedded, attention)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding; an item scores by its best interest."""
        return self.items.weight


# REMI's code most likely made DMI's row, and its routing comes nearest to it on Beauty.
_PAPER = MINDConfig(routing="positions")
_CODE = replace(protocols.BEAUTY, lr=0.001, patience=50)

CARDS = [
    Card(
        "mind",
        MIND,
        MINDConfig,
        task="matching",
        summary="multi-interest extraction by dynamic routing",
        paper=PAPER,
        presets={
            "paper": Preset(_PAPER, protocols.BEAUTY, "REMI's code with DMI's learning rate; Amazon Beauty"),
            "paper-gowalla": Preset(_PAPER, protocols.GOWALLA, "REMI's code with DMI's learning rate; Gowalla"),
            "paper-book": Preset(replace(_PAPER, relu=True), protocols.BOOK, "REMI's code; Amazon Book"),
            "comirec-code": Preset(MINDConfig(), protocols.BEAUTY, "ComiRec's code: routing over capsules"),
            "remi-code": Preset(_PAPER, _CODE, "REMI's code and its learning rate"),
            "dimerec-table": Preset(MINDConfig(), protocols.NEXT_ITEM, "ComiRec's code in DimeRec Sec. 4.1"),
            "dimerec-table-long": Preset(MINDConfig(), protocols.NEXT_ITEM_LONG, "the same; histories of 70"),
            "best": Preset(MINDConfig(item_dropout=0.2), protocols.BEST, "as REMI's"),
        },
        workers=True,
    ),
]
