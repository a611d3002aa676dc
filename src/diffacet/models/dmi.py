"""DMI: interests refined dimension by dimension by a diffusion model.

Y. Le et al., "Diffusion Model for Interest Refinement in Multi-Interest Recommendation", 2025 (key `dmi`).
Eq., Sec., Alg. and Table are that paper's. No code of it is public: what it leaves open was decided by
experiment (`benchmarks/results/beauty.md`), and each open value is a field below.
Shapes: B users, K interests, L history items, M negatives, N items, d dimensions, T steps.
"""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import diffusion, objectives, protocols
from diffacet.core.batch import Histories, SequenceBatch
from diffacet.core.contract import INFERENCE, STRICT, Card, Dropout, Facts, ItemDropout, Preset, Search
from diffacet.core.denoisers import CrossAttention, StepMLP
from diffacet.core.explaining import Explanation
from diffacet.core.interests import STAR_HEADS, Base, extract, extract_to_train, extractor, prune, select, thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import DMI as PAPER
from diffacet.errors import BadSetting


@dataclass(frozen=True, config=STRICT)
class DMIConfig:
    """Settings of DMI. Defaults: the paper's (Sec. 4.1.2) where it states one, else what reproduces it on Beauty."""

    base: Annotated[Base, Field(description="the model that is refined")] = "remi"
    variant: Annotated[
        Literal["full", "diff", "gd", "t", "ip"], Field(description="ablation of Table 3; diff: no diffusion module")
    ] = "full"
    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and interests")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="interests per user")] = 4
    steps: Annotated[int, Field(ge=1, title="T", description="diffusion steps")] = 10
    schedule: Annotated[
        Literal["scaled-linear", "linear-beta"],
        Field(description="what grows linearly: 1 - alpha_bar (Eq. 8), or beta"),
    ] = "scaled-linear"
    noise_scale: Annotated[
        float, Field(gt=0, title="s", description="noise scale (Eq. 8)"), Search(1.0, 100.0, log=True)
    ] = 20.0
    noise_min: Annotated[float, Field(gt=0, lt=1, title="α_min", description="noise at step 1 (Eq. 8)")] = 1e-4
    noise_max: Annotated[float, Field(gt=0, lt=1, title="α_max", description="noise at step T (Eq. 8)")] = 4e-3
    gamma: Annotated[
        float, Field(gt=0, le=1, title="γ", description="share of the history that guides (Eq. 12)"), Search(0.1, 1.0)
    ] = 0.5
    eta: Annotated[
        float, Field(ge=0, le=1, title="η", description="weight of the refined vector (Eq. 13)"), Search(0.0, 1.0)
    ] = 0.4
    dm_weight: Annotated[
        float,
        Field(ge=0, title="λ", description="weight of the reconstruction loss (Eq. 19)"),
        Search(0.1, 50.0, log=True),
    ] = 5.0
    context_grad: Annotated[
        Literal["all", "rec", "none"],
        Field(description="losses that reach the item table through the guiding items; rec: the recommendation loss"),
    ] = "all"
    norm: Annotated[Literal["post", "pre"], Field(description="norms of the denoiser; pre starts as identity")] = "post"
    heads: Annotated[int, Field(ge=1, description="attention heads of the denoiser; they divide d")] = 1
    step_token: Annotated[Literal["learned", "sinusoid"], Field(title="e_t", description="form of the step token")] = (
        "learned"
    )
    denoiser_dropout: Annotated[float, Field(ge=0, lt=1, description="dropout inside the denoiser")] = 0.0
    dropout: Dropout = 0.0
    item_dropout: ItemDropout = 0.0
    hardness: Annotated[
        float,
        Field(ge=0, title="β", description="hardness of the negatives, base remi"),
        Search(0.01, 3.0, log=True),
    ] = 0.1
    routing: Annotated[
        float,
        Field(ge=0, title="λ_RR", description="weight of the routing loss, base remi"),
        Search(1.0, 1000.0, log=True),
    ] = 100.0
    refine_steps: Annotated[
        int | None,
        Field(ge=0, title="S", description="steps when inferring: none or T, the whole chain; 0, unrefined; else DDIM"),
        INFERENCE,
    ] = None
    chain: Annotated[
        Literal["posterior", "ddim"], Field(description="of the whole chain; fewer steps are always DDIM"), INFERENCE
    ] = "posterior"
    start: Annotated[
        Literal["noise", "mean"],
        Field(description="start of the reverse chain: noised interest, or its mean"),
        INFERENCE,
    ] = "noise"
    reverse_noise: Annotated[
        Literal["none", "posterior"],
        Field(title="σ_t", description="noise inside the reverse chain (S none)"),
        INFERENCE,
    ] = "none"
    noise_seed: Annotated[int, Field(ge=0, description="seed of the noise that inference draws"), INFERENCE] = 0

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if self.dim % self.heads:
            raise BadSetting(f"heads divides dim; got heads={self.heads} and dim={self.dim}")
        if self.base == "pimirec" and self.dim % STAR_HEADS:
            raise BadSetting(f"dim is a multiple of {STAR_HEADS} with base=pimirec; got dim={self.dim}")
        if self.refine_steps is not None and self.refine_steps > self.most_refine_steps:
            raise BadSetting(f"refine_steps lies in 0..steps; got {self.refine_steps} with steps={self.steps}")
        self.make_schedule()

    @property
    def most_refine_steps(self) -> int:
        """The largest S."""
        return self.steps

    def make_schedule(self) -> diffusion.Schedule:
        """The variances of the chain (Eq. 8); raises BadSetting when they leave (0, 1)."""
        make = diffusion.scaled_linear if self.schedule == "scaled-linear" else diffusion.linear_beta
        return make(self.steps, self.noise_scale, self.noise_min, self.noise_max)


