"""L-DiffRec: DiffRec in the latent space of variational auto-encoders, one for each cluster of items; LT-DiffRec.

W. Wang et al., "Diffusion Recommender Model", SIGIR 2023 (key `diffrec`). Eq., Sec. and Table are that paper's;
what it leaves open follows its code. LT-DiffRec is the same of rows whose items weigh more the later they came.
Shapes: B users, N items, C clusters of N_c items, d latent dimensions of which d_c are of cluster c, T steps.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import diffrec_settings, diffusion, importance, profiles
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.clusters import Activation, ClusterDecoders, ClusterEncoders, Decoder, members
from diffacet.core.contract import STRICT, Card, Facts, OldestWeight, Pace, Preset, Search
from diffacet.core.denoisers import ProfileMLP
from diffacet.core.papers import DIFFREC
from diffacet.core.protocols import PROFILES, PROFILES_SEARCH
from diffacet.errors import BadSetting

Sizes = tuple[Annotated[int, Field(ge=1)], ...]


@dataclass(frozen=True, config=STRICT)
class LDiffRecConfig:
    """Settings of L-DiffRec and LT-DiffRec; the defaults are those recommended for new data."""

    clusters: Annotated[
        int,
        Field(ge=1, title="C", description="clusters of items, each with an encoder; 1: a plain auto-encoder"),
        Search(choices=(1, 2, 3, 4, 5)),
    ] = 2
    latent: Annotated[int, Field(ge=1, title="d", description="width of the latent, of all clusters together")] = 300
    in_dims: Annotated[
        Sizes, Field(description="hidden sizes of the encoders, those next to the latent first; shared by clusters")
    ] = ()
    out_dims: Annotated[Sizes, Field(description="hidden sizes of the decoder, those next to the latent first")] = ()
    decoders: Annotated[
        Literal["shared", "separate"],
        Field(description="one decoder of the whole latent, as in every released run; or one for each cluster"),
    ] = "shared"
    activation: Annotated[Activation, Field(description="after hidden layers of encoders and decoders")] = "tanh"
    latent_activation: Annotated[Activation, Field(description="of mean and log variance")] = "tanh"
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="share of a row's items that the encoders do not see, in training")
    ] = 0.1
    recon_target: Annotated[
        Literal["dropped", "clean"], Field(description="what is rebuilt: the row after dropout, or before it")
    ] = "dropped"
    dims: Annotated[
        Sizes,
        Field(min_length=1, description="hidden sizes m_1, ..., m_n of d -> m_n -> ... -> m_1 -> ... -> m_n -> d"),
    ] = (300,)
    emb_size: diffrec_settings.EmbSize = 10
    denoiser_dropout: Annotated[float, Field(ge=0, lt=1, description="dropout of z_t, in training")] = 0.5
    denoiser_rate: Annotated[
        float,
        Field(gt=0, title="lr_2 / lr", description="learning rate of the denoiser, as a share of lr"),
        Search(0.05, 1.0, log=True),
    ] = 0.5
    steps: Annotated[
        int,
        Field(ge=2, title="T", description="diffusion steps; reweighted, λ counts the more the fewer they are"),
        Search(choices=(2, 5, 10, 40, 100)),
    ] = 40
    schedule: diffrec_settings.Schedule = "linear-var"
    noise_scale: diffrec_settings.NoiseScale = 0.005
    noise_min: diffrec_settings.NoiseMin = 0.005
    noise_max: diffrec_settings.NoiseMax = 0.02
    reweight: diffrec_settings.Reweight = True
    importance: diffrec_settings.Importance = True
    diffusion_weight: Annotated[
        float,
        Field(ge=0, title="λ", description="weight of the diffusion loss in the first epoch (Sec. 3.5.1)"),
        Search(choices=(0.01, 0.02, 0.03, 0.05, 0.07)),
    ] = 0.03
    diffusion_epochs: Annotated[int, Field(ge=1, description="epochs in which that weight would fall to 0")] = 500
    diffusion_floor: Annotated[float, Field(ge=0, description="where it stops falling")] = 0.005
    kl_weight: Annotated[
        float,
        Field(ge=0, title="γ", description="weight of the KL term at last"),
        Search(choices=(0.0, 0.1, 0.3, 0.5, 0.7)),
    ] = 0.3
    kl_steps: Annotated[
        int, Field(ge=0, description="batches in which that weight would rise to 1; 0: all of it at once")
    ] = 200
    oldest_weight: OldestWeight = 1.0
    sampling_steps: diffrec_settings.SamplingSteps = 0
    sampling_noise: diffrec_settings.SamplingNoise = False
    noise_seed: diffrec_settings.NoiseSeed = 0


class LDiffRec(nn.Module):
    """Row -> latent -> T denoising steps -> scores of all items (Sec. 3.5.1)."""

    weight: Tensor

    def __init__(self, config: LDiffRecConfig, facts: Facts) -> None:
        """Raises BadSetting when T' exceeds T, for noise that makes no schedule, and for clusters that do not fit."""
        super().__init__()
        c = self.config = config
        if c.sampling_steps > c.steps:
            raise BadSetting(f"sampling_steps lies in 0..T = {c.steps}; got {c.sampling_steps}")
        groups = members(facts, c.clusters)
        self.encode = ClusterEncoders(groups, c.latent, c.in_dims, c.activation, c.latent_activation)
        self.decode: Decoder | ClusterDecoders
        if c.decoders == "shared":
            self.decode = Decoder(facts.n_items, c.latent, c.out_dims, c.activation)
        else:
            self.decode = ClusterDecoders(groups, self.encode.latents, c.out_dims, c.activation)
        self.denoiser = ProfileMLP(c.latent, c.dims, emb_size=c.emb_size, dropout=c.denoiser_dropout)
        self.schedule = diffusion.named(c.schedule, c.steps, c.noise_scale, c.noise_min, c.noise_max)
        self.history = importance.LossHistory(c.steps, importance=c.importance)
        weight = importance.elbo_weight(self.schedule)
        self.register_buffer("weight", weight if c.reweight else torch.ones_like(weight), persistent=False)

    def paces(self) -> list[Pace]:
        """The denoiser has a learning rate of its own."""
        return [Pace(("denoiser.",), rate=self.config.denoiser_rate)]

    def loss(self, batch: ProfileBatch) -> dict[str, Tensor]:
        """The weighted terms of Eq. 16: the error of one denoising step, and the bound of the auto-encoders.

        What is decoded is the denoised latent, as when ranking, so reconstruction trains all three parts; and the
        diffusion loss trains the encoders, since the latent is not detached.
        """
        c = self.config
        x = profiles.read(batch.history, c.oldest_weight, self.denoiser.step_in.dtype)
        dropped = x.thinned(c.dropout, self.training)
        mean, log_variance = self.encode(dropped)
        z0 = mean + (log_variance / 2).exp() * torch.randn_like(mean)  # (B, d)
        t, share = self.history.draw(x.users, mean.device)  # (B,), and 1 / (T p_t)
        rebuilt = self.denoiser(diffusion.forward_noise(z0, t, torch.randn_like(z0), self.schedule), t)
        error = self.weight[t] * (z0 - rebuilt).square().mean(1)  # (B,) float64
        self.history.record(t, error)
        target = dropped if c.recon_target == "dropped" else x
        return {
            "diffusion": self.diffusion_weight(batch.epoch) * (error * share).mean().to(z0.dtype),
            "reconstruction": profiles.multinomial(self.decode(rebuilt), target),
            "kl": self.kl_weight(batch.step) * profiles.kl_standard(mean, log_variance),
        }

    def diffusion_weight(self, epoch: int) -> float:
        """λ in the 0-based epoch: it falls evenly, and never below its floor."""
        c = self.config
        return max((1 - epoch / c.diffusion_epochs) * c.diffusion_weight, c.diffusion_floor)

    def kl_weight(self, step: int) -> float:
        """γ in the 0-based step: it rises evenly from 0 to its cap."""
        c = self.config
        return min(c.kl_weight, step / c.kl_steps) if c.kl_steps else c.kl_weight

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, h + 1): the last hidden vector of the decoder, after the reverse chain from the latent's mean."""
        c = self.config
        x = profiles.read(history, c.oldest_weight, self.denoiser.step_in.dtype)
        z, _ = self.encode(x)
        noise = None
        if c.sampling_steps or c.sampling_noise:
            # The first of T + 1 draws starts the chain; the others are its reverse noise, if it has any.
            shape = (c.steps + 1 if c.sampling_noise else 1, c.latent)
            drawn = diffusion.case_noise(history.case, shape, c.noise_seed).to(z.dtype).transpose(0, 1)
            noise = drawn[1:] if c.sampling_noise else None
            t = torch.full_like(history.case, c.sampling_steps)
            z = diffusion.forward_noise(z, t, drawn[0], self.schedule)
        return profiles.interest(self.decode.hidden(diffusion.ancestral(self.denoiser, z, self.schedule, noise=noise)))

    def catalogue(self) -> Tensor:
        """(N + 1, h + 1): what the decoder's last hidden vector and a 1 are multiplied with; row 0 is padding."""
        return self.decode.catalogue()


