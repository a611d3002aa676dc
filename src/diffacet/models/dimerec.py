"""DimeRec: a multi-interest extractor guides a diffusion that generates one vector, the user's next interest.

W. Li et al., "DimeRec: A Unified Framework for Enhanced Sequential Recommendation via Generative Diffusion Models",
WSDM 2025 (key `dimerec`). Eq., Algorithm and Table are that paper's; where it is silent, the comment says what is ours.
Shapes: B users, K rows of guidance, L history items, M negatives, N items, R samples, T steps, d dimensions.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet import seeds
from diffacet.core import diffusion, draws, objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Preset, Search
from diffacet.core.denoisers import GuidedMLP
from diffacet.core.diffusion import unit
from diffacet.core.interests import Gem, Guidance
from diffacet.core.layers import ItemTable
from diffacet.core.papers import DIMEREC
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class DimeRecConfig:
    """Settings of DimeRec; the defaults are the paper's (Sec. 5.1), or what its algorithms print."""

    gem: Annotated[Gem, Field(description="guidance extraction module (Table 3); latest: rule-based (Eq. 15)")] = (
        "comirec-sa"
    )
    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and of the generated vector")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="rows of guidance; the GEM sasrec has one")] = 4
    steps: Annotated[int, Field(ge=1, title="T", description="diffusion steps")] = 20
    schedule: Annotated[diffusion.Published, Field(description="variances of the chain; not told by the paper")] = (
        "linear-scaled"
    )
    noise_min: Annotated[
        float | None,
        Field(gt=0, lt=1, description="1 - alpha_bar of step 1, evenly to .999, instead of the schedule (ours)"),
    ] = None
    forward: Annotated[
        diffusion.Forward,
        Field(description="how a target is noised; one-step: Algorithm 1; walk: its figure; euclidean: w/o GRW"),
    ] = "one-step"
    tangent_noise: Annotated[
        diffusion.Scale, Field(description="length of tangent noise: unit, or sphere: divided by sqrt(d - 1)")
    ] = "unit"
    vectors: Annotated[Literal["raw", "unit"], Field(description="item vectors as they are, or all on the sphere")] = (
        "raw"
    )
    temperature: Annotated[
        float, Field(gt=0, title="τ", description="products are divided by it in both softmaxes"), Search(0.05, 1.0)
    ] = 1.0
    project: Annotated[bool, Field(description="the estimate of x_0 is put on the sphere before its losses")] = False
    guidance: Annotated[Literal["flatten", "mean"], Field(description="how the denoiser reads the K rows")] = "flatten"
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, description="hidden widths of the denoiser; 4d")
    ] = (256,)
    guidance_weight: Annotated[float, Field(ge=0, description="weight of the guidance loss (Eq. 19); 0: without")] = 1.0
    reconstruction_weight: Annotated[
        float, Field(ge=0, title="λ", description="weight of the reconstruction (Eq. 23)"), Search(0.01, 10, log=True)
    ] = 0.1
    softmax_weight: Annotated[
        float,
        Field(ge=0, title="μ", description="weight of the generated vector's softmax (Eq. 23)"),
        Search(0.1, 10, log=True),
    ] = 1.0
    detach_guidance: Annotated[bool, Field(description="the diffusion's losses do not train the extractor")] = False
    detach_target: Annotated[bool, Field(description="the reconstruction does not pull the target's vector")] = False
    values_with_position: Annotated[bool, Field(description="Eq. 17 sums items with their positions")] = False
    late_steps: Annotated[
        float,
        Field(ge=0, description="t = ceil(T u^(1 / (1 + late_steps))), u uniform; 0: every step alike (the paper)"),
    ] = 0.0
    skip: Annotated[
        bool,
        Field(description="the denoiser's output is added to the guidance that the noisy vector attends to (ours)"),
    ] = False
    denoiser_dropout: Annotated[
        float,
        Field(ge=0, lt=1, description="of the guidance that the denoiser reads, and of its hidden layer (ours)"),
        Search(0.0, 0.5),
    ] = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1, description="of the GEM sasrec")] = 0.2
    start: Annotated[
        Literal["sphere", "gaussian"], Field(description="x_T: Gaussian noise, put on the sphere or not"), INFERENCE
    ] = "sphere"
    reverse_noise: Annotated[
        diffusion.Eta,
        Field(
            description="noise of a reverse step: its variance (Algorithm 2), the root of it, over sqrt(d - 1), none"
        ),
        INFERENCE,
    ] = "printed"
    serve: Annotated[
        Literal["dam", "gem", "union"],
        Field(description="what searches: the generated vectors (the paper), the rows of guidance, or both"),
        INFERENCE,
    ] = "dam"
    similarity: Annotated[Literal["inner", "cosine"], Field(description="of the search"), INFERENCE] = "inner"
    samples: Annotated[int, Field(ge=1, title="R", description="vectors generated for a user"), INFERENCE] = 1
    denoise_steps: Annotated[
        int | None, Field(ge=1, description="steps of the reverse walk; none: all T"), INFERENCE
    ] = None
    stop: Annotated[int, Field(ge=0, description="reverse steps left undone at the end (Figure 5)"), INFERENCE] = 0
    noise_seed: Annotated[int, Field(ge=0, description="of the noise that inference starts from"), INFERENCE] = 0

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        used = self.steps if self.denoise_steps is None else self.denoise_steps
        if used > self.steps:
            raise BadSetting(f"denoise_steps lies in 1..steps; got {used} with steps={self.steps}")
        if self.stop > used:
            raise BadSetting(f"stop lies in 0..{used}, the steps of the reverse walk; got {self.stop}")

    def make_schedule(self) -> diffusion.Schedule:
        """The variances of the chain."""
        if self.noise_min is None:
            return diffusion.published(self.schedule, self.steps)
        return diffusion.scaled_linear(self.steps, 1.0, self.noise_min, 0.999)


