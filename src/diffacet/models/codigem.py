"""CODIGEM: noise is put on a user's row step by step, and an auto-encoder takes away that of the first step.

J. Walker et al., "Recommendation via Collaborative Diffusion Generative Model", KSEM 2022 (key `codigem`). Only the
decoder f of the first step ranks. It shares no parameter with the networks of the other steps, nor does the KL term
hold f, so whether they are trained changes no score.
Shapes: B users, N items, T steps, h width of the hidden layers.
"""

import itertools
import math
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import diffrec_settings, diffusion, profiles
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, OldestWeight, Preset, Search
from diffacet.core.papers import CODIGEM as PAPER
from diffacet.core.profiles import Profiles
from diffacet.core.protocols import PROFILES, PROFILES_SEARCH

HIDDEN = 5
"""Hidden layers of every network."""


@dataclass(frozen=True, config=STRICT)
class CODIGEMConfig:
    """Settings of CODIGEM; the defaults are those of its code."""

    width: Annotated[int, Field(ge=1, title="h", description="width of the five hidden layers")] = 200
    steps: Annotated[
        int, Field(ge=2, title="T", description="steps; without effect on the ranking, and on training by default")
    ] = 3
    beta: Annotated[
        float,
        Field(gt=0, lt=1, title="β", description="variance of the noise of a step"),
        Search(choices=(5e-5, 1e-4, 5e-4)),
    ] = 1e-4
    train_reverse_nets: Annotated[
        bool, Field(description="also train the T - 1 networks of the later steps, which do not rank")
    ] = False
    oldest_weight: OldestWeight = 1.0
    weighted_target: Annotated[bool, Field(description="time weights on the target, too; false: input only")] = True
    inference_noise: Annotated[bool, Field(description="infer from the noisy row z_1"), INFERENCE] = False
    noise_seed: diffrec_settings.NoiseSeed = 0


class CODIGEM(nn.Module):
    """x -> z_1 -> ... -> z_T by noise; tanh(f(z_1)) rebuilds x, and f(x) ranks: tanh would only make ties."""

    def __init__(self, config: CODIGEMConfig, facts: Facts) -> None:
        """All weights begin as PyTorch's do."""
        super().__init__()
        c = self.config = config
        self.n_items = facts.n_items
        self.first = profiles.ItemSum(facts.n_items, c.width)
        self.slopes = nn.ModuleList(nn.PReLU() for _ in range(HIDDEN))
        self.inner = nn.ModuleList(nn.Linear(c.width, c.width) for _ in range(HIDDEN - 1))
        self.last = profiles.ItemScores(facts.n_items, c.width)
        _start_as_linear(self.first, facts.n_items)
        _start_as_linear(self.last, c.width)
        later = c.steps - 1 if c.train_reverse_nets else 0
        self.reverse = nn.ModuleList(_reverse_net(facts.n_items, c.width) for _ in range(later))  # g_1, ..., g_{T-1}

    def loss(self, batch: ProfileBatch) -> dict[str, Tensor]:
        """-RE = -sum over items of log N(x - tanh(f(z_1)); 0, 1), and the KL term if its networks are trained."""
        x = self._read(batch.history)
        target = x if self.config.weighted_target else x.ones()
        row = x.dense(self.n_items)
        z = self._noisier(row, torch.randn_like(row))
        squares = self.n_items * profiles.squared_error(self.last(self._hidden(self.first.dense(z))).tanh(), target)
        terms = {"reconstruction": 0.5 * squares.mean() + 0.5 * self.n_items * math.log(2 * math.pi)}
        if self.config.train_reverse_nets:
            terms["kl"] = self._divergence([row, z])
        return terms

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, h + 1): the last hidden layer for the row itself (or for z_1), and 1 for the bias."""
        c, x = self.config, self._read(history)
        if not c.inference_noise:
            return profiles.interest(self._hidden(self.first(x)))
        row = x.dense(self.n_items)
        noise = diffusion.case_noise(history.case, (self.n_items,), c.noise_seed).to(row.dtype)
        return profiles.interest(self._hidden(self.first.dense(self._noisier(row, noise))))

    def catalogue(self) -> Tensor:
        """(N + 1, h + 1): weights and bias of the last layer; row 0 is padding."""
        return self.last.catalogue()

    def _read(self, history: Histories) -> Profiles:
        return profiles.read(history, self.config.oldest_weight, self.first.weight.dtype)

    def _noisier(self, z: Tensor, noise: Tensor) -> Tensor:
        """z_k -> z_{k+1} = sqrt(1 - beta) z_k + sqrt(beta) eps, (B, N)."""
        return math.sqrt(1 - self.config.beta) * z + math.sqrt(self.config.beta) * noise

    def _hidden(self, read: Tensor) -> Tensor:
        """What the first layer makes of a row, (B, h) -> the last hidden layer, (B, h)."""
        hidden = self.slopes[0](read)
        for layer, slope in zip(self.inner, self.slopes[1:], strict=True):
            hidden = slope(layer(hidden))
        return hidden

    def _divergence(self, z: list[Tensor]) -> Tensor:
        """The KL term, averaged over users; z holds the rows z_0 = x and z_1 (B, N).

        Sum over items and steps of log q(z_k | z_{k-1}) - log p(z_k), p(z_T) = N(0, 1) and p(z_k) = N(m_k, exp l_k)
        with (m_k, l_k) = g_k(z_{k+1}).
        """
        c = self.config
        for _ in range(c.steps - 1):
            z.append(self._noisier(z[-1], torch.randn_like(z[-1])))
        known = torch.tensor(math.log(c.beta), dtype=z[0].dtype, device=z[0].device)
        total = -_log_normal(z[-1], torch.zeros_like(z[-1]), torch.zeros_like(known))
        for before, after in itertools.pairwise(z):
            total = total + _log_normal(after, math.sqrt(1 - c.beta) * before, known)
        for net, here, after in zip(self.reverse, z[1:-1], z[2:], strict=True):
            mean, logvar = net(after).chunk(2, 1)
            total = total - _log_normal(here, mean, logvar)
        return total.mean()


def _log_normal(value: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """(B, N) -> (B,) log N(value; mean, exp logvar), summed over items; logvar () or (B, N)."""
    squares = (value - mean).square() * (-logvar).exp()
    return -0.5 * (math.log(2 * math.pi) + logvar + squares).sum(1)


def _start_as_linear(layer: profiles.ItemSum | profiles.ItemScores, inputs: int) -> None:
    """PyTorch's initial values of a linear layer: weights and bias uniform within 1 / sqrt(inputs)."""
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))


def _reverse_net(n_items: int, width: int) -> nn.Sequential:
    """g_k: (B, N) -> (B, 2 N), a mean and a log variance for each item."""
    sizes = [n_items, *[width] * HIDDEN]
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.PReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 2 * n_items))


CARDS = [
    Card(
        "codigem",
        CODIGEM,
        CODIGEMConfig,
        task="collaborative",
        summary="auto-encoder that takes the noise of a diffusion's first step off a user's row",
        paper=PAPER,
        presets={
            "paper": Preset(
                CODIGEMConfig(), replace(PROFILES, batch_size=200, optimizer="adamax"), "the code of CODIGEM's paper"
            ),
            "best": Preset(
                CODIGEMConfig(),
                replace(PROFILES, batch_size=200, optimizer="adamax"),
                "as paper, the best of 2 settings on validation of ML-1M",
            ),
        },
        batch=ProfileBatch,
        search=PROFILES_SEARCH,
    ),
]
