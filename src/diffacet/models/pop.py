"""PopRec: the most frequent training items, the same for everyone; the floor of every table.

Shapes: B users, N items.
"""

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core.batch import Histories
from diffacet.core.contract import STRICT, Card, Facts, Preset, Training
from diffacet.core.papers import POPREC
from diffacet.core.protocols import ROWS


@dataclass(frozen=True, config=STRICT)
class PopConfig:
    """PopRec has no settings."""


class Pop(nn.Module):
    """Counts of whole training sequences (as ComiRec's code counts; REMI's counts sampled targets instead)."""

    counts: Tensor

    def __init__(self, config: PopConfig, facts: Facts) -> None:
        super().__init__()
        del config
        self.register_buffer("counts", torch.from_numpy(facts.item_counts()).float())

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1): every row the training counts."""
        return self.counts.expand(len(history.items), -1)


_UNTRAINED = Training(max_steps=0)

CARDS = [
    Card(
        "pop",
        Pop,
        PopConfig,
        task="matching",
        summary="the most frequent items, the same list for everyone",
        paper=POPREC,
        presets={
            "paper": Preset(PopConfig(), _UNTRAINED, "counts of training interactions"),
            "best": Preset(PopConfig(), _UNTRAINED, "counts of training interactions"),
            "collaborative": Preset(PopConfig(), ROWS, "the same, chosen and shown whole rows as collaborative models"),
        },
    ),
]