_ML = LDiffRecConfig()
_BEST = replace(PROFILES, patience=7)  # 40 epochs
_SLOW = replace(PROFILES, lr=5e-4)
_AMAZON = LDiffRecConfig(
    steps=5, denoiser_rate=0.2, noise_scale=0.5, noise_min=0.001, noise_max=0.005, diffusion_weight=0.05
)
_YELP = LDiffRecConfig(steps=5, denoiser_rate=0.2, noise_scale=0.01, noise_max=0.01)
_LATENT = {
    "paper": Preset(_ML, PROFILES, "ML-1M, clean training: released settings"),
    "paper-noisy": Preset(replace(_ML, steps=100), PROFILES, "ML-1M, natural noise: released settings"),
    "paper-amazon-book": Preset(_AMAZON, _SLOW, "Amazon-book, clean training: released settings"),
    "paper-amazon-book-noisy": Preset(
        replace(_AMAZON, diffusion_weight=0.07), _SLOW, "Amazon-book, natural noise: the name of the checkpoint"
    ),
    "paper-yelp": Preset(_YELP, _SLOW, "Yelp, clean training: released settings"),
    "paper-yelp-noisy": Preset(_YELP, _SLOW, "Yelp, natural noise: released settings"),
    "best": Preset(
        replace(_ML, kl_weight=0.1),
        _BEST,
        "as paper, with less KL and more patience: 6 settings on validation of ML-1M",
    ),
}
_TIMED = {
    "paper": Preset(
        replace(_ML, oldest_weight=0.1), PROFILES, "L-DiffRec's for ML-1M with w_min of Sec. 4.1.3; none was released"
    ),
    "paper-amazon-book": Preset(
        replace(_AMAZON, diffusion_weight=0.03, noise_scale=0.7, oldest_weight=0.1),
        _SLOW,
        "Amazon-book: released settings",
    ),
    "paper-yelp": Preset(
        replace(_YELP, denoiser_rate=0.1, oldest_weight=0.5),
        replace(_SLOW, batch_size=200),
        "Yelp: released settings",
    ),
    "best": Preset(
        replace(_ML, kl_weight=0.1, oldest_weight=0.1), _BEST, "L-DiffRec's, with w_min = 0.1; no other was tried"
    ),
}

CARDS = [
    Card(
        "l-diffrec",
        LDiffRec,
        LDiffRecConfig,
        task="collaborative",
        summary="DiffRec in the latent space of one variational auto-encoder for each cluster of items",
        paper=DIFFREC,
        presets=_LATENT,
        batch=ProfileBatch,
        search=PROFILES_SEARCH,
    ),
    Card(
        "lt-diffrec",
        LDiffRec,
        LDiffRecConfig,
        task="collaborative",
        summary="L-DiffRec on rows whose items weigh more the later they came",
        paper=DIFFREC,
        presets=_TIMED,
        batch=ProfileBatch,
        search=PROFILES_SEARCH,
    ),
]