class DimeRec(nn.Module):
    """Guidance rows g = GEM(history), and a chain on the unit sphere whose denoiser they guide to the next item."""

    def __init__(self, config: DimeRecConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim, deviation=c.dim**-0.5)
        self.gem = Guidance(
            c.gem, c.dim, c.interests, facts.length, dropout=c.dropout, values_with_position=c.values_with_position
        )
        pool = c.guidance == "mean"
        self.denoiser = GuidedMLP(
            c.dim, c.steps, self.gem.rows, c.hidden, pool=pool, skip=c.skip, dropout=c.denoiser_dropout
        )
        self.schedule = c.make_schedule()

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The weighted terms of Eq. 23 (Algorithm 1)."""
        c, (embedded, target, negatives) = self.config, self._vectors(batch)
        guidance, there = self.gem(embedded, batch.history.mask)
        terms = {}
        if c.guidance_weight:
            row = self._logits_of(readout(guidance, there, target))
            terms["guidance"] = c.guidance_weight * objectives.sampled_softmax(row, target, negatives, batch)  # Eq. 19
        t = self._steps(target)
        clean, rebuilt = self._rebuild(guidance, target, t)
        if c.reconstruction_weight:
            goal = clean.detach() if c.detach_target else clean
            terms["reconstruction"] = c.reconstruction_weight * objectives.squared_distance(rebuilt, goal)  # Eq. 21
        if c.softmax_weight:
            user = self._logits_of(rebuilt)
            terms["softmax"] = c.softmax_weight * objectives.sampled_softmax(user, target, negatives, batch)  # Eq. 22
        return terms

    def _vectors(self, batch: SequenceBatch) -> tuple[Tensor, ...]:
        """Vectors of history (B, L, d), target (B, d) and negatives, as the settings want them."""
        found = self.items.rows(batch.history.items, batch.target, batch.negatives)
        return tuple(unit(rows) for rows in found) if self.config.vectors == "unit" else found

    def _logits_of(self, user: Tensor) -> Tensor:
        """The query (B, d) whose products with item vectors are the logits of the two softmaxes."""
        return (unit(user) if self.config.vectors == "unit" else user) / self.config.temperature

    def _steps(self, target: Tensor) -> Tensor:
        """(B,) a random step 1..T for each row of (B, d)."""
        u = 1 - torch.rand_like(target[:, 0])  # in (0, 1]
        return (u ** (1 / (1 + self.config.late_steps)) * self.config.steps).ceil().long()

    def _rebuild(self, guidance: Tensor, target: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 (B, d) and what the denoiser makes of it, noised to t (Algorithm 1, lines 5-8)."""
        c = self.config
        clean = target if c.forward == "euclidean" else unit(target)
        shape = (c.steps, *clean.shape) if c.forward == "walk" else clean.shape
        with draws.along(int(c.forward == "walk")):
            noise = torch.randn(shape, device=clean.device, dtype=clean.dtype)
        noisy = diffusion.noised(clean, t, noise, self.schedule, c.forward, c.tangent_noise)
        read = self.denoiser.read(guidance.detach() if c.detach_guidance else guidance)
        rebuilt = self.denoiser(noisy, t, read)
        return clean, unit(rebuilt) if c.project else rebuilt

    def diagnose(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cosine of the estimate with the target at the first, middle and last step, and of the guidance; lengths."""
        c, (embedded, target, _) = self.config, self._vectors(batch)
        guidance, there = self.gem(embedded, batch.history.mask)
        told = {"item_norm": self.items.summed(self.items.weight[1:].norm(dim=-1).sum()) / self.items.n_items}
        told["guidance_cosine"] = (unit(readout(guidance, there, target)) * unit(target)).sum(-1).mean()
        for name, step in (("first", 1), ("middle", (c.steps + 1) // 2), ("last", c.steps)):
            clean, rebuilt = self._rebuild(guidance, target, torch.full_like(batch.target, step))
            told[f"cosine_{name}"] = (unit(rebuilt) * unit(clean)).sum(-1).mean()
        return told

    def interests(self, history: Histories) -> Tensor:
        """What searches, by `serve`: generated vectors (B, R, d), guidance (B, K, d), or both (B, R + K, d)."""
        c, embedded = self.config, self.items(history.items)
        guidance, there = self.gem(unit(embedded) if c.vectors == "unit" else embedded, history.mask)
        if c.serve != "dam":
            # A row that stands for no item must not search: the newest takes its place.
            rows = torch.where(there.unsqueeze(-1), guidance, guidance[:, -1:])
        if c.serve == "gem":
            return rows
        made = torch.stack([self.generate(guidance, history.case, sample) for sample in range(c.samples)], 1)
        return made if c.serve == "dam" else unit(torch.cat([made, rows], 1))

    def generate(self, guidance: Tensor, case: Tensor, sample: int = 0) -> Tensor:
        """Guidance (B, K, d) and cases (B,) -> vectors (B, d) (Algorithm 2); the noise depends on case and sample."""
        c = self.config
        schedule, visited = diffusion.respaced(self.schedule, c.steps if c.denoise_steps is None else c.denoise_steps)
        at = torch.tensor(visited, device=case.device)
        shape = (len(visited) + 1, c.dim)
        drawn = diffusion.case_noise(case, shape, seeds.number(c.noise_seed, "sample", sample)).to(guidance.dtype)
        noise = drawn.transpose(0, 1)  # the start, then one for each step
        on_sphere = c.forward != "euclidean"
        start = unit(noise[0]) if on_sphere and c.start == "sphere" else noise[0]
        read = self.denoiser.read(guidance)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            rebuilt = self.denoiser(x, at[t - 1], read)
            return unit(rebuilt) if c.project else rebuilt

        eta = c.reverse_noise
        back = partial(diffusion.walk_back, eta=eta, stop=c.stop, on_sphere=on_sphere)
        return back(denoise, start, schedule, noise=None if eta == "none" else noise[1:])

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding; of length 1 where the search is by cosine."""
        return unit(self.items.weight) if self.config.similarity == "cosine" else self.items.weight


def readout(guidance: Tensor, there: Tensor, target: Tensor) -> Tensor:
    """The row of the guidance with the largest product with the target, (B, d) (Eq. 18); ties take the first.

    guidance (B, K, d), there (B, K) bool, target (B, d). The choice carries no gradient.
    """
    products = torch.einsum("bkd,bd->bk", guidance.detach(), target.detach()).masked_fill(~there, float("-inf"))
    return guidance[torch.arange(len(target), device=target.device), products.argmax(-1)]


_CALIBRATED = DimeRecConfig(
    schedule="cosine",
    forward="vp-geodesic",
    tangent_noise="sphere",
    vectors="unit",
    temperature=0.1,
    project=True,
    reverse_noise="sphere",
    similarity="cosine",
)
_SLOWER = replace(protocols.NEXT_ITEM, lr=0.001)

CARDS = [
    Card(
        "dimerec",
        DimeRec,
        DimeRecConfig,
        task="next-item",
        summary="one vector, the next interest, generated on the sphere under the guidance of several interests",
        paper=DIMEREC,
        presets={
            "paper": Preset(DimeRecConfig(), protocols.NEXT_ITEM, "Sec. 5.1, Algorithms 1 and 2; YooChoose, KuaiRec"),
            "paper-ml-10m": Preset(
                DimeRecConfig(softmax_weight=10.0), protocols.NEXT_ITEM_LONG, "the same; MovieLens-10M"
            ),
            "calibrated": Preset(
                _CALIBRATED, _SLOWER, "ours: everything on the sphere, noise that grows with the step, a temperature"
            ),
            "best": Preset(
                replace(
                    _CALIBRATED,
                    softmax_weight=3.0,
                    late_steps=3.0,
                    skip=True,
                    denoiser_dropout=0.3,
                    reverse_noise="none",
                    samples=4,
                ),
                replace(protocols.NEXT_ITEM, lr=0.003, negatives=1280, own_negatives=False, mask_hits=True),
                "ours: 1,280 negatives shared by the batch, as in ComiRec's code; more weight on the generated "
                "vector's softmax; steps drawn late; a denoiser that starts from the guidance; four vectors, no noise",
            ),
        },
        search=protocols.NEXT_ITEM_SEARCH,
        workers=True,
    ),
]
