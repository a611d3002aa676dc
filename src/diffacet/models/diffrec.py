"""DiffRec: a user's row over the whole catalogue, corrupted a little and rebuilt; T-DiffRec: the same of weighted rows.

W. Wang et al., "Diffusion Recommender Model", SIGIR 2023 (key `diffrec`). Eq., Sec. and Table are that paper's;
what it leaves open follows its code.
Shapes: B users, N items, T steps, n entries of a batch's rows, h width of the outer hidden layers.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet import seeds
from diffacet.core import diffrec_settings, diffusion, importance, profiles
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import STRICT, Card, Facts, OldestWeight, Preset, Search
from diffacet.core.denoisers import ProfileMLP
from diffacet.core.papers import DIFFREC
from diffacet.core.profiles import Profiles
from diffacet.core.protocols import PROFILES, PROFILES_SEARCH
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class DiffRecConfig:
    """Settings of DiffRec and T-DiffRec; the defaults are those recommended for new data."""

    dims: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(min_length=1, description="hidden sizes m_1, ..., m_n of N -> m_n -> ... -> m_1 -> ... -> m_n -> N"),
        Search(choices=((300,), (200, 600), (1000,))),
    ] = (200, 600)
    emb_size: diffrec_settings.EmbSize = 10
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout of x_t, in training"), Search(0.3, 0.8)] = 0.5
    steps: Annotated[
        int, Field(ge=2, title="T", description="diffusion steps"), Search(choices=(2, 5, 10, 40, 100))
    ] = 5
    schedule: diffrec_settings.Schedule = "linear-var"
    noise_scale: diffrec_settings.NoiseScale = 0.005
    noise_min: diffrec_settings.NoiseMin = 0.005
    noise_max: diffrec_settings.NoiseMax = 0.01
    first_beta: diffrec_settings.FirstBeta = 1e-5
    predicts: Annotated[
        Literal["x0", "eps"], Field(description="what the network predicts: x0-ELBO or ε-ELBO (Table 5)")
    ] = "x0"
    eps_weight: Annotated[
        Literal["code", "none"], Field(description="weight of the ε-ELBO's terms: the paper's code's, or none")
    ] = "code"
    reweight: diffrec_settings.Reweight = True
    importance: diffrec_settings.Importance = True
    shared_noise: Annotated[
        int | None,
        Field(ge=1, description="noise vectors of a batch, shared by its users up to sign; none: one a user"),
    ] = None
    oldest_weight: OldestWeight = 1.0
    sampling_steps: diffrec_settings.SamplingSteps = 0
    sampling_noise: diffrec_settings.SamplingNoise = False
    noise_seed: diffrec_settings.NoiseSeed = 0


class DiffRec(nn.Module):
    """x_0 -> x_T', then T denoising steps; the last estimate ranks the items (Sec. 3.2-3.4)."""

    def __init__(self, config: DiffRecConfig, facts: Facts) -> None:
        """Raises BadSetting when T' exceeds T, or for bounds of the noise that make no schedule."""
        super().__init__()
        c = self.config = config
        if c.sampling_steps > c.steps:
            raise BadSetting(f"sampling_steps lies in 0..T = {c.steps}; got {c.sampling_steps}")
        self.n_items = facts.n_items
        self.schedule = diffusion.named(c.schedule, c.steps, c.noise_scale, c.noise_min, c.noise_max, c.first_beta)
        self.net = ProfileMLP(facts.n_items, c.dims, emb_size=c.emb_size, bias_std=0.001)
        self.history = importance.LossHistory(c.steps, importance=c.importance)
        weight = importance.elbo_weight(self.schedule)
        if c.predicts == "eps":
            weight = importance.eps_elbo_weight(self.schedule, c.eps_weight)
        self.register_buffer("weight", weight if c.reweight else torch.ones_like(weight), persistent=False)
        self._folded: tuple[Tensor, Tensor] | None = None

    weight: Tensor

    def loss(self, batch: ProfileBatch) -> dict[str, Tensor]:
        """The bound of Eq. 10-12: the weighted error of one step a user, by importance sampling (Algorithm 1)."""
        x = profiles.read(batch.history, self.config.oldest_weight, self.net.first.weight.dtype)
        t, share = self.history.draw(x.users, x.row.device)  # (B,), and 1 / (T p_t)
        if self.config.predicts == "eps":
            noise = torch.randn(x.users, self.n_items, device=x.row.device, dtype=x.value.dtype)
            guess = self.net.last(self.net.hidden(self._corrupted(x, t, noise), t))
            error = (noise - guess).square().mean(1)
        else:
            shared = self.config.shared_noise is not None
            read = self._corrupted_together(x, t) if shared else self._corrupted(x, t, None)
            error = profiles.squared_error_of(self.net.hidden(read, t), self.net.last, x)
        weighted = self.weight[t] * error
        self.history.record(t, weighted)
        return {"elbo": (weighted * share).mean().to(error.dtype)}

    def _corrupted(self, x: Profiles, t: Tensor, noise: Tensor | None) -> Tensor:
        """What the first layer makes of dropout(x_t), (B, h); x_t by Eq. 1, which noise makes dense."""
        first, p = self.net.first, self.config.dropout
        if not self.schedule.noise_level.any() and noise is None:
            return first(x.thinned(p, self.training))
        signal, level = self.schedule.alpha_bar[t].sqrt(), self.schedule.noise_level[t].sqrt()
        rows = torch.randn(x.users, self.n_items, device=t.device, dtype=x.value.dtype) if noise is None else noise
        rows = rows * level.to(x.value.dtype).unsqueeze(1)
        place = x.row * self.n_items + x.item - 1
        rows.view(-1).index_add_(0, place, x.value * signal.to(x.value.dtype)[x.row])
        return first.dense(functional.dropout(rows, p, self.training))

    def _corrupted_together(self, x: Profiles, t: Tensor) -> Tensor:
        """The same with G noise vectors for all users: user b takes one of them, with a random sign.

        What a user gets has the law of Eq. 1 and of dropout, to the letter: at the user's own items dropout is the
        user's, and the shared vector is corrected there. Only users of one batch depend on each other, so the
        gradient has the same expectation, at the cost of G dense rows instead of B.
        """
        first, p, dtype = self.net.first, self.config.dropout, x.value.dtype
        groups = min(self.config.shared_noise or 1, x.users)
        signal, level = self.schedule.alpha_bar[t].sqrt().to(dtype), self.schedule.noise_level[t].sqrt().to(dtype)
        noise = torch.randn(groups, self.n_items, device=t.device, dtype=dtype)
        kept = functional.dropout(torch.ones_like(noise), p, self.training)
        group = torch.arange(x.users, device=t.device) % groups
        sign = torch.randint(0, 2, (x.users,), device=t.device).to(dtype) * 2 - 1
        own = functional.dropout(torch.ones_like(x.value), p, self.training)  # (n,)
        there = group[x.row], x.item - 1
        factor = sign * level  # (B,)
        value = own * x.value * signal[x.row] + factor[x.row] * noise[there] * (own - kept[there])
        spread = (noise * kept) @ first.weight  # (G, h)
        return first(replace(x, value=value)) + factor.unsqueeze(1) * spread[group]

    def interests(self, history: Histories) -> Tensor:
        """(B, 1, h + 1): the last hidden layer at step 1 of the reverse chain (Algorithm 2).

        The chain is linear in x_t but for the hidden layers, so it is walked where the first layer puts it: each
        step costs h^2 instead of 2 N h, and no row over the catalogue is made unless noise is asked for.
        """
        hidden: list[Tensor] = []

        def denoise(state: Tensor, t: Tensor) -> Tensor:
            hidden[:] = [self.net.hidden(state + self.net.first.bias, t)]
            matrix, offset = self._fold()  # from the last layer back to the first
            return torch.addmm(offset, hidden[0], matrix)

        self._walk(history, denoise)
        return profiles.interest(hidden[0])

    def catalogue(self) -> Tensor:
        """(N + 1, h + 1): weights and bias of the last layer; row 0 is padding."""
        return self.net.last.catalogue()

    def _walk(self, history: Histories, denoise: diffusion.Denoise) -> Tensor:
        """The reverse chain from x_T' on, in the space of the first layer: (B, h)."""
        c, first = self.config, self.net.first
        x = profiles.read(history, c.oldest_weight, first.weight.dtype)
        state = first(x) - first.bias
        if c.sampling_steps:
            t = torch.full((x.users,), c.sampling_steps, device=x.row.device)
            state = diffusion.forward_noise(state, t, self.noise(history, 0) @ first.weight, self.schedule)
        noise = None
        if c.sampling_noise:
            noise = torch.stack([self.noise(history, step) @ first.weight for step in range(1, c.steps + 1)])
        return diffusion.ancestral(denoise, state, self.schedule, noise=noise)

    def noise(self, history: Histories, purpose: int) -> Tensor:
        """Standard normal rows of the cases, (B, N); each purpose has its own."""
        seed = seeds.number(self.config.noise_seed, "diffrec", purpose)
        return diffusion.case_noise(history.case, (self.n_items,), seed).to(self.net.first.weight.dtype)

    def _fold(self) -> tuple[Tensor, Tensor]:
        """The last layer followed by the first one, (h, h) and (h,); made once for all histories."""
        if self._folded is None or self._folded[0].dtype != self.net.first.weight.dtype:
            first, last = self.net.first.weight, self.net.last
            with torch.inference_mode(False), torch.no_grad():  # so that it serves any later caller
                self._folded = last.weight.T @ first, last.bias @ first
        return self._folded

    def train(self, mode: bool = True) -> "DiffRec":
        """Training or evaluation; what was made of the weights is forgotten, since they may change."""
        self._folded = None
        return super().train(mode)


