"""TWIN: target attention over a long history, with one relevance for finding behaviours and for weighing them.

J. Chang et al., "TWIN: TWo-stage Interest Network for Lifelong User Behavior Modeling in CTR Prediction at Kuaishou",
KDD 2023 (key `twin`). The search and the attention are `core.behaviours.HeadwiseSearch`; each head keeps the K
behaviours that it hears best. Shapes: B samples, d = fields times the width of one.
"""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import ClickHead, Fields, HeadwiseSearch, ShortTerm, click_loss
from diffacet.core.behaviours.settings import (
    Ages,
    Dim,
    Hidden,
    Kept,
    Order,
    Recent,
    Short,
    UserId,
)
from diffacet.core.contract import STRICT, Card, Facts, Preset
from diffacet.core.papers import TWIN as PAPER
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class TWINConfig:
    """Settings of TWIN."""

    dim: Dim = 8
    hidden: Hidden = (1024, 512, 256)
    use_user_id: UserId = True
    kept: Kept = 100
    heads: Annotated[
        int | None,
        Field(ge=1, title="H", description="heads, which search apart; none: 4 if that divides inner, else 2"),
    ] = None
    inner: Annotated[int, Field(ge=1, title="d_a", description="width of queries, keys and values of all heads")] = 64
    ages: Ages = "auto"
    recent: Recent = 50
    short: Short = "transformer"
    position: Order = "recency"

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if self.inner % self.parts:
            raise BadSetting(f"heads divides inner={self.inner}; got heads={self.heads}")

    @property
    def parts(self) -> int:
        """H."""
        return self.heads or (2 if self.inner % 4 else 4)


class TWIN(nn.Module):
    """What the heads found, the short-term branch, the target and the further fields, brought together."""

    def __init__(self, config: TWINConfig, facts: Facts) -> None:
        super().__init__()
        c, click = config, facts.click_fields()
        self.config = c
        self.fields = Fields(click, c.dim, use_user_id=c.use_user_id)
        d = self.fields.width
        aged = c.ages == "auto" and click.timed
        self.long = HeadwiseSearch(click, c.dim, c.kept, heads=c.parts, inner=c.inner, aged=aged)
        self.short = ShortTerm(d, c.recent, c.short, position=c.position)
        self.head = ClickHead(2 * d + self.short.width + self.fields.other_width, c.hidden)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Cross-entropy of the click."""
        return {"click": click_loss(self.logits(batch), batch.label)}

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds of a click."""
        target = self.fields.target(batch)
        long = self.long(self.fields, batch, target)
        return self.head(long, self.short(self.fields, batch, target), target, self.fields.other(batch))


CARDS = [
    Card(
        "twin",
        TWIN,
        TWINConfig,
        task="click",
        summary="a long history searched and weighed by the same target attention",
        paper=PAPER,
        presets={
            "paper": Preset(TWINConfig(recent=100), protocols.CLICK, "DiffuMIN's Table 2, row TWIN; TWIN's four heads"),
            "best": Preset(TWINConfig(), protocols.CLICK, "ours: the same, no setting searched yet"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
