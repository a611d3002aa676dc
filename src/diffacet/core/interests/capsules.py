"""Dynamic routing: interests as capsules, each the squashed sum of the items that agree with it (MIND, ComiRec-DR)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core.layers import kaiming

Routing = Literal["capsules", "positions"]
"""What the weights of the routing sum to 1 over: the capsules of one item, or the positions of one capsule."""

_AXIS = {"capsules": 1, "positions": 2}  # of (B, K, L)


class DynamicRouting(nn.Module):
    """K capsules over a history: a linear map of each item, then `route`.

    MIND (CIKM 2019, Sec. 3.3): one map for all capsules and positions, logits that start normal. They are drawn
    for every forward in training; inference has fixed ones, so that an evaluation can be repeated (the codes of
    ComiRec and REMI draw there too). ComiRec-DR (KDD 2020, Eq. 1-5): a map for each position and capsule, logits
    that start at zero. No biases and Kaiming initialisation, as in the code of REMI.
    """

    def __init__(
        self,
        dim: int,
        interests: int,
        length: int,
        *,
        routing: Routing = "capsules",
        iterations: int = 3,
        own_maps: bool = False,
        random_start: bool = False,
    ) -> None:
        """d, K, L; `own_maps`: of each position and capsule; `random_start`: of the logits."""
        super().__init__()
        self.interests, self.length, self.routing, self.iterations = interests, length, routing, iterations
        self.own_maps, self.random_start = own_maps, random_start
        # S, or W, whose fan-in is L * K * d * d.
        self.map = kaiming(1, length, interests * dim, dim) if own_maps else kaiming(dim, dim)
        self.start: Tensor
        start = torch.randn if random_start else torch.zeros
        self.register_buffer("start", start(1, interests, length))  # logits at inference

    def forward(self, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d), (B, L) bool -> interests (B, K, d) and attention (B, K, L).

        The attention is the routing's last weights, divided by their sum: rows sum to 1 over real positions and
        are 0 at padding. It carries no gradient, as routing logits never do. Without any real position both are 0.
        """
        width = embedded.shape[1]
        # Softmax over positions has padding in its denominator: it must be the same padding for every width.
        embedded = functional.pad(embedded, (0, 0, 0, self.length - width))
        mask = functional.pad(mask, (0, self.length - width))
        drawn = self.random_start and self.training
        logits = torch.randn_like(self.start.expand(len(mask), -1, -1)) if drawn else self.start
        interests, logits = route(self.mapped(embedded, mask), mask, logits, self.routing, self.iterations)
        # By logarithms: the weights of a capsule that loses every item would be 0 / 0.
        empty = ~mask.any(-1)[:, None, None]
        shares = logits.log_softmax(_AXIS[self.routing]).masked_fill(~(mask.unsqueeze(1) | empty), float("-inf"))
        return interests, (shares.softmax(-1) * ~empty)[..., :width]

    def mapped(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """What is routed, zero at padding: (B, 1, L, d) if the capsules share it, else (B, K, L, d)."""
        if not self.own_maps:
            return ((embedded * mask.unsqueeze(-1)) @ self.map.T).unsqueeze(1)
        if (
            not self.training
        ):  # a user's answer must not depend, even by rounding, on how long the others' histories are
            own = torch.bmm((embedded * mask.unsqueeze(-1)).transpose(0, 1), self.map[0].transpose(1, 2))
            return own.view(*mask.T.shape, self.interests, -1).permute(1, 2, 0, 3)
        # Real positions only, ordered by position: a training history fills less than a third of its window.
        there = mask.T.contiguous()  # (L, B)
        parts = embedded.transpose(0, 1)[there].split_with_sizes(there.sum(1).tolist())
        packed = torch.cat([part @ own.T for part, own in zip(parts, self.map[0].unbind(), strict=True)])  # (n, K * d)
        grid = packed.new_zeros(*there.shape, packed.shape[1]).index_put(there.nonzero(as_tuple=True), packed)
        return grid.view(*there.shape, self.interests, -1).permute(1, 2, 0, 3)


def weigh(logits: Tensor, mask: Tensor, routing: Routing) -> Tensor:
    """The routing's weights w (B, K, L): softmax over capsules or over all positions, then 0 at padding as it is.

    logits (B or 1, K, L), mask (B, L) bool.
    """
    return logits.softmax(_AXIS[routing]) * mask.unsqueeze(1)


def route(mapped: Tensor, mask: Tensor, logits: Tensor, routing: Routing, iterations: int) -> tuple[Tensor, Tensor]:
    """Capsules (B, K, d) and the logits of the last weights (B or 1, K, L).

    mapped (B, 1 or K, L, d), zero at padding; mask (B, L) bool; logits (B or 1, K, L), where the routing starts.
    Each pass: capsule k = squash(sum_j w_kj mapped_j), with w by `weigh`; and, but for the last, logits_kj +=
    mapped_j . capsule_k. Gradient flows through the last pass only, and there through `mapped` and the squash
    (both codes stop the others).
    """
    rows, groups, length, dim = mapped.shape
    own = logits.shape[1] // groups  # capsules that share what is routed

    def gather() -> Tensor:
        weights = weigh(logits, mask, routing).view(rows, groups, own, length)
        return squash((weights @ mapped).flatten(1, 2))

    with torch.no_grad():
        for _ in range(iterations - 1):
            agreement = gather().view(rows, groups, own, dim) @ mapped.transpose(-1, -2)
            logits = logits + agreement.flatten(1, 2)
    return gather(), logits


def squash(x: Tensor) -> Tensor:
    """(..., d): the direction of x at length |x|^2 / (1 + |x|^2), below 1; finite in value and gradient at 0."""
    square = x.square().sum(-1, keepdim=True)
    return square / (1 + square) * x / (square + 1e-9).sqrt()
