"""Logistic regression: a weight for each value of each field of the showing, and no history; the floor of click tables.

M. Richardson et al., "Predicting Clicks: Estimating the Click-Through Rate for New Ads", WWW 2007 (key `logistic`).
What a model is ahead of it by is what behaviours tell beyond the rates of items, users and contexts.
Shapes: B samples.
"""

from dataclasses import replace

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import Fields, click_loss
from diffacet.core.behaviours.settings import UserId
from diffacet.core.contract import STRICT, Card, Facts, Preset
from diffacet.core.papers import LOGISTIC as PAPER


@dataclass(frozen=True, config=STRICT)
class LogisticConfig:
    """Settings of logistic regression."""

    use_user_id: UserId = True


class Logistic(nn.Module):
    """Log odds are a sum: of a weight for each value, of numbers times their weights, and of a constant."""

    def __init__(self, config: LogisticConfig, facts: Facts) -> None:
        super().__init__()
        click = facts.click_fields()
        self.fields = Fields(click, 1, use_user_id=config.use_user_id, deviation=0.01)
        self.constant = nn.Parameter(torch.zeros(1))
        self.slopes = nn.Parameter(torch.zeros(click.numeric)) if click.numeric else None

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Cross-entropy of the click."""
        return {"click": click_loss(self.logits(batch), batch.label)}

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds of a click."""
        weights = self.fields.other(batch)
        told = self.constant + self.fields.target(batch).sum(1)
        if self.slopes is None:
            return told + weights.sum(1)
        values = weights[:, : -len(self.slopes)].sum(1)
        return told + values + weights[:, -len(self.slopes) :] @ self.slopes


CARDS = [
    Card(
        "logistic",
        Logistic,
        LogisticConfig,
        task="click",
        summary="a weight for each value of the showing's fields, no history: what a click model must beat",
        paper=PAPER,
        presets={
            "paper": Preset(LogisticConfig(), replace(protocols.CLICK, lr=0.01), "a weight a value; its rate is ours"),
            "best": Preset(LogisticConfig(), replace(protocols.CLICK, lr=0.01), "the same"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
