"""DiffuRec: the noised vector of the next item is mixed into every history item, and a Transformer takes it out again.

Z. Li, A. Sun and C. Li, "DiffuRec: A Diffusion Model for Sequential Recommendation", ACM TOIS 2023 (key `diffurec`), in
the form of its code: no positions, a full softmax and no reconstruction loss, and steps drawn uniformly, since the
code's loss-aware sampler is never told a loss. The mixing weights are small: with delta = 0 it is a bidirectional
Transformer with a full softmax, in training and in every step of generation.
Shapes: B users, L history items, M negatives, N items, R samples, T steps, d dimensions.
"""

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
from diffacet.core.contract import INFERENCE, STRICT, Card, Dropout, Facts, Preset, Search, Training
from diffacet.core.layers import ItemTable, linear, sinusoid
from diffacet.core.papers import DIFFUREC
from diffacet.errors import BadSetting

EPSILON = 1e-12
"""Of the normalisation of items and of what is returned; the code's."""


@dataclass(frozen=True, config=STRICT)
class DiffuRecConfig:
    """Settings of DiffuRec; the defaults are those of its code."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of all vectors")] = 128
    steps: Annotated[int, Field(ge=1, title="T", description="diffusion steps")] = 32
    schedule: Annotated[diffusion.Published, Field(description="variances of the chain")] = "trunc-lin"
    delta: Annotated[
        float,
        Field(ge=0, title="δ", description="mean and deviation of the mixing weights; 0: the noise has no effect"),
        Search(1e-4, 0.1, log=True),
    ] = 0.001
    layers: Annotated[int, Field(ge=1, description="Transformer blocks"), Search(1, 4)] = 4
    heads: Annotated[int, Field(ge=1, description="attention heads; they divide d")] = 4
    dropout: Dropout = 0.3
    block_dropout: Annotated[float, Field(ge=0, lt=1, description="inside and after the blocks"), Search(0.0, 0.5)] = (
        0.1
    )
    mask: Annotated[
        Literal["key", "query"],
        Field(description="what padding is kept out of: being attended to, or only (a quirk of the code) attending"),
    ] = "key"
    samples: Annotated[
        int, Field(ge=1, title="R", description="vectors generated for a user; the best one scores"), INFERENCE
    ] = 1
    denoise_steps: Annotated[
        int | None, Field(ge=1, description="steps of the reverse chain; none: all T"), INFERENCE
    ] = None
    noise_seed: Annotated[int, Field(ge=0, description="of the noise that inference draws"), INFERENCE] = 0

    def __post_init__(self) -> None:
        """Checks that involve two settings; raises BadSetting."""
        if self.dim % self.heads:
            raise BadSetting(f"heads divides dim; got heads={self.heads} and dim={self.dim}")
        if self.denoise_steps is not None and self.denoise_steps > self.steps:
            raise BadSetting(f"denoise_steps lies in 1..steps; got {self.denoise_steps} with steps={self.steps}")


class Block(nn.Module):
    """Attention to all positions and a feed-forward part, 4d wide with tanh-GELU, each normalised before it.

    y = x + drop(A(LN(x))), then drop(y + drop(W_2 drop(gelu(W_1 LN(y))))), with dropout on the attention weights too.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        """Width d, which `heads` divides."""
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (linear(dim, dim) for _ in range(4))
        self.inner, self.outer = linear(dim, 4 * dim), linear(4 * dim, dim)
        self.norm_attention, self.norm_feed = nn.LayerNorm(dim, EPSILON), nn.LayerNorm(dim, EPSILON)

    def forward(self, x: Tensor, seen: Tensor | None, asking: Tensor | None, last: Tensor | None = None) -> Tensor:
        """(n, L, d) -> (n, L, d); with `last` (n,) that position of each row alone, (n, 1, d).

        seen: (n, 1, 1, L), the positions that are attended to; asking: (n, L, 1), those that choose among them, while
        the others attend to all alike. None: all.
        """
        normed = self.norm_attention(x)
        key, value = self.key(normed), self.value(normed)
        if last is not None:  # a real position, so it is asking
            row = torch.arange(len(x), device=x.device)
            x, normed, asking = x[row, last].unsqueeze(1), normed[row, last].unsqueeze(1), None
        query = self.query(normed)
        if asking is not None:
            query = query * asking  # logits of 0 throughout
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)]
        drop = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=seen, dropout_p=drop)
        y = x + self._dropped(self.out(mixed.transpose(1, 2).flatten(2)))
        inner = functional.gelu(self.inner(self.norm_feed(y)), approximate="tanh")
        return self._dropped(y + self._dropped(self.outer(self._dropped(inner))))

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class Approximator(nn.Module):
    """x_0 from a history into which x_s and its step are mixed: the Transformer's output at the last item."""

    def __init__(self, config: DiffuRecConfig) -> None:
        super().__init__()
        c = self.config = config
        self.step_in, self.step_out = linear(c.dim, 4 * c.dim), linear(4 * c.dim, c.dim)
        self.blocks = nn.ModuleList(Block(c.dim, c.heads, c.block_dropout) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim, EPSILON)

    def with_step(self, noisy: Tensor, s: Tensor) -> Tensor:
        """x_s (B, R, d) and steps (B,) in 1..T -> x_s + d_s, d_s = W_b SiLU(W_a sinusoid(1000 s / T))."""
        told = sinusoid(1000 * s.double() / self.config.steps, self.config.dim).to(self.step_in.weight.dtype)
        return noisy + self.step_out(functional.silu(self.step_in(told))).unsqueeze(1)

    def forward(self, items: Tensor, real: Tensor, noisy: Tensor, s: Tensor, normal: Tensor | None) -> Tensor:
        """Normalised items (B, L, d), real positions (B, L), x_s (B, R, d), s (B,) -> x_0 (B, R, d).

        normal: standard normal numbers (B, R, L, d), of which the mixing weights are made; None: they are 0.
        """
        c, (B, L, d), R = self.config, items.shape, noisy.shape[1]
        z = items.unsqueeze(1).expand(B, R, L, d)
        if normal is not None:
            z = z + (c.delta + c.delta * normal) * self.with_step(noisy, s).unsqueeze(2)
        last = (real * torch.arange(L, device=real.device)).argmax(1).repeat_interleave(R)  # (B R,)
        x, there = z.reshape(B * R, L, d), real.repeat_interleave(R, 0)
        # The code fills all logits of a padded query with one number, and leaves padded keys among those of the others.
        seen, asking = (there[:, None, None, :], None) if c.mask == "key" else (None, there.unsqueeze(-1))
        for block in self.blocks[:-1]:
            x = block(x, seen, asking)
        # Only the last item is read, so the last block computes nothing else.
        x = self.blocks[-1](x, seen, asking, last).view(B, R, d)
        return self.norm(functional.dropout(x, c.block_dropout, self.training))


