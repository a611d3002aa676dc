"""DIN: every behaviour weighed by a small network of itself and the target, and summed.

G. Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018 (key `din`); over the most recent
behaviours only it is the base that the tables of later papers count from. Shapes: B samples, l behaviours of each,
d = fields times the width of one.

    a_i = MLP([e_s, E_i, e_s - E_i, e_s * E_i])        v = sum_i a_i E_i        logit = head([v, e_s, e_other])
"""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import ClickHead, Fields, WeighedSum, click_loss
from diffacet.core.behaviours.settings import Dim, Hidden, UserId
from diffacet.core.contract import STRICT, Card, Facts, Preset
from diffacet.core.papers import DIN as PAPER


@dataclass(frozen=True, config=STRICT)
class DINConfig:
    """Settings of DIN."""

    dim: Dim = 8
    hidden: Hidden = (1024, 512, 256)
    use_user_id: UserId = True
    window: Annotated[int | None, Field(ge=1, description="most recent behaviours that are read; none: all")] = None
    softmax: Annotated[
        bool, Field(description="weights of a sample sum to 1; false: their sum tells how much interest there is")
    ] = False


class DIN(nn.Module):
    """The weighed sum, the target and the further fields, brought together."""

    def __init__(self, config: DINConfig, facts: Facts) -> None:
        super().__init__()
        c, click = config, facts.click_fields()
        self.config = c
        self.fields = Fields(click, c.dim, use_user_id=c.use_user_id)
        d = self.fields.width
        self.interest = WeighedSum(d, c.window, softmax=c.softmax)
        self.head = ClickHead(2 * d + self.fields.other_width, c.hidden)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Cross-entropy of the click."""
        return {"click": click_loss(self.logits(batch), batch.label)}

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds of a click."""
        target = self.fields.target(batch)
        return self.head(self.interest(self.fields, batch, target), target, self.fields.other(batch))


CARDS = [
    Card(
        "din",
        DIN,
        DINConfig,
        task="click",
        summary="each behaviour weighed by a network of it and the target",
        paper=PAPER,
        presets={
            "paper": Preset(DINConfig(), protocols.CLICK, "DiffuMIN's Table 2, row DIN, with the head of its code"),
            "short": Preset(
                DINConfig(window=100), protocols.CLICK, "its row DIN(S), the base of RelaImpr: the last 100 behaviours"
            ),
            "best": Preset(DINConfig(), protocols.CLICK, "ours: the same, no setting searched yet"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
