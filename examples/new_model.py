"""A model of your own: one vector a user, the mean of the history with weights that fade with age.

DIFFACET_MODELS=examples/new_model.py diffacet train fading-mean --data DIR --out RUN
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import STRICT, Card, Facts, Preset, Search
from diffacet.core.layers import ItemTable
from diffacet.core.papers import Paper


@dataclass(frozen=True, config=STRICT)
class Config:
    """Settings, each with its range; `diffacet tune` looks where Search says."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of the vectors")] = 64
    fade: Annotated[float, Field(ge=0, description="by which e-fold a step of age fades, at first"), Search(0, 1)] = 0.1


class FadingMean(nn.Module):
    """u = sum_l w_l h_l with w = softmax(-fade * age) over a history of L items; the fade is learned."""

    def __init__(self, config: Config, facts: Facts) -> None:
        super().__init__()
        self.items = ItemTable(facts.n_items, config.dim)
        self.fade = nn.Parameter(torch.tensor([config.fade]))

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B, L, d) and its mask (B, L) -> (B, d); histories are padded on the right."""
        age = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)  # (B, L), newest 0
        weight = torch.exp(-self.fade * age) * mask
        return (weight.unsqueeze(-1) * embedded).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-9)

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Sampled softmax of the next item."""
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        user = self.encode(embedded, batch.history.mask)
        return {"softmax": objectives.sampled_softmax(user, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, d): one interest."""
        return self.encode(self.items(history.items), history.mask).unsqueeze(1)

    def catalogue(self) -> Tensor:
        """(N + 1, d), row 0 being padding."""
        return self.items.weight


PAPER = Paper("fading-mean", "You", "A mean that forgets", "software", 2025)
PRESETS = {"best": Preset(Config(), protocols.BEST, "untuned")}
CARDS = [Card("fading-mean", FadingMean, Config, "matching", "a mean that fades with age", PAPER, PRESETS)]
