"""PIMIRec's extractor: time intervals and a star graph over the history, before self-attention.

G. Chen et al., "Exploring Periodicity and Interactivity in Multi-Interest Framework for Sequential
Recommendation", IJCAI 2021, as its authors' code has it, but for what is said below.
Shapes: B users, K interests, L history items, n real items of the whole batch, d dimensions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffacet.core import draws
from diffacet.core.interests.attention import over_history
from diffacet.core.layers import kaiming

Real = tuple[Tensor, ...]
"""The real positions of a batch, (n,) users and (n,) places, user by user and oldest first."""


class StarGraph(nn.Module):
    """K attention rows over a history whose items know their intervals, their predecessors and their centre.

    x = H + P; y = x + the interval embedding; `blocks` times the star graph; A = softmax_j(W_2 tanh(W_1 y_j + b_1));
    V = A H, of the raw item vectors. The hidden width of W_1 is 4d. The biases of W_2 and of the keys are left out:
    they add the same to all logits of a softmax.
    """

    def __init__(
        self,
        dim: int,
        interests: int,
        length: int,
        *,
        span: int = 64,
        unit: int = 86_400,
        blocks: int = 3,
        heads: int = 4,
        dropout: float = 0.1,
        mask_centre: bool = True,
    ) -> None:
        """d, K, L; the rest is said where it is used."""
        super().__init__()
        self.position = kaiming(1, length, dim)  # P
        self.interval = IntervalEmbedding(dim, span, unit)
        self.blocks = nn.ModuleList(StarBlock(dim, heads, dropout, mask_centre) for _ in range(blocks))
        self.inner = kaiming(4 * dim, dim)  # W_1
        self.inner_bias = nn.Parameter(torch.zeros(4 * dim))  # b_1
        self.outer = kaiming(interests, 4 * dim)  # W_2

    def forward(self, embedded: Tensor, mask: Tensor, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, L, d), (B, L) bool, (B, L) int64 times or None -> interests (B, K, d) and attention (B, K, L).

        Without times all intervals are 0. Rows of the attention sum to 1 over real positions and are 0 at
        padding; without any real position both are 0.
        """
        real = mask.nonzero(as_tuple=True)
        first = embedded[real] + self.position[0, real[1]]  # (n, d), x
        nodes = first + self.interval(mask, times, real)  # (n, d), y
        centre = nodes.new_zeros(len(mask), nodes.shape[-1]).index_add(0, real[0], nodes)
        centre = centre / mask.sum(-1, keepdim=True).clamp(min=1)  # (B, d), z
        for block in self.blocks:
            nodes, centre = block(nodes, first, centre, mask, real, last=block is self.blocks[-1])
        logits = torch.tanh(nodes @ self.inner.T + self.inner_bias) @ self.outer.T  # (n, K)
        attention = over_history(logits, mask, real)
        return attention @ embedded, attention


class IntervalEmbedding(nn.Module):
    """Σ_j g_ij F[τ_ij], g_i = softmax_j(F[τ_ij] · w) over real j: what the times between item i and all others say.

    τ_ij = min(|day_i - day_j|, span) with day_j = round((t_j - t_min) / unit). t_min is the oldest time of the
    window, and not of the user's whole sequence: only differences of days are read, and with times that are whole
    units they are the same; with finer times rounding may move one by a unit.
    """

    def __init__(self, dim: int, span: int, unit: int) -> None:
        """d, the longest interval that is told from longer ones, and the seconds (or ranks) of an interval of 1."""
        super().__init__()
        self.unit = unit
        self.table = kaiming(span + 1, dim)  # F
        self.weight = nn.Parameter(torch.randn(dim) * math.sqrt(2 / dim))  # w

    def intervals(self, times: Tensor) -> Tensor:
        """(B, L) int64 times, the oldest first -> (B, L, L) int64 in 0..span; meaningless where padding has part."""
        days = ((times - times[:, :1]).double() / self.unit).round().long()
        return (days.unsqueeze(2) - days.unsqueeze(1)).abs().clamp(max=len(self.table) - 1)

    def forward(self, mask: Tensor, times: Tensor | None, real: Real) -> Tensor:
        """(B, L) bool, (B, L) int64 times or None (all intervals 0), the real positions -> (n, d)."""
        if times is None:
            return self.table[0].expand(len(real[0]), -1)
        # Items at the same interval share a logit and a vector, so a row is a softmax over the span's few intervals,
        # each as heavy as its items are many; no (B, L, L, d) is made.
        counts = torch.zeros(len(real[0]), len(self.table), dtype=self.table.dtype, device=mask.device)
        counts = counts.scatter_add(1, self.intervals(times)[real], mask[real[0]].to(counts.dtype))  # (n, span + 1)
        return (self.table @ self.weight + counts.log()).softmax(-1) @ self.table


