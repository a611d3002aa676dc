"""DiffuMIN-VAE: DiffuMIN whose generated interests come from a conditional autoencoder instead of diffusion.

A row of DiffuMIN's Table 4 (W. Lai et al., RecSys 2025, key `diffumin`), which names a conditional variational
autoencoder and no more: the networks here are our reading. Channels, contrast, short-term branch and head are
DiffuMIN's. Shapes: B samples, c channels, d dimensions of an interest, z of its latent.

    h_i = [mean of the other interests, o_i]      mu, log sigma^2 = MLP([r_i, h_i])      r*_i = MLP([mu + sigma e, h_i])
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import diffusion, protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import (
    Channels,
    ClickHead,
    Contrast,
    Fields,
    Router,
    ShortTerm,
    click_loss,
    rescaled,
    settings,
)
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Preset, Search
from diffacet.core.layers import linear
from diffacet.core.papers import DIFFUMIN

LOG_VARIANCE = 10.0
"""Bound of the latent's log variance, on both sides."""


@dataclass(frozen=True, config=STRICT)
class DiffuMINVAEConfig:
    """Settings of DiffuMIN-VAE; those of channels, contrast, short-term branch and head as DiffuMIN's."""

    dim: settings.Dim = 8
    channels: settings.ChannelCount = 4
    keep: settings.Percent = 20.0
    keep_count: settings.KeepCount = 100
    routing: settings.Route = "top-1"
    filter: settings.Keeps = "top-p"
    filter_scope: settings.KeepsOf = "routed"
    aggregation: settings.Pooling = "score-mean"
    decomposition: settings.Split = "qr"
    latent: Annotated[int | None, Field(ge=1, title="d_z", description="width of the latent; none: an interest's")] = (
        None
    )
    divergence_weight: Annotated[
        float,
        Field(ge=0, title="κ", description="weight of the divergence beside the reconstruction"),
        Search(choices=(0.01, 0.1, 1.0)),
    ] = 0.1
    annealed: Annotated[
        float, Field(ge=0, le=1, description="share of the steps, at the start, in which κ rises from 0")
    ] = 0.2
    scale: settings.Length = "root-d"
    stop_gradient: Annotated[
        bool, Field(description="interests do not move towards what is rebuilt of them, only the other way")
    ] = True
    layers: settings.ShortLayers = 2
    heads: settings.ShortHeads = 2
    temperature: settings.Temperature = 0.05
    diffusion_weight: settings.DiffusionWeight = 0.01
    contrast_weight: settings.ContrastWeight = 0.001
    same_user: settings.SameUser = False
    recent: settings.Recent = 50
    short: settings.Short = "transformer"
    position: settings.Order = "recency"
    hidden: settings.Hidden = (1024, 512, 256)
    use_user_id: settings.UserId = True
    sampling_noise: Annotated[
        Literal["none", "seeded"],
        Field(description="at inference: the latent's mean, or a draw by sample and noise_seed"),
        INFERENCE,
    ] = "none"
    noise_seed: settings.NoiseSeed = 0


