"""MultiVAE: a variational auto-encoder of a user's row with a multinomial likelihood and an annealed KL term.

D. Liang et al., "Variational Autoencoders for Collaborative Filtering", WWW 2018 (key `mult-vae`), where it is
Mult-VAE. It rebuilds the row that it reads; trained on pairs (`targets=one`) it foretells the item that follows.
Shapes: B users, N items, z width of the latent, h width of the outer hidden layers.
"""

import itertools
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import profiles
from diffacet.core.batch import Histories, ProfileBatch, SequenceBatch
from diffacet.core.contract import STRICT, Card, Facts, OldestWeight, Preset, Search
from diffacet.core.papers import MULT_VAE
from diffacet.core.profiles import Profiles
from diffacet.core.protocols import NEXT_ITEM, PROFILES, PROFILES_SEARCH


@dataclass(frozen=True, config=STRICT)
class MultiVAEConfig:
    """Settings of MultiVAE; the defaults are those of DiffRec's table, open values those of its searches."""

    dims: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(min_length=1, description="sizes z, ..., h of N -> h -> ... -> z -> ... -> h -> N; z is the latent's"),
    ] = (200, 600)
    dropout: Annotated[
        float,
        Field(ge=0, lt=1, title="p", description="dropout of the normalised row, in training"),
        Search(choices=(0.1, 0.3, 0.5, 0.7)),
    ] = 0.5
    anneal_cap: Annotated[
        float,
        Field(ge=0, title="γ", description="weight of the KL term in the end"),
        Search(choices=(0.0, 0.3, 0.5, 0.7)),
    ] = 0.3
    anneal_steps: Annotated[
        int,
        Field(ge=0, description="training steps in which the weight of the KL term would rise to 1; 0: it is the cap"),
        Search(choices=(0, 200, 500)),
    ] = 200
    oldest_weight: OldestWeight = 1.0
    weighted_target: Annotated[bool, Field(description="time weights on the target, too; false: input only")] = True


class MultiVAE(nn.Module):
    """A row of length 1 becomes a normal law of z, and z the logits of a multinomial; inference takes z's mean."""

    def __init__(self, config: MultiVAEConfig, facts: Facts) -> None:
        super().__init__()
        self.config = config
        latent, *outer = config.dims
        down, up = [*reversed(outer), 2 * latent], [latent, *outer]
        self.first = profiles.ItemSum(facts.n_items, down[0])
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(down))
        self.decoder = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(up))
        self.last = profiles.ItemScores(facts.n_items, up[-1])
        profiles.start_as_mult_vae(self)

    def loss(self, batch: ProfileBatch | SequenceBatch) -> dict[str, Tensor]:
        """The multinomial log-loss, and the KL divergence from the standard normal law times its weight.

        What is to be likely is the row that was read, or the item that follows it.
        """
        x = self._read(batch.history)
        mu, logvar = self._encoded(x.normalised().thinned(self.config.dropout, self.training))
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        logits = self.last(self._decoded(z))
        if isinstance(batch, SequenceBatch):
            multinomial = functional.cross_entropy(logits, batch.target - 1)
        else:
            multinomial = profiles.multinomial(logits, x if self.config.weighted_target else x.ones())
        return {
            "multinomial": multinomial,
            "kl": self.kl_weight(batch.step) * profiles.kl_standard(mu, logvar),
        }

    def kl_weight(self, step: int) -> float:
        """min(cap, n / steps), n being the number of earlier batches; the cap from the start for steps = 0."""
        c = self.config
        return min(c.anneal_cap, step / c.anneal_steps) if c.anneal_steps else c.anneal_cap

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, h + 1): the last hidden layer for the mean of z, and 1 for the bias."""
        mu, _ = self._encoded(self._read(history).normalised())
        return profiles.interest(self._decoded(mu))

    def catalogue(self) -> Tensor:
        """(N + 1, h + 1): weights and bias of the last layer; row 0 is padding."""
        return self.last.catalogue()

    def _read(self, history: Histories) -> Profiles:
        return profiles.read(history, self.config.oldest_weight, self.first.weight.dtype)

    def _encoded(self, x: Profiles) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z, each (B, z); tanh between layers, none at the end."""
        hidden = self.first(x)
        for layer in self.encoder:
            hidden = layer(hidden.tanh())
        mu, logvar = hidden.chunk(2, 1)
        return mu, logvar

    def _decoded(self, hidden: Tensor) -> Tensor:
        """(B, z) -> (B, h); tanh after each layer."""
        for layer in self.decoder:
            hidden = layer(hidden).tanh()
        return hidden


_TABLE = MultiVAEConfig(dims=(64, 600), anneal_cap=0.2, anneal_steps=1_000_000)  # 0.2 after 200,000 steps

CARDS = [
    Card(
        "multi-vae",
        MultiVAE,
        MultiVAEConfig,
        task="collaborative",
        summary="variational auto-encoder of a user's row with a multinomial likelihood",
        paper=MULT_VAE,
        presets={
            "paper": Preset(MultiVAEConfig(), PROFILES, "DiffRec Sec. 4.1.3; open values within its searched ranges"),
            "dimerec-table": Preset(
                _TABLE,
                replace(NEXT_ITEM, length=0),
                "DimeRec Sec. 4.1 and Mult-VAE's code: whole rows rebuilt, with its own loss",
            ),
            "next-item": Preset(
                _TABLE,
                replace(NEXT_ITEM, targets="one", length=50, negatives=0, own_negatives=False),
                "ours: trained to foretell the next of at most 50 items",
            ),
            "best": Preset(MultiVAEConfig(), PROFILES, "as paper, the best of 5 settings on validation of ML-1M"),
        },
        batch=ProfileBatch,
        also=(SequenceBatch,),
        search=PROFILES_SEARCH,
    ),
]
