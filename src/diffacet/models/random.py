"""Random: every order of the catalogue is as likely as any other; what scores no higher has learned nothing.

Shapes: B users, N items.
"""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core.batch import Histories
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Preset, Training
from diffacet.core.diffusion import case_noise
from diffacet.core.papers import DIFFACET


@dataclass(frozen=True, config=STRICT)
class RandomConfig:
    """Settings of Random."""

    noise_seed: Annotated[int, Field(ge=0, description="seed of the scores"), INFERENCE] = 0


class Random(nn.Module):
    """Scores of one law, drawn for each item apart."""

    def __init__(self, config: RandomConfig, facts: Facts) -> None:
        super().__init__()
        self.config, self.n_items = config, facts.n_items

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1): row b depends on its case and the seed only."""
        return case_noise(history.case, (self.n_items + 1,), self.config.noise_seed)


_UNTRAINED = Training(max_steps=0, metric="hit_rate@20")

CARDS = [
    Card(
        "random",
        Random,
        RandomConfig,
        task="next-item",
        summary="uniformly random lists, the floor of every table",
        paper=DIFFACET,
        presets={
            "paper": Preset(RandomConfig(), _UNTRAINED, "no paper: nothing is learned"),
            "best": Preset(RandomConfig(), _UNTRAINED, "nothing is learned"),
        },
    ),
]
