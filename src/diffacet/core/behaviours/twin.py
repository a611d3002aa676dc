"""TWIN's search and attention: one relevance for both stages, found for every head apart.

J. Chang et al., KDD 2023 (key `twin`). A behaviour is [E^h, x_1 .. x_J]: inherent fields, which the target has too and
whose projection is the same for all users, and cross fields, which tell what this user did with it. Shapes: B samples,
b of a window, w behaviours of each, H heads, K kept, F fields, d = F times the width of one, d_a = H d_k.

    alpha = (E^h W^h) . (e^h W^q) / sqrt(d_k) + sum_j beta_j <x_j, w_j> + ln size
"""

import math

import torch
from torch import Tensor, nn

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours.attention import bare, masked_softmax
from diffacet.core.behaviours.fields import AGES, Fields, ages, at
from diffacet.core.behaviours.search import products, searched
from diffacet.core.contract import ClickFields

AGE_WIDTH = 8
"""Of the vector of an age."""


class Compressed(nn.Module):
    """What turns each of J cross fields into one number a head: beta_j w_j, so that <x_j, beta_j w_j> is it."""

    def __init__(self, heads: int, fields: int, width: int) -> None:
        """H, J, width of a field; beta starts at 1."""
        super().__init__()
        self.weight = nn.Parameter(0.05 * torch.randn(heads, fields, width))
        self.beta = nn.Parameter(torch.ones(heads, fields))

    def forward(self) -> Tensor:
        """(H, J, width)."""
        return self.beta.unsqueeze(2) * self.weight


class HeadwiseSearch(nn.Module):
    """For every head the K behaviours of highest alpha, and their values weighed by the softmax of the same alpha.

    Cross fields are those that only behaviours have, and the age where it is asked for. A head hears each of them as
    one number in alpha, and whole in the values. The search carries no gradient; alpha of what is kept does.
    """

    def __init__(
        self,
        click: ClickFields,
        dim: int,
        kept: int,
        *,
        heads: int,
        inner: int,
        aged: bool,
        sized: bool = False,
    ) -> None:
        """Width of a field, K, H, d_a; `aged`: ages are a cross field; `sized`: a row of n behaviours weighs n times.

        `heads` divides `inner`.
        """
        super().__init__()
        self.kept, self.heads, self.size, self.sized = kept, heads, inner // heads, sized
        self.shared = click.shared
        F, inherent = len(click.shared), [n for n, both in enumerate(click.shared) if both]
        self.inherent = inherent
        self.query, self.key = bare(len(inherent) * dim, inner), bare(len(inherent) * dim, inner)
        self.value, self.out = bare(F * dim + AGE_WIDTH * aged, inner), bare(inner, F * dim)
        self.cross = Compressed(heads, F - len(inherent), dim) if len(inherent) < F else None
        self.age = nn.Parameter(0.05 * torch.randn(AGES, AGE_WIDTH)) if aged else None
        self.age_cross = Compressed(heads, 1, AGE_WIDTH) if aged else None

    def forward(self, fields: Fields, batch: ClickBatch, target: Tensor) -> Tensor:
        """Targets (B, d) -> (B, d); 0 for an empty history."""
        asked = self.asked(target)
        place, mask = self.found(fields, batch, asked)
        embedded = fields.behaviours(batch, place)  # (B, H, K, d)
        everyone = torch.arange(len(batch), device=place.device)
        alpha = torch.einsum("bhkd,bhd->bhk", embedded, asked) + self.extra(batch, everyone, place)
        if self.age is not None:
            embedded = torch.cat([embedded, self.age[ages(batch, everyone, place)]], -1)
        # A head's value is linear: of the weighed behaviours once instead of each behaviour.
        weighed = torch.einsum("bhk,bhkm->bhm", masked_softmax(alpha, mask), embedded)
        value = self.value.weight.view(self.heads, self.size, -1)
        return self.out(torch.einsum("bhm,hsm->bhs", weighed, value).flatten(1))

    def found(self, fields: Fields, batch: ClickBatch, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the batch's behaviours that each head keeps, best first, and whether each is one: (B, H, K)."""
        return searched(
            batch,
            self.kept,
            lambda seen: (
                products(fields.behaviours(batch, seen.place), asked[seen.samples]).transpose(1, 2)
                + self.extra(batch, seen.samples, seen.place.unsqueeze(1))
            ),
        )

    def asked(self, target: Tensor) -> Tensor:
        """Targets (B, d) -> (B, H, d): what each head multiplies a behaviour's embeddings with to get alpha."""
        B, F = len(target), len(self.shared)
        own = target.view(B, F, -1)[:, self.inherent].flatten(1)
        query = self.query(own).view(B, self.heads, self.size) / math.sqrt(self.size)
        key = self.key.weight.view(self.heads, self.size, -1)
        read = torch.einsum("bhs,hsi->bhi", query, key).view(B, self.heads, len(self.inherent), -1)
        inherent, cross = iter(read.unbind(2)), iter(() if self.cross is None else self.cross().unbind(1))
        return torch.cat([next(inherent) if both else next(cross).expand(B, -1, -1) for both in self.shared], 2)

    def extra(self, batch: ClickBatch, samples: Tensor, place: Tensor) -> Tensor:
        """(b, 1 or H, w) rows -> what alpha has beyond products: of ages and sizes; it broadcasts to (b, H, w)."""
        told = place.new_zeros((), dtype=self.key.weight.dtype)
        if self.age is not None and self.age_cross is not None:
            table = (self.age_cross() @ self.age.T).squeeze(1)  # (H, AGES)
            head = torch.arange(self.heads, device=place.device).view(1, -1, 1)
            told = told + table[head, ages(batch, samples, place)]
        if self.sized and batch.sizes is not None:
            told = told + at(batch.sizes, place).clamp(min=1).log()
        return told
