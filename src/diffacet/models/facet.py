"""Facet: multi-interest extraction trained on every position, refined by the exact denoiser of the catalogue.

Ours, after the studies of DMI said what helps (`docs/does-refinement-help.md`). What is diffused is DMI's, an
interest; but an interest stands for the next item, which is one of N known vectors, so the denoiser need not be
learned: E[x_0 | x_t] over the catalogue follows from Bayes' rule, with a prior that counting gives: what the
history's items co-occurred with, and how often users come back to an item. Each refinement step asks the denoiser
once, and the last one's posterior ranks the items.
Shapes: B users, P targets, K interests, L history items, M negatives, N items, d dimensions, T steps.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core import diffusion, objectives, protocols
from diffacet.core.batch import Histories, PositionBatch
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, ItemDropout, Preset, Search, Training
from diffacet.core.cooccurrence import CoOccurrence
from diffacet.core.denoisers import catalogue_mean
from diffacet.core.explaining import Explanation
from diffacet.core.interests import SelfAttentive, select, thin
from diffacet.core.layers import ItemTable
from diffacet.core.papers import DIFFACET
from diffacet.errors import BadSetting

IntArray = NDArray[np.int64]


@dataclass(frozen=True, config=STRICT)
class FacetConfig:
    """Settings of Facet; the prior's are those of ItemKNN."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of embeddings and interests")] = 64
    interests: Annotated[int, Field(ge=1, title="K", description="interests per user")] = 4
    recency_logits: Annotated[bool, Field(description="learned attention to how long ago an item was")] = True
    concentration: Annotated[
        float,
        Field(ge=0, title="λ_c", description="weight of the penalty on attention that gathers on few items"),
        Search(0.1, 10.0, log=True),
    ] = 1.0
    item_dropout: ItemDropout = 0.2
    window: Annotated[
        int | None, Field(ge=1, title="w", description="greatest distance of co-occurring items; none: any")
    ] = None
    decay: Annotated[float, Field(ge=0, title="p", description="a co-occurrence counts distance^-p")] = 0.0
    history_power: Annotated[float, Field(ge=0, title="a", description="power of the history item's count")] = 0.8
    candidate_power: Annotated[float, Field(ge=0, title="b", description="power of the candidate's count")] = 0.2
    shrinkage: Annotated[float, Field(ge=0, description="added to the denominator, against rare pairs")] = 20.0
    recency: Annotated[
        float, Field(gt=0, le=1, description="weight in the prior for each step back in time"), INFERENCE
    ] = 0.9
    prior_weight: Annotated[
        float, Field(ge=0, title="ω", description="power of the prior; 0: every item alike"), INFERENCE
    ] = 0.5
    prior_floor: Annotated[
        float, Field(gt=0, lt=1, title="ε", description="added to each item's share of the co-occurrence"), INFERENCE
    ] = 1e-5
    repeats: Annotated[
        Literal["calibrated", "free"],
        Field(description="calibrated: the history's own items get the share of the posterior that repeats had"),
        INFERENCE,
    ] = "calibrated"
    eta: Annotated[
        float, Field(ge=0, le=1, title="η", description="weight of the refined vector (DMI Eq. 13)"), INFERENCE
    ] = 0.8
    steps: Annotated[int, Field(ge=2, title="T", description="diffusion steps"), INFERENCE] = 10
    noise_min: Annotated[float, Field(gt=0, lt=1, description="1 - alpha_bar at step 1"), INFERENCE] = 0.3
    noise_max: Annotated[float, Field(gt=0, lt=1, description="1 - alpha_bar at step T"), INFERENCE] = 0.5
    refine_steps: Annotated[
        int,
        Field(ge=0, title="S", description="times the denoiser is asked; 0: unrefined; 1: its posterior ranks"),
        INFERENCE,
    ] = 2

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if self.refine_steps > self.most_refine_steps:
            raise BadSetting(f"refine_steps lies in 0..steps + 1; got {self.refine_steps} with steps={self.steps}")
        self.make_schedule()

    @property
    def most_refine_steps(self) -> int:
        """The largest S."""
        return self.steps + 1

    def make_schedule(self) -> diffusion.Schedule:
        """The variances of the chain; raises BadSetting when noise_min is not below noise_max."""
        return diffusion.scaled_linear(self.steps, 1.0, self.noise_min, self.noise_max)