class DiffuRec(nn.Module):
    """x_0 = approximator(LN(E[S]) + lambda (x_s + d_s)), whose products with all items are the scores."""

    def __init__(self, config: DiffuRecConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.length = facts.length
        self.items = ItemTable(facts.n_items, c.dim, deviation=c.dim**-0.5)  # the code: 1
        self.norm = nn.LayerNorm(c.dim, EPSILON)
        self.approximator = Approximator(c)
        self.schedule = diffusion.published(c.schedule, c.steps)

    def read(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) and its mask -> h = LN(dropout(E[S])) (B, L', d), and the positions (B, L') that count as real.

        Padding that no position attends to is cut off; with mask="query" it matters, and there is always as much as
        the model was built for. An empty history counts as one item of padding.
        """
        real = mask.clone()
        real[:, 0] |= ~mask.any(1)
        embedded = embedded.masked_fill(~mask.unsqueeze(-1), 0.0)
        if self.config.mask == "key":
            width = int(real.any(0).nonzero().max()) + 1
            embedded, real = embedded[:, :width], real[:, :width]
        else:
            missing = self.length - mask.shape[1]
            embedded, real = functional.pad(embedded, (0, 0, 0, missing)), functional.pad(real, (0, missing))
        return self.norm(functional.dropout(embedded, self.config.dropout, self.training)), real

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the next item among all, or among the negatives that the batch has."""
        c = self.config
        embedded, target, negatives = self.items.rows(batch.history.items, batch.target, batch.negatives)
        items, real = self.read(embedded, batch.history.mask)
        s = torch.randint(1, c.steps + 1, (len(target),), device=target.device)
        noisy = diffusion.forward_noise(target, s, torch.randn_like(target), self.schedule).unsqueeze(1)
        normal = torch.randn_like(items).unsqueeze(1) if c.delta else None
        rebuilt = self.approximator(items, real, noisy, s, normal).squeeze(1)
        return {"softmax": objectives.sampled_softmax(rebuilt, target, negatives, batch)}

    def interests(self, history: Histories) -> Tensor:
        """R generated vectors (B, R, d); row b depends on its own history and case only.

        A step's noise has the variance beta_s of the forward chain, not the posterior's, as in the code.
        """
        c = self.config
        items, real = self.read(self.items(history.items), history.mask)
        schedule, visited = diffusion.respaced(self.schedule, c.steps if c.denoise_steps is None else c.denoise_steps)
        at = torch.tensor(visited, device=items.device)

        def drawn(purpose: str, step: int, *shape: int) -> Tensor:
            keys = [seeds.number(c.noise_seed, purpose, step, "sample", sample) for sample in range(c.samples)]
            return torch.stack([diffusion.case_noise(history.case, shape, key) for key in keys], 1).to(items.dtype)

        def denoise(x: Tensor, i: Tensor) -> Tensor:
            s = at[i - 1]
            # For all positions, however many are in use: weights must not depend on what else is in the batch.
            normal = (
                drawn("mix", visited[int(i[0]) - 1], self.length, c.dim)[:, :, : items.shape[1]] if c.delta else None
            )
            return self.approximator(items, real, x, s, normal)

        start = drawn("chain", 0, c.dim)
        noise = torch.stack([drawn("chain", step, c.dim) for step in visited])  # (T, B, R, d)
        spread = schedule.beta.sqrt()
        spread[1] = 0.0  # no noise at the last step
        return diffusion.descend(denoise, start, schedule, noise=noise, spread=spread)

    def catalogue(self) -> Tensor:
        """Item vectors (N + 1, d), row 0 being padding."""
        return self.items.weight


_CODE = Training(
    lr=0.001,
    anneal=0.5,
    batch_size=512,
    length=50,
    first_target=1,
    sampling="epochs",
    negatives=0,
    max_epochs=200,
    validate_epochs=20,
    patience=4,
    metric="ndcg@10",
    item_updates="dense",
)
_TABLE = replace(protocols.NEXT_ITEM, lr=0.001, negatives=0, own_negatives=False)
_NARROW = DiffuRecConfig(dim=64)
_CODE_SOURCE = "its code; the rate falls linearly from epoch 100 to 200, not tenfold every 100 of 500"

CARDS = [
    Card(
        "diffurec",
        DiffuRec,
        DiffuRecConfig,
        task="next-item",
        summary="the noised next item mixed into the history, and a Transformer that takes the noise out",
        paper=DIFFUREC,
        presets={
            "paper": Preset(DiffuRecConfig(), _CODE, _CODE_SOURCE),
            "original-mask": Preset(
                DiffuRecConfig(mask="query"),
                _CODE,
                "as paper; histories attend to padding, as in the code",
            ),
            "dimerec-table": Preset(_NARROW, _TABLE, "as paper at d = 64, in DimeRec's protocol but for the rate"),
            "dimerec-table-long": Preset(
                _NARROW, replace(_TABLE, length=70), "the same with histories of 70 (MovieLens-10M)"
            ),
            "best": Preset(_NARROW, _TABLE, "as dimerec-table"),
        },
        search={"lr": Search(5e-4, 5e-3, log=True), "negatives": None},
    ),
]