class NoisePredictor(nn.Module):
    """DiffRec whose network predicts the noise (Table 5): the estimate of x_0 then holds x_t, so it is a Scorer."""

    def __init__(self, config: DiffRecConfig, facts: Facts) -> None:
        """See `DiffRec`."""
        super().__init__()
        self.inner = DiffRec(config, facts)

    def loss(self, batch: ProfileBatch) -> dict[str, Tensor]:
        """See `DiffRec.loss`."""
        return self.inner.loss(batch)

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1): the reverse chain over whole rows."""
        c, schedule, net = self.inner.config, self.inner.schedule, self.inner.net
        x = profiles.read(history, c.oldest_weight, net.first.weight.dtype).dense(self.inner.n_items)
        if c.sampling_steps:
            t = torch.full((len(x),), c.sampling_steps, device=x.device)
            x = diffusion.forward_noise(x, t, self.inner.noise(history, 0), schedule)
        noise = None
        if c.sampling_noise:
            noise = torch.stack([self.inner.noise(history, step) for step in range(1, c.steps + 1)])
        rebuilt = diffusion.ancestral(diffusion.x0_from_eps(net, schedule), x, schedule, noise=noise)
        return functional.pad(rebuilt, (1, 0))


def build(config: DiffRecConfig, facts: Facts) -> nn.Module:
    """The form that the settings ask for."""
    return DiffRec(config, facts) if config.predicts == "x0" else NoisePredictor(config, facts)


_ML = DiffRecConfig(steps=40, noise_scale=0.005, noise_min=0.005, noise_max=0.01)
_BEST = replace(PROFILES, lr=3e-4)
_SHARED = DiffRecConfig(shared_noise=16)
_RELEASED = {  # the settings in the names of the released checkpoints
    "paper": Preset(_ML, PROFILES, "ML-1M, clean training: released settings"),
    "paper-noisy": Preset(
        DiffRecConfig(noise_scale=0.5, noise_min=0.001), PROFILES, "ML-1M, natural noise: released settings"
    ),
    "paper-amazon-book": Preset(
        DiffRecConfig(dims=(1000,), noise_scale=1e-4, noise_min=5e-4, noise_max=0.005),
        replace(PROFILES, lr=5e-5),
        "Amazon-book, clean training: released settings",
    ),
    "paper-amazon-book-noisy": Preset(
        DiffRecConfig(dims=(1000,), steps=10, noise_min=1e-4, noise_max=5e-4),
        replace(PROFILES, lr=5e-5),
        "Amazon-book, natural noise: released settings",
    ),
    "paper-yelp": Preset(
        DiffRecConfig(dims=(1000,), noise_scale=0.01, noise_min=0.001),
        replace(PROFILES, lr=1e-5),
        "Yelp, clean training: released settings",
    ),
    "paper-yelp-noisy": Preset(
        DiffRecConfig(dims=(1000,), noise_scale=0.001, noise_min=5e-4),
        replace(PROFILES, lr=1e-5),
        "Yelp, natural noise: released settings",
    ),
}
_TIMED = {
    "paper": Preset(
        replace(_ML, oldest_weight=0.1), PROFILES, "DiffRec's for ML-1M with w_min of Sec. 4.1.3; none was released"
    ),
    "paper-amazon-book": Preset(
        DiffRecConfig(dims=(1000,), steps=10, noise_scale=5e-4, noise_min=0.001, noise_max=0.005, oldest_weight=0.1),
        replace(PROFILES, lr=1e-5),
        "Amazon-book: released settings",
    ),
    "paper-yelp": Preset(
        DiffRecConfig(dims=(1000,), noise_scale=0.005, noise_min=0.001, oldest_weight=0.5),
        replace(PROFILES, lr=1e-5),
        "Yelp: released settings",
    ),
}

CARDS = [
    Card(
        "diffrec",
        build,
        DiffRecConfig,
        task="collaborative",
        summary="a user's row over all items, slightly corrupted and rebuilt by a denoising MLP",
        paper=DIFFREC,
        presets={
            **_RELEASED,
            "recommended": Preset(DiffRecConfig(), _BEST, "ML-1M: a lower rate and fewer steps than released"),
            "best": Preset(_SHARED, _BEST, "as recommended, with noise shared; 9 settings on validation of ML-1M"),
        },
        batch=ProfileBatch,
        search=PROFILES_SEARCH,
    ),
    Card(
        "t-diffrec",
        build,
        DiffRecConfig,
        task="collaborative",
        summary="DiffRec on rows whose items weigh more the later they came",
        paper=DIFFREC,
        presets={
            **_TIMED,
            "best": Preset(replace(_SHARED, oldest_weight=0.1), _BEST, "DiffRec's, with w_min of Sec. 4.1.3"),
        },
        batch=ProfileBatch,
        search=PROFILES_SEARCH,
    ),
]
