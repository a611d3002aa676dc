"""TWIN-V2: TWIN over clusters of a history, so that what a user did in years is searched like a short list.

Z. Si et al., "TWIN V2: Scaling Ultra-Long User Behavior Sequence Modeling for Enhanced CTR Prediction at Kuaishou",
CIKM 2024 (key `twin-v2`). Rows of a batch stand for `sizes` behaviours, which training makes clusters of, day by day
(`data.clicks.clustering`); the most recent ones, which the short-term branch reads, stay single. Shapes: B samples,
d = fields times the width of one, n_c members of cluster c.

    alpha'_c = alpha_c + ln n_c    in the search and in its softmax: n equal behaviours weigh the same, clustered or not
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
from diffacet.core.contract import STRICT, Card, Facts, Preset, Search
from diffacet.core.papers import TWIN_V2 as PAPER
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class TWINV2Config:
    """Settings of TWIN-V2."""

    dim: Dim = 8
    hidden: Hidden = (1024, 512, 256)
    use_user_id: UserId = True
    kept: Kept = 100
    heads: Annotated[
        int | None,
        Field(ge=1, title="H", description="heads, which search apart; none: 4 if they divide inner, else 2"),
    ] = None
    inner: Annotated[int, Field(ge=1, title="d_a", description="width of queries, keys and values of all heads")] = 64
    ages: Ages = "auto"
    recent: Recent = 50
    short: Short = "transformer"
    position: Order = "recency"
    clusters: Annotated[
        bool, Field(description="whether histories are clusters; false: TWIN, which reads single behaviours")
    ] = True
    most: Annotated[
        int,
        Field(ge=1, title="γ", description="behaviours of a cluster at most; shorter histories are not clustered"),
        Search(choices=(5, 10, 20, 40)),
    ] = 20
    exponent: Annotated[
        float, Field(gt=0, le=1, description="of n: k-means parts n behaviours into n to this power, 2 at least")
    ] = 0.3
    iterations: Annotated[int, Field(ge=1, description="iterations of one k-means at most")] = 10
    cluster_seed: Annotated[
        int, Field(ge=0, description="of k-means and of the item vectors that it sees (32 of a truncated SVD)")
    ] = 0

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if self.inner % self.parts:
            raise BadSetting(f"heads divides inner={self.inner}; got heads={self.heads}")

    @property
    def parts(self) -> int:
        """H."""
        return self.heads or (2 if self.inner % 4 else 4)


class TWINV2(nn.Module):
    """What the heads found among clusters, the short-term branch, the target and the further fields."""

    def __init__(self, config: TWINV2Config, facts: Facts) -> None:
        super().__init__()
        c, click = config, facts.click_fields()
        self.config = c
        self.fields = Fields(click, c.dim, use_user_id=c.use_user_id)
        d, aged = self.fields.width, c.ages == "auto" and click.timed
        self.long = HeadwiseSearch(click, c.dim, c.kept, heads=c.parts, inner=c.inner, aged=aged, sized=True)
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
        "twin-v2",
        TWINV2,
        TWINV2Config,
        task="click",
        summary="TWIN over clusters of like behaviours, made day by day",
        paper=PAPER,
        presets={
            "paper": Preset(
                TWINV2Config(recent=100), protocols.CLICK, "DiffuMIN's Table 2, row TWIN-V2; clusters as in Sec. 3.2"
            ),
            "best": Preset(TWINV2Config(), protocols.CLICK, "ours: the same, no setting searched yet"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