class DMI(nn.Module):
    """K interests per user, each denoised under the guidance of the history items it attends to."""

    def __init__(self, config: DMIConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim)
        self.extract = extractor(c.base, c.dim, c.interests, facts.length)  # Eq. 4-5
        self.schedule = c.make_schedule()
        self.keep = 1.0 if c.variant == "ip" else c.gamma
        self.eta = 1.0 if c.variant == "gd" else c.eta
        self.denoiser: CrossAttention | StepMLP | None = None
        if c.variant == "t":
            self.denoiser = StepMLP(c.dim, c.steps, step_token=c.step_token, dropout=c.denoiser_dropout)
        elif c.variant != "diff":
            self.denoiser = CrossAttention(
                c.dim, c.steps, heads=c.heads, norm=c.norm, step_token=c.step_token, dropout=c.denoiser_dropout
            )

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """The weighted terms of Eq. 19; their sum is minimised (Alg. 1)."""
        c = self.config
        mask = thin(batch.history.mask, c.item_dropout, self.training)  # (B, L)
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        embedded = functional.dropout(embedded, c.dropout, self.training)  # (B, L, d)
        interests, attention, terms = extract_to_train(  # (B, K, d), (B, K, L)
            self.extract, embedded, mask, batch.history.times, c.routing if c.base == "remi" else 0.0
        )
        interest, best = select(interests, target)  # (B, d), (B,), Eq. 14
        user = interest
        if self.denoiser is not None:
            # Only L_S through (1 - eta) v reaches the extractor: interests shall not become easy to
            # rebuild instead of useful (Sec. 3.3). Ablation gd stops nothing.
            v0 = interest if c.variant == "gd" else interest.detach()
            row = torch.arange(len(best), device=best.device)
            kept = prune(attention[row, best], mask, self.keep).unsqueeze(1)  # (B, 1, L), Eq. 12
            t = torch.randint(1, c.steps + 1, best.shape, device=best.device)
            noisy = diffusion.forward_noise(v0, t, torch.randn_like(v0), self.schedule).unsqueeze(1)  # Eq. 7
            context = embedded.detach() if c.context_grad == "none" and c.variant != "gd" else embedded
            rebuilt = self.denoiser(noisy, t, self.denoiser.read(context), kept).squeeze(1)  # Eq. 11
            judged = rebuilt
            if c.context_grad == "rec" and c.variant != "gd":
                judged = self.denoiser(noisy, t, self.denoiser.read(embedded.detach()), kept).squeeze(1)
            terms["reconstruction"] = c.dm_weight * objectives.distance(judged, v0)  # Eq. 18
            user = self.eta * rebuilt + (1 - self.eta) * interest  # Eq. 13
        hardness = c.hardness if c.base == "remi" else 0.0
        terms["softmax"] = objectives.sampled_softmax(user, target, negatives, batch, hardness)  # Eq. 15-16
        return terms

    def interests(self, history: Histories) -> Tensor:
        """Refined interests (B, K, d) (Alg. 2); row b depends on its own history and case only."""
        return self.explain(history).refined

    def explain(self, history: Histories) -> Explanation:
        """The interests before and after refinement, and which items guide it."""
        embedded = self.items(history.items)
        interests, attention = extract(self.extract, embedded, history.mask, history.times)
        if self.denoiser is None:
            return Explanation(interests, interests, embedded, attention)
        kept = self.guides(attention, history)
        if self.config.refine_steps == 0:
            return Explanation(interests, interests, embedded, attention, kept)
        refined = self.refine(interests, kept, embedded, history)
        mixed = self.eta * refined + (1 - self.eta) * interests  # Eq. 13
        return Explanation(interests, mixed, embedded, attention, kept)

    def guides(self, attention: Tensor, history: Histories) -> Tensor:
        """(B, K, L) bool, the items that guide each interest's refinement (Eq. 12)."""
        return prune(attention, history.mask.unsqueeze(1).expand_as(attention), self.keep)

    def refine(self, interests: Tensor, kept: Tensor, embedded: Tensor, history: Histories) -> Tensor:
        """The clean end of the reverse chain for all K interests at once, (B, K, d) (Alg. 2, lines 3-8)."""
        c, K, d = self.config, self.config.interests, self.config.dim
        assert self.denoiser is not None
        # The last of T + 1 draws starts the chain; the others are its reverse noise, if it has any.
        whole = c.refine_steps in (None, 0, c.steps) and c.chain == "posterior"
        draws = c.steps + 1 if whole and c.reverse_noise == "posterior" else 1
        noise = diffusion.case_noise(history.case, (draws, K, d), c.noise_seed).to(interests.dtype)
        begin = noise[:, -1] if c.start == "noise" else torch.zeros_like(interests)
        last = torch.full_like(history.case, c.steps)
        noisy = diffusion.forward_noise(interests, last, begin, self.schedule)
        denoise = partial(self.denoiser, memory=self.denoiser.read(embedded), kept=kept)  # (x_t, t) -> x_0
        if draws > 1:
            return diffusion.ancestral(denoise, noisy, self.schedule, noise=noise[:, :-1].transpose(0, 1))
        # S = 0 comes here from `diagnose` only, which asks for the chain that answers leave out.
        return diffusion.sample(denoise, noisy, self.schedule, None if whole else c.refine_steps or c.steps)  # Eq. 9-10

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding; an item scores by its best interest (Eq. 20)."""
        return self.items.weight

    def diagnose(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """How much of an interest the noise leaves, and how much nearer than its input the denoiser comes.

        `signal_to_noise`: alpha_bar_T mean(v^2) / (1 - alpha_bar_T). `denoiser_gain`: mean distance of the
        noisy vector to the clean one over that of the rebuilt one; above 1 the denoiser removes noise.
        """
        if self.denoiser is None:
            return {}
        embedded = self.items(batch.history.items)
        interests, attention = extract(self.extract, embedded, batch.history.mask, batch.history.times)
        refined = self.refine(interests, self.guides(attention, batch.history), embedded, batch.history)
        last = torch.full_like(batch.history.case, self.config.steps)
        noisy = diffusion.forward_noise(interests, last, torch.randn_like(interests), self.schedule)
        return {
            "signal_to_noise": diffusion.signal_to_noise(interests, self.schedule),
            "denoiser_gain": (noisy - interests).norm(dim=-1).mean() / (refined - interests).norm(dim=-1).mean(),
        }


CARDS = [
    Card(
        "dmi",
        DMI,
        DMIConfig,
        task="matching",
        summary="multi-interest extraction, each interest refined by diffusion",
        paper=PAPER,
        presets={
            "paper": Preset(DMIConfig(), protocols.BEAUTY, "Sec. 4.1.2; open values by search on Amazon Beauty"),
            "paper-gowalla": Preset(
                DMIConfig(noise_scale=5.0, hardness=1.0), protocols.GOWALLA, "the same; β of REMI's code"
            ),
            "paper-book": Preset(
                DMIConfig(noise_scale=5.0, hardness=10.0), protocols.BOOK, "the same; β of REMI's code"
            ),
            "best": Preset(DMIConfig(item_dropout=0.2), protocols.BEST, "chosen on validation of Amazon Beauty"),
        },
        workers=True,
    ),
]