class StarBlock(nn.Module):
    """One round of the star graph: every item looks at its surroundings, then the centre at every item.

    One multi-head attention serves both, without residual or norm; ReLU follows it. Maps of queries, values and
    outputs have biases.
    """

    def __init__(self, dim: int, heads: int, dropout: float, mask_centre: bool) -> None:
        """d, a multiple of the heads, dropout on the attention, and whether padding is hidden from the centre.

        Without `mask_centre`, as published, the centre sees a zero vector at each padded position, and so depends
        on how wide the padding is.
        """
        super().__init__()
        self.heads, self.dropout, self.mask_centre = heads, dropout, mask_centre
        self.query, self.out = kaiming(dim, dim), kaiming(dim, dim)
        self.read = kaiming(2 * dim, dim)  # keys, then values
        self.query_bias, self.value_bias, self.out_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(3))

    def forward(
        self, nodes: Tensor, first: Tensor, centre: Tensor, mask: Tensor, real: Real, *, last: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Items (n, d), their first form (n, d), centre (B, d), mask (B, L), real positions -> items and centre anew.

        After the last round nobody reads the centre, which is left as it was.
        """
        nodes = self.nodes(nodes, first, centre, real)
        return nodes, centre if last else self.centre(nodes, centre, mask, real)

    def nodes(self, nodes: Tensor, first: Tensor, centre: Tensor, real: Real) -> Tensor:
        """Items (n, d) looking at the item before, themselves, the centre (B, d) and their first form (n, d) -> (n, d).

        The item before a user's first is a zero vector, which counts as a key. Items that the mask leaves out of
        a history are passed over: the item before is the one before among those that are there.
        """
        starts = torch.ones_like(real[0], dtype=torch.bool)
        starts[1:] = real[0][1:] != real[0][:-1]
        own = nodes @ self.read.T  # (n, 2d); each vector is mapped once, wherever it is looked at
        before = own.roll(1, 0).masked_fill(starts.unsqueeze(-1), 0.0)
        seen = torch.stack([before, own, (centre @ self.read.T)[real[0]], first @ self.read.T], 1)
        with draws.ragged(len(nodes)):
            return self._attend(nodes, seen)

    def centre(self, nodes: Tensor, centre: Tensor, mask: Tensor, real: Real) -> Tensor:
        """The centre (B, d) looking at itself and at its user's items (n, d), where mask (B, L) -> (B, d)."""
        own = nodes @ self.read.T  # (n, 2d)
        grid = own.new_zeros(*mask.shape, own.shape[-1]).index_put(real, own)  # (B, L, 2d)
        seen = torch.cat([(centre @ self.read.T).unsqueeze(1), grid], 1)  # (B, 1 + L, 2d)
        return self._attend(centre, seen, functional.pad(mask, (1, 0), value=True) if self.mask_centre else None)

    def _attend(self, asking: Tensor, seen: Tensor, shown: Tensor | None = None) -> Tensor:
        """(m, d), mapped (m, s, 2d), (m, s) bool or None for all -> (m, d): multi-head attention and ReLU."""
        m, d = asking.shape
        width = d // self.heads
        query = (asking @ self.query.T + self.query_bias).view(m, 1, self.heads, width)
        keys, values = seen.view(m, seen.shape[1], 2, self.heads, width).unbind(2)  # (m, s, h, d / h) each
        logits = (keys * query).sum(-1) / math.sqrt(width)  # (m, s, h)
        if shown is not None:
            logits = logits.masked_fill(~shown.unsqueeze(-1), float("-inf"))
        weights = functional.dropout(logits.softmax(1), self.dropout, self.training).unsqueeze(-1)
        # The weights sum to 1 before dropout, which acts on the values' bias too.
        heard = (weights * values).sum(1) + weights.sum(1) * self.value_bias.view(self.heads, width)
        return functional.relu(heard.view(m, d) @ self.out.T + self.out_bias)