class ConditionalVAE(nn.Module):
    """An interest as a latent and back, told the other interests and its channel; one network for all channels."""

    def __init__(self, dim: int, latent: int) -> None:
        """Widths d and z."""
        super().__init__()
        self.encoder = nn.Sequential(linear(3 * dim, 4 * dim), nn.ReLU(), linear(4 * dim, 2 * latent))
        self.decoder = nn.Sequential(linear(latent + 2 * dim, 4 * dim), nn.ReLU(), linear(4 * dim, dim))

    def told(self, interests: Tensor, channels: Tensor, active: Tensor) -> Tensor:
        """The condition of each interest, (B, c, 2 d): the mean of the other active ones, or 0, and its channel."""
        there = active.unsqueeze(-1).to(interests.dtype)
        kept = interests * there
        others = there.sum(1, keepdim=True) - there
        return torch.cat([(kept.sum(1, keepdim=True) - kept) / others.clamp(min=1), channels], -1)

    def encode(self, interests: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent of each interest, both (B, c, z)."""
        mean, log_variance = self.encoder(torch.cat([interests, told], -1)).chunk(2, -1)
        return mean, log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE)

    def decode(self, latent: Tensor, told: Tensor) -> Tensor:
        """(B, c, z) -> (B, c, d)."""
        return self.decoder(torch.cat([latent, told], -1))


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, e^log_variance) || N(0, 1)) by the mean over the last axis; at least 0."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).mean(-1) / 2


class DiffuMINVAE(nn.Module):
    """The probability of a click from aggregated, decoded and current interests, the target and the context."""

    def __init__(self, config: DiffuMINVAEConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.fields = Fields(facts.click_fields(), c.dim, use_user_id=c.use_user_id)
        d = self.fields.width
        router = Router(c.routing, c.filter, c.keep, c.keep_count, c.filter_scope)
        split = c.decomposition
        self.channels = Channels(
            d, c.channels, router, c.aggregation, heads=c.heads, length=facts.length, decomposition=split
        )
        self.latent = d if c.latent is None else c.latent
        self.vae = ConditionalVAE(d, self.latent)
        self.contrast = Contrast(d, c.temperature, same_user=c.same_user) if c.contrast_weight > 0 else None
        self.short = ShortTerm(d, c.recent, c.short, layers=c.layers, heads=c.heads, position=c.position)
        self.head = ClickHead(2 * c.channels * d + self.short.width + d + self.fields.other_width, c.hidden)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """The weighted terms: click, reconstruction, divergence of the latents, and contrast."""
        c, target = self.config, self.fields.target(batch)
        raw, channels, routed = self.channels(self.fields, batch, target)
        interests, active = rescaled(raw, c.scale), routed.active
        told = self.vae.told(interests, channels, active)
        mean, log_variance = self.vae.encode(interests, told)
        found = self.vae.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean), told)
        generated = torch.where(active.unsqueeze(-1), found, 0.0)
        aim = interests.detach() if c.stop_gradient else interests
        rebuilt = _of_active((aim - generated).square().mean(-1), active)
        apart = _of_active(divergence(mean, log_variance), active)
        terms = {
            "click": click_loss(self.predict(batch, target, raw, generated), batch.label),
            "reconstruction": c.diffusion_weight * rebuilt,
            "divergence": c.diffusion_weight * self.kappa(batch) * apart,
        }
        if self.contrast is not None:
            terms["contrast"] = c.contrast_weight * self.contrast(interests, generated, active, batch.user)
        return terms

    def kappa(self, batch: ClickBatch) -> float:
        """κ at the batch's step, which rises evenly over the first steps, lest the latent be left unused."""
        rising = self.config.annealed * batch.total  # 0 where the number of steps is unknown
        return self.config.divergence_weight * (min(1.0, batch.step / rising) if rising else 1.0)

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds; random only if `sampling_noise` says so, and then by sample and seed."""
        target = self.fields.target(batch)
        raw, channels, routed = self.channels(self.fields, batch, target)
        return self.predict(batch, target, raw, self.answer(batch, raw, channels, routed.active))

    def answer(self, batch: ClickBatch, raw: Tensor, channels: Tensor, active: Tensor) -> Tensor:
        """The generated interests of inference, (B, c, d); 0 in channels that got nothing."""
        interests = rescaled(raw, self.config.scale)
        told = self.vae.told(interests, channels, active)
        latent, log_variance = self.vae.encode(interests, told)
        if self.config.sampling_noise == "seeded":
            noise = diffusion.KeyedNoise(batch.case, raw.shape[1], self.latent, 0, self.config.noise_seed)
            latent = latent + (log_variance / 2).exp() * noise[0]
        return torch.where(active.unsqueeze(-1), self.vae.decode(latent, told), 0.0)

    def predict(self, batch: ClickBatch, target: Tensor, raw: Tensor, generated: Tensor) -> Tensor:
        """(B,) log odds out of all that was found (DiffuMIN Eq. 22)."""
        return self.head(raw, generated, self.short(self.fields, batch, target), target, self.fields.other(batch))

    def diagnose(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Signs of collapse: what channels got, how alike interests are, what decoding did, what latents tell."""
        raw, channels, routed = self.channels(self.fields, batch, self.fields.target(batch))
        active, interests = routed.active, rescaled(raw, self.config.scale)
        told = self.vae.told(interests, channels, active)
        cosine = functional.cosine_similarity(raw, self.answer(batch, raw, channels, active), dim=-1)
        apart = divergence(*self.vae.encode(interests, told))
        more = {"unchanged": _of_active(cosine, active), "informed": _of_active(apart, active)}
        return self.channels.diagnose(raw, routed) | more


def _of_active(values: Tensor, active: Tensor) -> Tensor:
    """Mean of (B, c) values over the active channels, 0 without any."""
    return torch.where(active, values, 0.0).sum() / active.sum().clamp(min=1)


CARDS = [
    Card(
        "diffumin-vae",
        DiffuMINVAE,
        DiffuMINVAEConfig,
        task="click",
        summary="DiffuMIN with interests from a conditional autoencoder instead of diffusion",
        paper=DIFFUMIN,
        presets={
            "paper": Preset(
                DiffuMINVAEConfig(aggregation="mean", scale="one", stop_gradient=False, position="none"),
                protocols.CLICK,
                "DiffuMIN's Table 4, which tells no size of the autoencoder; the rest as DiffuMIN's preset paper",
            ),
            "best": Preset(DiffuMINVAEConfig(), protocols.CLICK, "the same beside DiffuMIN's preset best"),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
