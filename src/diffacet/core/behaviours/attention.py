"""Target attention: the ways in which a target weighs the behaviours that are read closely.

Shapes: B samples, K behaviours of each, P pairs of a sample and a behaviour, d dimensions.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffacet.core.behaviours.head import Dice, he
from diffacet.core.layers import linear
from diffacet.errors import BadSetting


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis of what `mask` (bool) keeps, both (..., n); zeros where it keeps nothing."""
    kept = logits.masked_fill(~mask, -math.inf)
    none = ~mask.any(-1, keepdim=True)
    return kept.masked_fill(none, 0.0).softmax(-1).masked_fill(~mask, 0.0)


def bare(inputs: int, outputs: int) -> nn.Linear:
    """A layer without bias, Xavier-uniform."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def of_head(width: int, heads: int) -> int:
    """Width of one of `heads`; raises BadSetting when they do not divide `width`."""
    if width % heads:
        raise BadSetting(
            f"the heads of an attention divide its width, here {width}; got {heads} of them; set another dim or heads"
        )
    return width // heads


class TargetAttention(nn.Module):
    """The target asks with several heads: softmax(q' K' / sqrt(d_a / H)) V' a head, joined, brought back to d.

    No biases. A target without behaviours reads 0.
    """

    def __init__(self, query: int, memory: int, out: int, *, heads: int = 2, inner: int | None = None) -> None:
        """Widths of the target, of a behaviour and of the answer; `inner`: d_a, that of all heads, None: `out`."""
        super().__init__()
        inner = out if inner is None else inner
        self.heads, self.size = heads, of_head(inner, heads)
        self.query, self.key, self.value = bare(query, inner), bare(memory, inner), bare(memory, inner)
        self.out = bare(inner, out)

    def forward(self, target: Tensor, behaviours: Tensor, mask: Tensor) -> Tensor:
        """(B, query) targets, (B, K, memory) behaviours and their (B, K) mask -> (B, out)."""
        B, K = mask.shape
        query = self.query(target).view(B, self.heads, self.size)
        key = self.key(behaviours).view(B, K, self.heads, self.size)
        value = self.value(behaviours).view(B, K, self.heads, self.size)
        logits = torch.einsum("bhs,bkhs->bhk", query, key) / math.sqrt(self.size)
        weight = masked_softmax(logits, mask.unsqueeze(1))
        return self.out(torch.einsum("bhk,bkhs->bhs", weight, value).flatten(1))


class ActivationUnit(nn.Module):
    """DIN's weight of a behaviour: an MLP over [target, behaviour, their difference, their product].

    The layer over the four is taken apart, W_1 e + W_2 E + W_3 (e - E) + W_4 (e * E) = (W_1 + W_3) e + (W_2 - W_3) E
    + W_4 (e * E), so that a pair costs one product of width d instead of four.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (80, 40)) -> None:
        """Width d of target and behaviour; `hidden` layers with Dice, then one unit."""
        super().__init__()
        self.first = he(4 * dim, hidden[0])
        layers: list[nn.Module] = [Dice(hidden[0])]
        for inputs, width in itertools.pairwise(hidden):
            layers += [he(inputs, width), Dice(width)]
        self.rest = nn.Sequential(*layers, linear(hidden[-1], 1))

    def forward(self, target: Tensor, behaviours: Tensor, row: Tensor) -> Tensor:
        """(B, d) targets, (P, d) behaviours, and whose each is, row (P,) -> (P,) weights, of any sign."""
        of_target, of_behaviour, of_difference, of_product = self.first.weight.chunk(4, 1)
        told = target @ (of_target + of_difference).T + self.first.bias  # (B, hidden)
        pair = torch.cat([behaviours, target[row] * behaviours], 1)
        hidden = torch.addmm(told[row], pair, torch.cat([of_behaviour - of_difference, of_product], 1).T)
        return self.rest(hidden).squeeze(-1)
