"""ETA: the behaviours whose hashed vectors differ from the target's in fewest bits, read by target attention.

Q. Chen et al., "End-to-End User Behavior Retrieval in Click-Through Rate Prediction Model", 2021 (key `eta`). Codes are
of the current embeddings, so search and training use the same vectors. Shapes: B samples, N behaviours of the batch,
d = fields times the width of one, K kept.

    code(x) = [x H >= 0]      distance_i = bits in which code(E_i) and code(e_s) differ      v = attention(e_s, kept)

Among equal distances, and with 32 bits most are equal, the more recent behaviour is kept.
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import ClickHead, Fields, ShortTerm, SimHash, TargetAttention, at, click_loss, searched
from diffacet.core.behaviours.hashing import codes, differing, packed
from diffacet.core.behaviours.settings import (
    Dim,
    HashSeed,
    Heads,
    Hidden,
    Kept,
    Order,
    Recent,
    Short,
    UserId,
    generator,
)
from diffacet.core.contract import STRICT, Card, Facts, Preset, Search
from diffacet.core.papers import ETA as PAPER


@dataclass(frozen=True, config=STRICT)
class ETAConfig:
    """Settings of ETA."""

    dim: Dim = 8
    hidden: Hidden = (1024, 512, 256)
    use_user_id: UserId = True
    kept: Kept = 100
    bits: Annotated[int, Field(ge=1, title="b", description="of a code"), Search(choices=(16, 32, 64))] = 32
    hash_seed: HashSeed = 0
    heads: Heads = 2
    recent: Recent = 50
    short: Short = "transformer"
    position: Order = "recency"


class ETA(nn.Module):
    """Attention over what the codes found, the short-term branch, the target and the further fields."""

    def __init__(self, config: ETAConfig, facts: Facts) -> None:
        super().__init__()
        c, click = config, facts.click_fields()
        self.config = c
        self.fields = Fields(click, c.dim, use_user_id=c.use_user_id)
        d = self.fields.width
        self.hash = SimHash(d, c.bits, generator(c.hash_seed, "eta"))
        self.long = TargetAttention(d, d, d, heads=c.heads)
        self.short = ShortTerm(d, c.recent, c.short, position=c.position)
        self.head = ClickHead(2 * d + self.short.width + self.fields.other_width, c.hidden)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Cross-entropy of the click."""
        return {"click": click_loss(self.logits(batch), batch.label)}

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds of a click."""
        target = self.fields.target(batch)
        place, mask = self.found(batch, target)
        long = self.long(target, self.fields.behaviours(batch, place), mask)
        return self.head(long, self.short(self.fields, batch, target), target, self.fields.other(batch))

    @torch.no_grad()
    def found(self, batch: ClickBatch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the nearest behaviours of each target (B, d), nearest first, and whether each is one: (B, K)."""
        # Every behaviour of the batch is hashed once, however many samples see it.
        words = codes(self.fields, batch, lambda embedded: packed(self.hash(embedded)))
        asked = packed(self.hash(target))
        return searched(
            batch,
            self.config.kept,
            lambda seen: -differing(at(words, seen.place), asked[seen.samples].unsqueeze(1)),
        )


CARDS = [
    Card(
        "eta",
        ETA,
        ETAConfig,
        task="click",
        summary="a long history searched by hash codes of the current embeddings",
        paper=PAPER,
        presets={
            "paper": Preset(ETAConfig(recent=100), protocols.CLICK, "DiffuMIN's Table 2, row ETA; 32 bits as LongCTR"),
            "best": Preset(ETAConfig(), protocols.CLICK, "ours: the same, no setting searched yet"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
