"""DreamRec: a guided diffusion generates the vector of the next item from noise, and no negative is ever seen.

Z. Yang et al., "Generate What You Prefer: Reshaping Sequential Recommendation via Guided Diffusion", NeurIPS 2023 (key
`dreamrec`), in the form of its code. Not copied from it: dropout while evaluating, padding among the candidates, a tail
of cases left out, no selection on validation; and the encoder is SASRec's block as this project has it.
Shapes: B users, L history items, N items, R samples, T steps, d dimensions.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet import seeds
from diffacet.core import diffusion, objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Preset, Search
from diffacet.core.encoders import CausalTransformer
from diffacet.core.layers import ItemTable, linear
from diffacet.core.papers import DREAMREC
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class DreamRecConfig:
    """Settings of DreamRec; the defaults are those published for YooChoose."""

    dim: Annotated[int, Field(ge=4, title="d", description="width of all vectors; even")] = 64
    steps: Annotated[int, Field(ge=1, title="T", description="diffusion steps")] = 500
    schedule: Annotated[
        diffusion.Published,
        Field(description="variances of the chain"),
        Search(choices=("linear", "exp", "cosine", "sqrt")),
    ] = "exp"
    denoiser: Annotated[
        Literal["mlp1", "mlp2"], Field(description="one linear layer (all published runs), or two with GELU between")
    ] = "mlp1"
    unconditional: Annotated[
        float, Field(ge=0, le=1, title="p_u", description="share of training pairs whose history is hidden")
    ] = 0.1
    dropout: Annotated[float, Field(ge=0, lt=1, description="of the encoder"), Search(0.0, 0.5)] = 0.1
    guidance: Annotated[
        float,
        Field(ge=0, title="w", description="how far estimates move away from those without a history; 0: not at all"),
        Search(0.0, 10.0),
        INFERENCE,
    ] = 2.0
    samples: Annotated[
        int, Field(ge=1, title="R", description="vectors generated for a user; the best one scores"), INFERENCE
    ] = 1
    denoise_steps: Annotated[
        int | None,
        Field(ge=1, description="DDIM steps without noise; none: all T steps with the posterior's noise"),
        INFERENCE,
    ] = None
    noise_seed: Annotated[int, Field(ge=0, description="of the noise that inference draws"), INFERENCE] = 0

    def __post_init__(self) -> None:
        """Checks that involve two settings, or more than a bound; raises BadSetting."""
        if self.dim % 2:
            raise BadSetting(f"dim is even, for sines and cosines of the step; got {self.dim}")
        if self.denoise_steps is not None and self.denoise_steps > self.steps:
            raise BadSetting(f"denoise_steps lies in 1..steps; got {self.denoise_steps} with steps={self.steps}")


class Denoiser(nn.Module):
    """f(x_t, c, t): [x_t ; c ; tau(t)] through a linear layer 3d -> d, or through two, 3d -> 2d, GELU, 2d -> d.

    tau(t) = W_2 GELU(W_1 wave(t - 1) + b_1) + b_2, 2d wide inside. The first layer is a sum of three products: what a
    history adds is computed once and not at every step, and what a step adds once and not for every history.
    """

    def __init__(self, dim: int, *, deep: bool) -> None:
        """Width d; `deep`: two layers. All start Xavier-uniform with zero biases."""
        super().__init__()
        self.dim = dim
        self.step_in, self.step_out = linear(dim, 2 * dim), linear(2 * dim, dim)
        self.first = linear(3 * dim, 2 * dim if deep else dim)
        self.second = linear(2 * dim, dim) if deep else None

    def of_history(self, condition: Tensor) -> Tensor:
        """Condition c (..., d) -> what it adds to the first layer, (..., h), the bias included."""
        return functional.linear(condition, self._part(1), self.first.bias)

    def of_step(self, t: Tensor) -> Tensor:
        """(n,) steps 1..T -> what they add to the first layer, (n, h). The code counts steps from 0."""
        inner = functional.gelu(self.step_in(wave(t - 1, self.dim).to(self.step_in.weight.dtype)))
        return functional.linear(self.step_out(inner), self._part(2))

    def forward(self, xt: Tensor, history: Tensor, step: Tensor) -> Tensor:
        """x_t (..., d) and what was added by `of_history` and `of_step`, which broadcast -> x_0 (..., d)."""
        hidden = functional.linear(xt, self._part(0)) + (history + step)
        return hidden if self.second is None else self.second(functional.gelu(hidden))

    def _part(self, which: int) -> Tensor:
        return self.first.weight[:, which * self.dim : (which + 1) * self.dim]


def wave(t: Tensor, dim: int) -> Tensor:
    """(n,) -> (n, d) float64: sines, then cosines, of t * 10000^(-j / (d/2 - 1)), j = 0, ..., d/2 - 1."""
    half = dim // 2
    j = torch.arange(half, device=t.device, dtype=torch.float64)
    angle = t.to(torch.float64).unsqueeze(-1) * torch.exp(-math.log(10_000) / max(half - 1, 1) * j)
    return torch.cat([angle.sin(), angle.cos()], -1)


class DreamRec(nn.Module):
    """x_0, the next item's vector, from x_T by f(x_t, c, t), with c the encoded history, or Phi where it is hidden."""

    def __init__(self, config: DreamRecConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        # As wide as the noise: with shorter vectors little of the target is left after the first steps.
        self.items = ItemTable(facts.n_items, c.dim, deviation=1.0)
        self.nothing = nn.Parameter(torch.randn(c.dim))  # Phi
        self.encoder = CausalTransformer(c.dim, facts.length, layers=1, heads=1, dropout=c.dropout, scale=False)
        self.denoiser = Denoiser(c.dim, deep=c.denoiser == "mlp2")
        self.schedule = diffusion.published(c.schedule, c.steps)

    def encode(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B, L, d) and its mask -> c (B, d), the state at the last item; 0 without any."""
        return self.encoder.last(embedded, mask)

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Mean over pairs and coordinates of (e_a - x_0)^2; nothing is detached, so items move towards estimates."""
        c = self.config
        embedded, target = self.items.rows(batch.history.items, batch.target)
        condition = self.encode(embedded, batch.history.mask)  # (B, d)
        hidden = torch.rand(len(target), 1, device=target.device) < c.unconditional
        condition = torch.where(hidden, self.nothing.to(condition.dtype), condition)
        t = torch.randint(1, c.steps + 1, (len(target),), device=target.device)
        noisy = diffusion.forward_noise(target, t, torch.randn_like(target), self.schedule)
        rebuilt = self.denoiser(noisy, self.denoiser.of_history(condition), self.denoiser.of_step(t))
        return {"reconstruction": objectives.squared_distance(rebuilt, target) / c.dim}

    def interests(self, history: Histories) -> Tensor:
        """R generated vectors (B, R, d); row b depends on its own history and case only."""
        c = self.config
        condition = self.encode(self.items(history.items), history.mask).unsqueeze(1)  # (B, 1, d)
        denoise = self.guided(condition)

        def noise(step: int) -> Tensor:
            keys = [seeds.number(c.noise_seed, "step", step, "sample", sample) for sample in range(c.samples)]
            drawn = [diffusion.case_noise(history.case, (c.dim,), key) for key in keys]
            return torch.stack(drawn, 1).to(condition.dtype)  # (B, R, d)

        start = noise(0)
        if c.denoise_steps is not None:
            return diffusion.ddim(denoise, start, self.schedule, c.denoise_steps)
        # The walk asks for one entry a step: T B R d numbers at once would be half a gigabyte for 1,000 users.
        return diffusion.ancestral(denoise, start, self.schedule, noise=_Drawn(noise))

    def guided(self, condition: Tensor) -> diffusion.Denoise:
        """(x_t (B, R, d), t (B,)) -> (1 + w) f(x_t, c, t) - w f(x_t, Phi, t), for c = `condition` (B, 1, d)."""
        w, net = self.config.guidance, self.denoiser
        steps = net.of_step(torch.arange(1, self.config.steps + 1, device=condition.device)).unsqueeze(1)  # (T, 1, h)
        if w == 0 or net.second is None:
            # f of one layer is linear in c: both estimates by one call, at (1 + w) c - w Phi.
            both = net.of_history((1 + w) * condition - w * self.nothing)
            return lambda x, t: net(x, both, steps[t - 1])
        known, hidden = net.of_history(condition), net.of_history(self.nothing)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            step = steps[t - 1]
            return (1 + w) * net(x, known, step) - w * net(x, hidden, step)

        return denoise

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding, as they are."""
        return self.items.weight

    def diagnose(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Whether the items collapse, which this loss alone would allow: over all N items, the batch is not read.

        `item_norm`: mean length; `item_cosine`: mean cosine of two different items, near 0 at the start.
        """
        del batch
        norm = self.items.weight[1:].norm(dim=-1, keepdim=True)
        unit = self.items.weight[1:] / norm.clamp(min=1e-12)
        n, summed = self.items.n_items, self.items.summed
        pairs = max(n * (n - 1), 1)
        # The sum over pairs of <u_i, u_j> without the pairs.
        cosine = (summed(unit.sum(0)).square().sum() - summed(unit.square().sum())) / pairs
        return {"item_norm": summed(norm.sum()) / n, "item_cosine": cosine}


class _Drawn:
    """Noise of a chain, drawn when it is asked for: entry t - 1 is that of step t."""

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        self.draw = draw

    def __getitem__(self, entry: int) -> Tensor:
        return self.draw(entry + 1)


# No loss reads negatives; a batch has some, and one that all its rows share costs nothing.
_TABLE = replace(protocols.NEXT_ITEM, lr=0.001, negatives=1, own_negatives=False)
_CODE = replace(_TABLE, max_epochs=1000, validate_epochs=10, patience=5)

CARDS = [
    Card(
        "dreamrec",
        DreamRec,
        DreamRecConfig,
        task="next-item",
        summary="the next item's vector generated from noise by a diffusion that the history guides",
        paper=DREAMREC,
        presets={
            "paper": Preset(
                DreamRecConfig(), _CODE, "the code's settings for YooChoose; selection on validation is ours"
            ),
            "paper-kuairec": Preset(
                DreamRecConfig(steps=2000, schedule="cosine"),
                replace(_CODE, lr=5e-5),
                "the code's settings for KuaiRec",
            ),
            "paper-zhihu": Preset(
                DreamRecConfig(schedule="linear", guidance=4.0),
                replace(_CODE, lr=0.01),
                "the code's settings for Zhihu",
            ),
            "dimerec-table": Preset(DreamRecConfig(), _TABLE, "as published for YooChoose, in DimeRec's protocol"),
            "dimerec-table-long": Preset(
                DreamRecConfig(), replace(_TABLE, length=70), "the same with histories of 70 (MovieLens-10M)"
            ),
            "best": Preset(DreamRecConfig(), _CODE, "as paper"),
        },
        search={"lr": Search(1e-4, 5e-3, log=True), "negatives": None},
        workers=True,
    ),
]