class Facet(nn.Module):
    """K interests per user, moved towards the items that they and the history's co-occurrence agree on."""

    repeat_rate: Tensor

    def __init__(self, config: FacetConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = ItemTable(facts.n_items, c.dim)
        self.extract = SelfAttentive(c.dim, c.interests, facts.length, recency=c.recency_logits)
        self.schedule = c.make_schedule()
        self.prior = CoOccurrence(
            facts,
            window=c.window,
            decay=c.decay,
            history_power=c.history_power,
            candidate_power=c.candidate_power,
            shrinkage=c.shrinkage,
        )
        rate = repeat_rate(facts.train_items, facts.train_offsets, facts.length)
        self.register_buffer("repeat_rate", torch.tensor(rate))  # () float32

    def loss(self, batch: PositionBatch) -> dict[str, Tensor]:
        """Softmax of the selected interest of every prefix, and the penalty on attention that gathers."""
        c = self.config
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        mask = thin(batch.history.mask, c.item_dropout, self.training)
        interests, attention = self.extract.prefixes(embedded, mask)
        user, _ = select(interests[batch.row, batch.position], target)  # (P, d)
        return {
            "softmax": objectives.sampled_softmax(user, target, negatives, batch),
            "concentration": c.concentration
            * objectives.concentration(attention[batch.row, batch.position], batch.weight),
        }

    def interests_of(self, history: Histories) -> Tensor:
        """Unrefined interests (B, K, d)."""
        interests, _ = self.extract(self.items(history.items), history.mask)
        return interests

    def explain(self, history: Histories) -> Explanation:
        """The interests before and after refinement; with S = 1 it is the posterior of the coarse ones that ranks."""
        embedded = self.items(history.items)
        interests, attention = self.extract(embedded, history.mask)
        refined = self.mixed(interests, self.log_prior(history)) if self.config.refine_steps > 1 else interests
        return Explanation(interests, refined, embedded, attention)

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1): the best interest's product, plus the log prior where anything is refined."""
        c, interests, vectors = self.config, self.interests_of(history), self.items.weight
        if c.refine_steps == 0:
            return _best(interests, vectors)
        log_prior = self.log_prior(history)
        if c.refine_steps > 1:
            interests = self.mixed(interests, log_prior)
        scores = _best(interests, vectors) + log_prior
        return self.calibrated(scores, history) if c.repeats == "calibrated" else scores

    def calibrated(self, scores: Tensor, history: Histories) -> Tensor:
        """(B, N + 1) scores, shifted at the history's items so that their softmax gives these together `repeat_rate`.

        Where nobody ever came back to an item, the shift takes the history out of the list; where repeats are
        common it lifts the items that the user knows. Their order does not change, nor that of the others.
        """
        own = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, history.items, True)
        own[:, 0] = False
        logs = scores.log_softmax(-1)
        inside = logs.masked_fill(~own, float("-inf")).logsumexp(-1, keepdim=True)  # (B, 1)
        outside = logs.masked_fill(own, float("-inf")).logsumexp(-1, keepdim=True)
        shift = torch.logit(self.repeat_rate) + outside - inside
        # Of a history that holds the whole catalogue everything is a repeat: there is nothing to shift against.
        return torch.where(own & outside.isfinite(), scores + shift, scores)

    def log_prior(self, history: Histories) -> Tensor:
        """(B, N + 1): omega ln(share of the history's co-occurrence + floor); -inf at padding."""
        counts = self.prior(history, self.config.recency)
        share = counts / counts.sum(-1, keepdim=True).clamp(min=torch.finfo(counts.dtype).tiny)
        prior = self.config.prior_weight * (share + self.config.prior_floor).log()
        prior[:, 0] = float("-inf")
        return prior

    def mixed(self, interests: Tensor, log_prior: Tensor) -> Tensor:
        """The refined interests and the coarse ones, in the shares eta and 1 - eta (DMI, Eq. 13)."""
        return self.config.eta * self.refine(interests, log_prior) + (1 - self.config.eta) * interests

    def refine(self, interests: Tensor, log_prior: Tensor) -> Tensor:
        """The clean end of the reverse chain of S - 1 steps from the mean of the noised interests, (B, K, d)."""
        c = self.config
        last = interests.new_full((len(interests),), c.steps, dtype=torch.int64)
        noisy = diffusion.forward_noise(interests, last, torch.zeros_like(interests), self.schedule)
        denoise = partial(
            catalogue_mean, vectors=self.items.weight, log_prior=log_prior, schedule=self.schedule
        )  # (x_t, t) -> x_0
        return diffusion.sample(denoise, noisy, self.schedule, c.refine_steps - 1)


def repeat_rate(items: IntArray, offsets: IntArray, length: int) -> float:
    """The share of targets that were among the `length` items before them, in 0..1, by half a repeat more than none.

    items (n,), sequence u being items[offsets[u]:offsets[u + 1]]; every item of a sequence but the first is a target.
    """
    sequence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((np.arange(len(items)), items, sequence))
    before, after = order[:-1], order[1:]
    same = (sequence[before] == sequence[after]) & (items[before] == items[after]) & (after - before <= length)
    targets = np.maximum(np.diff(offsets) - 1, 0).sum()
    return float((same.sum() + 0.5) / (targets + 1))


def _best(interests: Tensor, vectors: Tensor) -> Tensor:
    """(B, K, d), (N + 1, d) -> (B, N + 1), the largest product; one interest at a time, for memory."""
    best = interests[:, 0] @ vectors.T
    for k in range(1, interests.shape[1]):
        best = torch.maximum(best, interests[:, k] @ vectors.T)
    return best


_TRAINING = Training(first_target=1, mask_hits=True, max_steps=3_000, anneal=0.7, validate_every=500, patience=8)

CARDS = [
    Card(
        "facet",
        Facet,
        FacetConfig,
        task="matching",
        summary="multi-interest extraction on every position, refined by the catalogue's exact denoiser",
        paper=DIFFACET,
        batch=PositionBatch,
        presets={
            "paper": Preset(
                FacetConfig(),
                replace(protocols.BEAUTY, max_steps=3_000),
                "no paper: trained by the rules of DMI's tables",
            ),
            "best": Preset(FacetConfig(), _TRAINING, "chosen on validation of Amazon Beauty, one split"),
            "long": Preset(
                FacetConfig(
                    dim=128,
                    window=40,
                    decay=0.5,
                    history_power=0.5,
                    candidate_power=0.25,
                    shrinkage=0.0,
                    prior_weight=4.0,
                    refine_steps=1,
                ),
                replace(_TRAINING, length=40, negatives=2_048, validate_every=1_000),
                "for long sequences: chosen on validation of Gowalla, one split",
            ),
        },
        workers=True,
    ),
]
