"""DiffuMIN: a target's interest channels, the behaviours of each, and for each an interest that diffusion adds.

W. Lai et al., "Modeling Long-term User Behaviors with Diffusion-driven Multi-interest Network for CTR Prediction",
RecSys 2025 (key `diffumin`). Eq., Sec., Algorithm, Table and Figure are that paper's. OMIE (Sec. 3.3) is
`core.behaviours.Channels`, CMIC (Sec. 3.5) `core.behaviours.Contrast`; DMIG (Sec. 3.4), whose network is
`core.behaviours.ViewDenoiser`, is here. Shapes: B samples, c channels, d dimensions, T noise levels, T' reverse steps.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffacet.core import diffusion, protocols
from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours import (
    Channels,
    ClickHead,
    Contrast,
    Fields,
    Routed,
    Router,
    ShortTerm,
    ViewDenoiser,
    click_loss,
    rescaled,
    settings,
)
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Preset, Search
from diffacet.core.papers import DIFFUMIN
from diffacet.errors import BadSetting

Variant = Literal["full", "A", "B", "C", "D", "E", "W", "X", "Y", "Z"]
"""Table 3: A the one channel is the target itself, B no aggregated interests in the prediction, C no contrast, D
neither diffusion nor contrast, E no short-term branch. Figure 2b: W no other interests as context, X no channel as
guide, Y neither, Z a start from pure noise."""


@dataclass(frozen=True, config=STRICT)
class DiffuMINConfig:
    """Settings of DiffuMIN; see presets for what is published."""

    dim: settings.Dim = 8
    channels: settings.ChannelCount = 4
    keep: settings.Percent = 20.0
    keep_count: settings.KeepCount = 100
    routing: settings.Route = "top-1"
    filter: settings.Keeps = "top-p"
    filter_scope: settings.KeepsOf = "routed"
    aggregation: settings.Pooling = "score-mean"
    decomposition: settings.Split = "qr"
    variant: Annotated[Variant, Field(description="ablations of Table 3 (A to E) and Figure 2b (W to Z)")] = "full"
    steps: Annotated[int, Field(ge=1, title="T", description="noise levels")] = 1000
    noise_min: Annotated[float, Field(gt=0, lt=1, title="β_1", description="variance of the first level")] = 1e-4
    noise_max: Annotated[float, Field(gt=0, lt=1, title="β_T", description="variance of the last level")] = 0.02
    sampling_steps: Annotated[
        int, Field(ge=1, title="T'", description="reverse steps (Eq. 19)"), Search(choices=(5, 10, 20, 50))
    ] = 20
    sampling_grad_steps: Annotated[
        int | None, Field(ge=1, description="last reverse steps that carry gradient; none: all of them")
    ] = None
    save_memory: Annotated[bool, Field(description="compute each reverse step again for its gradient")] = False
    start: Annotated[
        Literal["last", "anywhere", "gaussian"],
        Field(description="where sampling starts: at T', at a random level of 1..T (Algorithm 2), from pure noise"),
    ] = "last"
    train_levels: Annotated[
        Literal["all", "used"], Field(description="levels that the network is trained on: 1..T, or 1..T'")
    ] = "all"
    scale: settings.Length = "root-d"
    predicts: Annotated[
        Literal["noise", "released"],
        Field(description="the network's target; released: trained as the clean interest, used as noise, as the code"),
    ] = "noise"
    deviation: Annotated[
        Literal["beta", "posterior"],
        Field(title="σ_t", description="of a reverse step's noise: sqrt(β_t), or the posterior's"),
    ] = "beta"
    stop_gradient: Annotated[
        bool, Field(description="the diffusion loss trains the network alone, not interests and channels")
    ] = True
    output: Annotated[bool, Field(description="a linear layer behind the network's last normalisation")] = True
    layers: Annotated[int, Field(ge=1, title="L", description="blocks of the network and of the short-term branch")] = 2
    heads: settings.ShortHeads = 2
    temperature: settings.Temperature = 0.05
    diffusion_weight: settings.DiffusionWeight = 0.01
    contrast_weight: settings.ContrastWeight = 0.001
    same_user: settings.SameUser = False
    recent: settings.Recent = 50
    short: settings.Short = "transformer"
    position: settings.Order = "recency"
    hidden: settings.Hidden = (1024, 512, 256)
    normalise_logit: Annotated[bool, Field(description="batch normalisation on the log odds, as the code")] = False
    use_user_id: settings.UserId = True
    sampling_noise: Annotated[
        Literal["none", "seeded", "average"],
        Field(description="at inference: no noise; a draw by sample and noise_seed; or the mean log odds of `draws`"),
        INFERENCE,
    ] = "none"
    draws: Annotated[int, Field(ge=1, description='draws of sampling_noise "average"'), INFERENCE] = 4
    noise_seed: settings.NoiseSeed = 0

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if self.sampling_steps > self.steps:
            raise BadSetting(f"sampling_steps (T') lies in 1..steps={self.steps}; got {self.sampling_steps}")


class DiffuMIN(nn.Module):
    """The probability of a click from aggregated, generated and current interests, the target and the context."""

    def __init__(self, config: DiffuMINConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.fields = Fields(facts.click_fields(), c.dim, use_user_id=c.use_user_id)
        d, by_target = self.fields.width, c.variant == "A"
        self.channels = Channels(
            d,
            c.channels,
            Router(c.routing, c.filter, c.keep, c.keep_count, c.filter_scope),
            "mean" if by_target else c.aggregation,
            heads=c.heads,
            length=facts.length,
            decomposition=c.decomposition,
            by_target=by_target,
        )
        guided, context = c.variant not in ("X", "Y"), c.variant not in ("A", "W", "Y")
        self.network = (
            None
            if c.variant == "D"
            else ViewDenoiser(d, c.layers, c.heads, guided=guided, context=context, output=c.output)
        )
        self.schedule = diffusion.linear_beta(c.steps, 1.0, c.noise_min, c.noise_max)  # Eq. 11
        contrasted = c.variant not in ("C", "D") and c.contrast_weight > 0
        self.contrast = Contrast(d, c.temperature, same_user=c.same_user) if contrasted else None
        short = "none" if c.variant == "E" else c.short
        self.short = ShortTerm(d, c.recent, short, layers=c.layers, heads=c.heads, position=c.position)
        kinds = (c.variant != "B") + (self.network is not None)  # aggregated, augmented
        width = kinds * self.channels.count * d + self.short.width + d + self.fields.other_width
        self.head = ClickHead(width, c.hidden, normalise_logit=c.normalise_logit)

    def loss(self, batch: ClickBatch) -> dict[str, Tensor]:
        """The weighted terms of Eq. 24: click, diffusion (Eq. 18) and contrast (Eq. 20)."""
        c, target = self.config, self.fields.target(batch)
        raw, channels, routed = self.channels(self.fields, batch, target)
        terms: dict[str, Tensor] = {}
        generated = None
        if self.network is not None:
            interests = rescaled(raw, c.scale)
            terms["diffusion"] = c.diffusion_weight * self.diffusion_loss(interests, channels, routed.active)
            t0 = torch.randint(1, c.steps + 1, raw.shape[:2], device=raw.device)
            noise = diffusion.DrawnNoise(interests)
            generated = self.generate(interests, channels, routed.active, t0, noise[c.sampling_steps], noise)
            if self.contrast is not None:
                lost = self.contrast(interests, generated, routed.active, batch.user)
                terms["contrast"] = c.contrast_weight * lost
        logits = self.predict(raw, generated, *self.beside(batch, target))
        return {"click": click_loss(logits, batch.label), **terms}

    def logits(self, batch: ClickBatch) -> Tensor:
        """(B,) log odds; random only if `sampling_noise` says so, and then by sample and seed."""
        c, target = self.config, self.fields.target(batch)
        raw, channels, routed = self.channels(self.fields, batch, target)
        beside = self.beside(batch, target)
        if self.network is None:
            return self.predict(raw, None, *beside)
        draws = c.draws if c.sampling_noise == "average" else 1
        total = torch.zeros(len(batch), dtype=raw.dtype, device=raw.device)
        for draw in range(draws):
            total = total + self.predict(raw, self.answer(batch, raw, channels, routed, draw), *beside)
        return total / draws

    def answer(self, batch: ClickBatch, raw: Tensor, channels: Tensor, routed: Routed, draw: int = 0) -> Tensor:
        """The generated interests of inference, (B, c, d)."""
        c, interests = self.config, rescaled(raw, self.config.scale)
        if c.sampling_noise == "none":
            t0 = torch.full(raw.shape[:2], (c.steps + 1) // 2, device=raw.device)
            return self.generate(interests, channels, routed.active, t0, torch.zeros_like(raw), None)
        _, count, d = raw.shape
        noise = diffusion.KeyedNoise(batch.case, count, d, c.sampling_steps, c.noise_seed + draw)
        start = noise[c.sampling_steps].to(raw.dtype)
        return self.generate(interests, channels, routed.active, noise.level(c.steps), start, noise)

    def noised(self, interests: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """(B, c, d) at levels (B, c) (Eq. 12)."""
        flat, added = interests.flatten(0, 1), noise.flatten(0, 1)
        return diffusion.forward_noise(flat, t.flatten(), added, self.schedule).view_as(interests)

    def diffusion_loss(self, interests: Tensor, channels: Tensor, active: Tensor) -> Tensor:
        """Mean over active channels and coordinates of (noise - predicted noise)^2 (Algorithm 1, Eq. 18)."""
        c, network = self.config, self.network
        assert network is not None
        if c.stop_gradient:
            interests, channels = interests.detach(), channels.detach()
        most = c.steps if c.train_levels == "all" else c.sampling_steps
        t = torch.randint(1, most + 1, interests.shape[:2], device=interests.device)
        noise = torch.randn_like(interests)
        found = network(self.noised(interests, t, noise), t, network.read(interests, active, channels))
        lost = (found - (noise if c.predicts == "noise" else interests)).square().mean(-1)
        return torch.where(active, lost, 0.0).sum() / active.sum().clamp(min=1)

    def generate(
        self,
        interests: Tensor,
        channels: Tensor,
        active: Tensor,
        t0: Tensor,
        start: Tensor,
        noise: diffusion.Noise | None,
    ) -> Tensor:
        """T' reverse steps (Algorithm 2, Eq. 13 and 19), (B, c, d); 0 in channels that got nothing.

        t0 (B, c) is the level of start="anywhere"; start (B, c, d) its noise; entry t - 1 of `noise` is level t's.
        """
        c, network, schedule = self.config, self.network, self.schedule
        assert network is not None
        around = network.read(interests, active, channels)

        def predicted(x: Tensor, t: Tensor) -> Tensor:
            levels = t[:1].unsqueeze(1)  # the same for all
            if c.save_memory and torch.is_grad_enabled():
                return checkpoint(network, x, levels, around, use_reentrant=False, preserve_rng_state=False)
            return network(x, levels, around)

        denoise = diffusion.x0_from_eps(predicted, schedule)
        spread = (schedule.beta if c.deviation == "beta" else diffusion.posterior_tables(schedule)[2]).sqrt()
        spread[1] = 0.0  # nothing is added to the last step's mean
        level = t0 if c.start == "anywhere" else torch.full_like(t0, c.sampling_steps)
        pure = c.variant == "Z" or c.start == "gaussian"
        x = start if pure else self.noised(interests, level, start)
        first = c.sampling_steps
        if c.sampling_grad_steps is not None and c.sampling_grad_steps < first:
            with torch.no_grad():
                last = c.sampling_grad_steps
                x = diffusion.descend(denoise, x, schedule, noise=noise, spread=spread, start=first, stop=last)
                first = last
        x = diffusion.descend(denoise, x, schedule, noise=noise, spread=spread, start=first)
        return torch.where(active.unsqueeze(-1), x, 0.0)

    def beside(self, batch: ClickBatch, target: Tensor) -> tuple[Tensor, ...]:
        """What the prediction reads beside long-term interests: the short-term one, target (B, d), further fields."""
        return self.short(self.fields, batch, target), target, self.fields.other(batch)

    def predict(self, raw: Tensor, generated: Tensor | None, *beside: Tensor) -> Tensor:
        """(B,) log odds out of all that was found (Eq. 22)."""
        aggregated = () if self.config.variant == "B" else (raw,)
        return self.head(*aggregated, *(() if generated is None else (generated,)), *beside)

    def diagnose(self, batch: ClickBatch) -> dict[str, Tensor]:
        """Signs of collapse: what channels got, how alike interests are, what diffusion did, what moves channels."""
        raw, channels, routed = self.channels(self.fields, batch, self.fields.target(batch))
        found = self.channels.diagnose(raw, routed)
        if self.network is not None:
            cosine = functional.cosine_similarity(raw, self.answer(batch, raw, channels, routed), dim=-1)
            found["unchanged"] = torch.where(routed.active, cosine, 0.0).sum() / routed.active.sum().clamp(min=1)
        return found


_PAPER = DiffuMINConfig(
    aggregation="mean", start="anywhere", scale="one", stop_gradient=False, output=False, position="none"
)
_RELEASED = DiffuMINConfig(
    filter="top-k",
    filter_scope="column",
    aggregation="released",
    start="anywhere",
    scale="one",
    sampling_steps=10,
    predicts="released",
    deviation="posterior",
    stop_gradient=False,
    output=False,
    position="none",
    same_user=True,
    normalise_logit=True,
)

CARDS = [
    Card(
        "diffumin",
        DiffuMIN,
        DiffuMINConfig,
        task="click",
        summary="interest channels of the target, each with a generated interest beside the aggregated one",
        paper=DIFFUMIN,
        presets={
            "paper": Preset(_PAPER, protocols.CLICK, "Sec. 3 and 4.1.4 read literally, gaps filled from the code"),
            "released": Preset(
                _RELEASED,
                protocols.CLICK,
                "the authors' code where it is well defined, with both auxiliary losses, which it never adds; top 100 "
                "of a channel's column, without padding; not its short-term branch that runs the diffusion's blocks, "
                "nor Dice's decay of 0.999, nor its optimisers and zero embeddings",
            ),
            "best": Preset(
                DiffuMINConfig(),
                protocols.CLICK,
                "the equations with the start, scale, weights and output that they call for",
            ),
        },
        batch=ClickBatch,
        search=protocols.CLICK_SEARCH,
    ),
]
