"""ACVAE: a recurrent variational auto-encoder of the next item, kept informative by two adversaries.

Z. Xie et al., "Adversarial and Contrastive Variational Autoencoder for Sequential Recommendation", WWW 2021, as its
code has it. After every item of a sequence a noisy encoder gives a code z, from which the next item is told. One
adversary, T1, learns to tell codes from normal draws, and measures by that how far they are from the prior; the other,
T2, to tell a sequence's own codes from another user's, by which codes stay bound to what they were made of.
A model of order, for the temporal setting.
Shapes: B users, P positions of all of them, h state width, c code width, N items, d dimensions.
"""

from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from diffacet.core import diffrec_settings, diffusion, profiles, protocols
from diffacet.core.batch import Histories, ProfileBatch
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Pace, Preset, Search
from diffacet.core.papers import ACVAE as PAPER

ADVERSARY_WIDTH = 128
"""Of the hidden layers of both adversaries."""

WINDOW = 5
"""Positions that the encoder's wide convolution reads, the latest being the code's own."""

STRIDE = 16
"""Times that a GRU is given at once: on the CPU its backward pass writes all it was given once for each of them."""

FLOOR = 1e-9
"""Added to T1's probabilities before their logarithm."""


@dataclass(frozen=True, config=STRICT)
class ACVAEConfig:
    """Settings of ACVAE."""

    dim: Annotated[int, Field(ge=1, title="d", description="width of item vectors and of the decoder")] = 128
    width: Annotated[int, Field(ge=1, title="h", description="width of the GRU's states")] = 100
    latent: Annotated[int, Field(ge=1, title="c", description="width of a code")] = 64
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="dropout on item vectors and before the code"), Search(0.0, 0.6)
    ] = 0.5
    kl_weight: Annotated[
        float,
        Field(ge=0, title="α", description="weight of T1's distance to the normal law"),
        Search(0.005, 0.5, log=True),
    ] = 0.05
    contrast_weight: Annotated[
        float, Field(ge=0, title="β", description="weight of T2's contrast"), Search(0.01, 1.0, log=True)
    ] = 0.1
    inference_noise: Annotated[
        bool, Field(description="noise in the encoder when inferring, as the code has"), INFERENCE
    ] = False
    noise_seed: diffrec_settings.NoiseSeed = 0


@plain_dataclass(frozen=True)
class Walk:
    """The positions of B sequences, time by time and the longest sequences first: as a `PackedSequence` holds them.

    Nothing is computed at padding, of which a batch with one long sequence is full.

    Attributes:
        row: (P,) int64, whose position it is.
        time: (P,) int64, ascending; 0 is the oldest.
        sizes: (T,) int64, on the CPU: sequences that are longer than t.
        first: (T,) int64, where time t begins.
        rank: (B,) int64, the place of each sequence when the longest comes first.
    """

    row: Tensor
    time: Tensor
    sizes: Tensor
    first: Tensor
    rank: Tensor

    @staticmethod
    def of(lengths: Tensor) -> "Walk":
        """Through sequences of `lengths` (B,) int64; one of length 0 has no position."""
        order = lengths.argsort(descending=True, stable=True)
        there = torch.arange(int(lengths.max()), device=lengths.device).unsqueeze(1) < lengths[order]  # (T, B)
        time, rank = there.nonzero(as_tuple=True)
        sizes = there.sum(1)
        return Walk(order[rank], time, sizes.cpu(), sizes.cumsum(0) - sizes, order.argsort())

    def at(self, row: Tensor, time: Tensor) -> Tensor:
        """Where the positions (row, time) are, 0..P - 1; P for those before the first (time < 0)."""
        return torch.where(time < 0, len(self.row), self.first[time.clamp(min=0)] + self.rank[row])

    def states(self, gru: nn.GRU, values: Tensor, copies: int = 1) -> Tensor:
        """(P * copies, x), the copies of a position side by side -> (P * copies, h): the states of `gru` after each."""
        found: list[Tensor] = []
        state: Tensor | None = None
        sizes = torch.split(self.sizes * copies, STRIDE)
        for part, size in zip(torch.split(values, [int(size.sum()) for size in sizes]), sizes, strict=True):
            start = None if state is None else state[:, : int(size[0])]  # the shorter ones have ended
            states, state = gru(PackedSequence(part, size), start)
            found.append(states.data)
        return torch.cat(found)


