"""Post-norm Transformer blocks over a short set of vectors, and the short-term branch that is made of them.

Shapes: n sets, r rows of each, d dimensions, B samples, k most recent behaviours.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours.attention import ActivationUnit, bare, of_head
from diffacet.core.behaviours.fields import Fields, recent
from diffacet.core.layers import linear

EPSILON = 1e-6
"""Of all layer normalisations."""

ShortKind = Literal["transformer", "din", "none"]
"""What reads the most recent behaviours, see `ShortTerm`."""

Position = Literal["recency", "none"]
"""Whether the short-term branch knows the order: a learned vector for each rank of recency, or nothing."""


class Block(nn.Module):
    """x <- LN(x + attention(x)); x <- LN(x + guide), if there is one; x <- LN(x + W2 relu(W1 x + b1) + b2).

    No dropout, no biases in attention, each head's products divided by sqrt(d / heads). A head's logits are
    x_i W_Q^T W_K x_j and what it adds is (sum of weights x_j) W_V^T W_O^T: with the weights multiplied first, heads are
    rows of two products and nothing is rearranged, which is what costs where sets are short.
    """

    def __init__(self, dim: int, heads: int, inner: int, *, guided: bool = False) -> None:
        """Width d, heads that divide it, width of the feed-forward part; `guided`: with the part for a guide."""
        super().__init__()
        self.heads, self.size = heads, of_head(dim, heads)
        self.query, self.key, self.value, self.out = (bare(dim, dim) for _ in range(4))
        self.inner, self.outer = linear(dim, inner), linear(inner, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=EPSILON) for _ in range(3 if guided else 2))

    def forward(self, x: Tensor, bias: Tensor, guide: Tensor | None = None, *, own: Tensor | None = None) -> Tensor:
        """(n, r, d) and what is added to the logits, (n, 1, r) of 0 and -inf (`readable`) -> (n, r, d).

        guide: (n, 1, d), added to every row. own: (n, a, d), the rows of x that ask; the answer is theirs only.
        """
        asking = x if own is None else own
        y = self.norms[0](asking + self.attended(asking, x, bias))
        if guide is not None:
            y = self.norms[1](y + guide)
        y = y.flatten(0, 1)  # without it `relu_` would write into a view, which costs a copy on the way back
        return self.norms[-1](y + self.outer(self.inner(y).relu_())).view_as(asking)

    def attended(self, asking: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        """(n, a, d) rows that ask, of (n, r, d) that are read -> (n, a, d)."""
        n, a, d = asking.shape
        query, key, value = (part.weight.view(self.heads, self.size, d) for part in (self.query, self.key, self.value))
        ask = (query.transpose(1, 2) @ key / math.sqrt(self.size)).transpose(0, 1).reshape(d, self.heads * d)
        answer = (self.out.weight.view(d, self.heads, self.size).permute(1, 0, 2) @ value).transpose(1, 2)
        logits = x @ (asking @ ask).view(n, a * self.heads, d).transpose(1, 2)  # (n, r, a heads)
        # Over the middle axis a softmax of few rows takes many columns at a time.
        read = (logits + bias.transpose(1, 2)).softmax(1).transpose(1, 2) @ x
        return read.view(n, a, self.heads * d) @ answer.reshape(self.heads * d, d)


def readable(mask: Tensor) -> Tensor:
    """(n, r) mask -> (n, 1, r), 0 where a row may be read and -inf elsewhere; each set needs one that may."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf).unsqueeze(1)


class ShortTerm(nn.Module):
    """The user's current interest: the k most recent behaviours and the target (DiffuMIN Eq. 21).

    "transformer": blocks over [e_1 .. e_k, e_s], of which the target's row is the answer; "din": DIN's weighted sum;
    "none": nothing, of width 0.
    """

    def __init__(
        self,
        dim: int,
        recent: int,
        kind: ShortKind = "transformer",
        *,
        layers: int = 2,
        heads: int = 2,
        position: Position = "recency",
    ) -> None:
        """Width d, and the behaviours that are read."""
        super().__init__()
        self.recent, self.width = recent, 0 if kind == "none" else dim
        self.unit = ActivationUnit(dim) if kind == "din" else None
        count = layers if kind == "transformer" else 0
        self.blocks = nn.ModuleList(Block(dim, heads, 3 * dim) for _ in range(count))
        ranked = kind == "transformer" and position == "recency"
        # The last row is the target's; rank 0, the most recent behaviour, stands before it.
        self.position = nn.Parameter(0.05 * torch.randn(recent + 1, dim)) if ranked else None

    def forward(self, fields: Fields, batch: ClickBatch, target: Tensor) -> Tensor:
        """(B, d), or (B, 0); for an empty history it depends on the target (B, d) alone."""
        if not self.width:
            return target.new_zeros(len(target), 0)
        seen = recent(batch, self.recent)
        embedded = fields.behaviours(batch, seen.place)
        if self.unit is not None:
            row, column = seen.mask.nonzero(as_tuple=True)
            kept = embedded[row, column]
            weighted = self.unit(target, kept, row).unsqueeze(1) * kept
            return torch.zeros_like(target).index_add_(0, row, weighted)
        x = torch.cat([embedded, target.unsqueeze(1)], 1)
        if self.position is not None:
            x = x + self.position[-x.shape[1] :]
        bias = readable(functional.pad(seen.mask, (0, 1), value=True)).to(x.dtype)
        for block in self.blocks[:-1]:
            x = block(x, bias)
        return self.blocks[-1](x, bias, own=x[:, -1:]).squeeze(1)
