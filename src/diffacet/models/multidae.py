"""MultiDAE: a denoising auto-encoder of a user's row, multinomial; MultiDAE++: with DiffRec's noise on its input.

D. Liang et al., "Variational Autoencoders for Collaborative Filtering", WWW 2018 (key `mult-vae`), where it is
Mult-DAE; MultiDAE++ is an ablation of W. Wang et al., "Diffusion Recommender Model", SIGIR 2023 (key `diffrec`).
Shapes: B users, N items, T steps, h width of the outer hidden layers.
"""

import itertools
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import diffrec_settings, diffusion, profiles
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import STRICT, Card, Facts, OldestWeight, Preset, Search
from diffacet.core.papers import DIFFREC, MULT_VAE
from diffacet.core.profiles import Profiles
from diffacet.core.protocols import PROFILES, PROFILES_SEARCH

Dims = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(min_length=1, description="hidden sizes m_1, ..., m_n of N -> m_n -> ... -> m_1 -> ... -> m_n -> N"),
]
RowDropout = Annotated[
    float,
    Field(ge=0, lt=1, title="p", description="dropout of the normalised row, in training"),
    Search(choices=(0.1, 0.3, 0.5, 0.7)),
]
WeightedTarget = Annotated[bool, Field(description="time weights on the target, too; false: input only")]


@dataclass(frozen=True, config=STRICT)
class MultiDAEConfig:
    """Settings of MultiDAE; the defaults are those of DiffRec's table, open values those of the model's code."""

    dims: Dims = (200, 600)
    dropout: RowDropout = 0.5
    oldest_weight: OldestWeight = 1.0
    weighted_target: WeightedTarget = True


@dataclass(frozen=True, config=STRICT)
class MultiDAEPlusConfig:
    """Settings of MultiDAE++: MultiDAE's, and the noise of DiffRec's best on ML-1M."""

    dims: Dims = (200, 600)
    dropout: RowDropout = 0.5
    steps: Annotated[int, Field(ge=2, title="T", description="steps, one of which is drawn for each user")] = 40
    noise_scale: Annotated[float, Field(ge=0, title="s", description="scale of the noise; 0: MultiDAE")] = 0.005
    noise_min: diffrec_settings.NoiseMin = 0.005
    noise_max: diffrec_settings.NoiseMax = 0.01
    first_beta: diffrec_settings.FirstBeta = 1e-5
    oldest_weight: OldestWeight = 1.0
    weighted_target: WeightedTarget = True


class MultiDAE(nn.Module):
    """tanh layers over a row of length 1, thinned in training; scores are the logits of a multinomial."""

    def __init__(self, config: MultiDAEConfig | MultiDAEPlusConfig, facts: Facts) -> None:
        """Raises BadSetting for bounds of the noise that make no schedule."""
        super().__init__()
        c, outer = config, config.dims[-1]
        self.config, self.n_items = config, facts.n_items
        self.first = profiles.ItemSum(facts.n_items, outer)
        self.inner = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise([*reversed(c.dims), *c.dims[1:]]))
        self.last = profiles.ItemScores(facts.n_items, outer)
        profiles.start_as_mult_vae(self)
        self.schedule: diffusion.Schedule | None = None
        if isinstance(c, MultiDAEPlusConfig) and c.noise_scale:
            self.schedule = diffusion.scaled_linear(c.steps, c.noise_scale, c.noise_min, c.noise_max, c.first_beta)

    def loss(self, batch: ProfileBatch) -> dict[str, Tensor]:
        """The multinomial log-loss of the clean row."""
        x, p = self._read(batch.history), self.config.dropout
        if self.schedule is None:
            read = self.first(x.normalised().thinned(p, self.training))
        else:
            noisy = self._corrupted(x, self.schedule)
            # A row's length divides what the first layer sums of it: the catalogue is passed once less.
            length = noisy.norm(dim=1, keepdim=True).clamp(min=1e-12)
            kept = functional.dropout(noisy, p, self.training)
            read = kept @ self.first.weight / length + self.first.bias
        target = x if self.config.weighted_target else x.ones()
        return {"multinomial": profiles.multinomial(self.last(self._hidden(read)), target)}

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, h + 1): the last hidden layer for the clean row, and 1 for the bias."""
        return profiles.interest(self._hidden(self.first(self._read(history).normalised())))

    def catalogue(self) -> Tensor:
        """(N + 1, h + 1): weights and bias of the last layer; row 0 is padding."""
        return self.last.catalogue()

    def _read(self, history: Histories) -> Profiles:
        return profiles.read(history, self.config.oldest_weight, self.first.weight.dtype)

    def _corrupted(self, x: Profiles, schedule: diffusion.Schedule) -> Tensor:
        """x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps, (B, N), t uniform on 1..T for each user."""
        t = torch.randint(1, schedule.steps + 1, (x.users,), device=x.row.device)
        noise = torch.randn(x.users, self.n_items, dtype=x.value.dtype, device=x.row.device)
        return diffusion.forward_noise(x.dense(self.n_items), t, noise, schedule)

    def _hidden(self, read: Tensor) -> Tensor:
        """What the first layer makes of a row, (B, h) -> the last hidden layer, (B, h); tanh after each."""
        hidden = read.tanh()
        for layer in self.inner:
            hidden = layer(hidden).tanh()
        return hidden


_SOURCE = "DiffRec Sec. 4.1.3; open values: Mult-VAE's code"

CARDS = [
    Card(
        "multi-dae",
        MultiDAE,
        MultiDAEConfig,
        task="collaborative",
        summary="denoising auto-encoder of a user's row with a multinomial likelihood",
        paper=MULT_VAE,
        presets={
            "paper": Preset(MultiDAEConfig(), PROFILES, _SOURCE),
            "best": Preset(
                MultiDAEConfig(dropout=0.1),
                replace(PROFILES, lr=0.002),
                "3 settings on validation of ML-1M",
            ),
        },
        batch=ProfileBatch,
        search=PROFILES_SEARCH,
    ),
    Card(
        "multi-dae++",
        MultiDAE,
        MultiDAEPlusConfig,
        task="collaborative",
        summary="MultiDAE whose input bears DiffRec's noise, taken away in one pass",
        paper=DIFFREC,
        presets={
            "paper": Preset(MultiDAEPlusConfig(), PROFILES, f"{_SOURCE}; noise of DiffRec's release for ML-1M"),
            "best": Preset(MultiDAEPlusConfig(), PROFILES, "as paper; no other was tried"),
        },
        batch=ProfileBatch,
        search=PROFILES_SEARCH,
    ),
]