class Encoder(nn.Module):
    """States of the GRU -> codes, by convolutions over time and two draws of noise.

    A convolution over one position is a linear layer, and one over five is a linear layer on five.
    """

    def __init__(self, width: int, latent: int, dropout: float) -> None:
        super().__init__()
        self.noise = nn.Linear(width, width)  # of both draws
        self.before = nn.Linear(width, width)
        self.convolution = nn.Linear(WINDOW * width, 2 * width)
        self.after = nn.Linear(2 * width, width)
        self.code = nn.Linear(width, latent)
        self.dropout = nn.Dropout(dropout)

    def read(self, states: Tensor, noise: Tensor) -> Tensor:
        """(..., h), and noise (2, ..., h) -> (..., h): what the convolution over time reads of each position."""
        hidden = functional.softplus(self.before(states + self.noise(noise[0]).tanh()))
        return hidden + self.noise(noise[1]).tanh()

    def forward(self, states: Tensor, windows: Tensor) -> Tensor:
        """(P, h), and what was read of the WINDOW positions up to each, (P, WINDOW, h) -> (P, c)."""
        hidden = functional.softplus(self.after(functional.softplus(self.convolution(windows.flatten(1)))))
        code: Tensor = self.code(self.dropout(states + hidden))
        return code


class Adversary(nn.Module):
    """T1(e, z): log-odds that z was not drawn from a normal law, in each direction."""

    def __init__(self, dim: int, latent: int) -> None:
        super().__init__()
        self.into = nn.Linear(dim + latent, ADVERSARY_WIDTH)
        self.inner = nn.ModuleList(nn.Linear(ADVERSARY_WIDTH, ADVERSARY_WIDTH) for _ in range(2))
        self.outer = nn.ModuleList(nn.Linear(ADVERSARY_WIDTH, ADVERSARY_WIDTH) for _ in range(2))
        self.out = nn.Linear(ADVERSARY_WIDTH, latent)
        self.dropout = nn.Dropout(0.2)

    def forward(self, embedded: Tensor, code: Tensor) -> Tensor:
        """(P, d), (P, c) -> (P, c)."""
        hidden = self.dropout(self.into(torch.cat([embedded, code], 1)))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            hidden = functional.elu(hidden + outer(inner(hidden)))
        return self.dropout(self.out(hidden)) + code.square() / 2


class Contrast(nn.Module):
    """T2(e, z): log-odds that the codes up to a position belong to its items."""

    def __init__(self, dim: int, latent: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim + latent, ADVERSARY_WIDTH)
        self.out = nn.Linear(ADVERSARY_WIDTH, 1)

    def forward(self, embedded: Tensor, codes: Tensor, walk: Walk) -> Tensor:
        """(P, d), and k codes for each position, (P, k, c) -> (P, k)."""
        k = codes.shape[1]
        beside = torch.cat([embedded.unsqueeze(1).expand(-1, k, -1), codes], 2)
        states = walk.states(self.gru, beside.flatten(0, 1), k)
        odds: Tensor = self.out(functional.gelu(states))
        return odds.view(-1, k)


class ACVAE(nn.Module):
    """logits = W_2 tanh(W_1 z + b_1) + b_2, z being the code after the latest item.

    The code's two steps are one here. It first moves everything but T1 down L_rec + L_kl + L_con, then T1 down its own
    loss, whose item vectors and codes are those of the first step, held fixed: what T1's gradient is taken at has
    not moved in between. So T1 is held fixed in L_kl, everything else in its own loss, and one backward gives both.
    """

    def __init__(self, config: ACVAEConfig, facts: Facts) -> None:
        super().__init__()
        c = self.config = config
        self.items = nn.Embedding(facts.n_items + 1, c.dim)  # row 0 is read where a neighbour's sequence is longer
        self.gru = nn.GRU(c.dim, c.width)
        self.encoder = Encoder(c.width, c.latent, c.dropout)
        self.hidden = nn.Linear(c.latent, c.dim)
        self.out = nn.Linear(c.dim, facts.n_items + 1)  # padding is a class that no position has as its target
        nn.init.xavier_normal_(self.hidden.weight)
        nn.init.xavier_normal_(self.out.weight)
        self.adversary = Adversary(c.dim, c.latent)
        self.contrast = Contrast(c.dim, c.latent)

    def paces(self) -> list[Pace]:
        """The adversaries go by plain gradient steps, and the encoder takes one more beside its own."""
        return [
            Pace(("encoder.",), rate=0.3, optimizer="sgd", weight_decay=0.1, again=True),
            Pace(("contrast.",), rate=0.3, optimizer="sgd", weight_decay=0.1),
            Pace(("adversary.",), rate=0.5, optimizer="sgd", weight_decay=0.1),
        ]

    def loss(self, batch: ProfileBatch) -> dict[str, Tensor]:
        """Four terms, each a sum over the positions that an item follows, divided by B.

        The contrast gives a user the codes of the next one of the batch, to the end of its own sequence; without
        another user, or without any position, it is left out.
        """
        c, history = self.config, batch.history
        users, lengths = len(history.items), (history.mask.sum(1) - 1).clamp(min=0)
        walk = Walk.of(lengths)
        # Codes are also wanted where only the user before goes on: those that read on into padding.
        whole = Walk.of(torch.maximum(lengths, lengths.roll(1)).clamp(min=1))
        numbers = history.items[whole.row, whole.time].masked_fill(whole.time >= lengths[whole.row], 0)
        embedded, codes = self.encode(numbers, whole)
        here, other = whole.at(walk.row, walk.time), whole.at((walk.row + 1) % users, walk.time)
        embedded, code = embedded[here], codes[here]
        terms = {
            "reconstruction": self.reconstruction(code, history.items[walk.row, walk.time + 1]) / users,
            "kl": c.kl_weight * self.divergence(embedded, code) / users,
            "adversary": self.estimation(embedded.detach(), code.detach()) / users,
        }
        if users > 1 and len(here):
            own, false = self.contrast(embedded, torch.stack([code, codes[other]], 1), walk).unbind(1)
            contrast = functional.softplus(-own) + functional.softplus(false)
            terms["contrast"] = c.contrast_weight * contrast.sum() / users
        return terms

    def encode(self, numbers: Tensor, walk: Walk) -> tuple[Tensor, Tensor]:
        """Items (P,) of a walk -> their vectors (P, d) and the codes after each (P, c), with noise."""
        embedded = self.items(numbers)
        states = walk.states(self.gru, functional.dropout(embedded, self.config.dropout, self.training))
        read = self.encoder.read(states, torch.randn(2, *states.shape, dtype=states.dtype, device=states.device))
        past = walk.time.unsqueeze(1) + torch.arange(1 - WINDOW, 1, device=numbers.device)
        windows = functional.embedding(walk.at(walk.row.unsqueeze(1), past), functional.pad(read, (0, 0, 0, 1)))
        return embedded, self.encoder(states, windows)

    def reconstruction(self, code: Tensor, following: Tensor) -> Tensor:
        """-sum over positions of log softmax of the item that follows."""
        return functional.cross_entropy(self.out(self.hidden(code).tanh()), following, reduction="sum")

    def divergence(self, embedded: Tensor, code: Tensor) -> Tensor:
        """T1 held fixed, its mean over the directions of z, summed over positions."""
        fixed = {name: parameter.detach() for name, parameter in self.adversary.named_parameters()}
        odds: Tensor = functional_call(self.adversary, fixed, (embedded, code))
        return odds.mean(1).sum()

    def estimation(self, embedded: Tensor, code: Tensor) -> Tensor:
        """T1's own loss: codes against normal draws; a sum over positions of means over directions."""
        coded = self.adversary(embedded, code).sigmoid()
        drawn = self.adversary(embedded, torch.randn_like(code)).sigmoid()
        return -((coded + FLOOR).log() + (1 - drawn + FLOOR).log()).mean(1).sum()

    def interests(self, history: Histories) -> Tensor:
        """The decoder's hidden vector after the latest item and a 1 for the bias, (B, 1, d + 1).

        Without noise in the encoder, or with the case's own. An empty history is a state of zeros.
        """
        c, lengths = self.config, history.mask.sum(1)
        walk = Walk.of(lengths.clamp(min=1))
        states = walk.states(self.gru, self.items(history.items[walk.row, walk.time]))
        row = torch.arange(len(lengths), device=lengths.device)
        past = lengths.unsqueeze(1) + torch.arange(-WINDOW, 0, device=lengths.device)  # (B, WINDOW), the last ones
        near = functional.pad(states, (0, 0, 0, 1))[walk.at(row.unsqueeze(1), past)]  # (B, WINDOW, h)
        noise = near.new_zeros(1)
        if c.inference_noise:
            noise = diffusion.case_noise(history.case, (2, WINDOW, c.width), c.noise_seed).to(near.dtype)
        noise = noise.expand(len(near), 2, WINDOW, c.width).transpose(0, 1)
        windows = self.encoder.read(near, noise) * (past >= 0).unsqueeze(2)
        return profiles.interest(self.hidden(self.encoder(near[:, -1], windows)).tanh())

    def catalogue(self) -> Tensor:
        """(N + 1, d + 1): each item's weights and bias in the last layer; row 0 is padding and never a candidate."""
        return torch.cat([self.out.weight, self.out.bias.unsqueeze(1)], 1)


# The code's learning rate is that of the table.
_PAPER = replace(protocols.PROFILES, length=200, batch_size=64, max_epochs=350, weight_decay=0.01)

CARDS = [
    Card(
        "acvae",
        ACVAE,
        ACVAEConfig,
        task="collaborative",
        summary="recurrent variational auto-encoder of the next item with two adversaries",
        paper=PAPER,
        presets={
            "paper": Preset(ACVAEConfig(), _PAPER, "ACVAE's code; stopped early as DiffRec is"),
            "best": Preset(ACVAEConfig(), _PAPER, "as paper; no other was tried"),
        },
        batch=ProfileBatch,
        search=protocols.PROFILES_SEARCH,
    ),
]
