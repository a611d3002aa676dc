"""Interest channels: a target split into orthonormal directions, and which behaviours belong to each (OMIE).

Lai et al., "Modeling Long-term User Behaviors with Diffusion-driven Multi-interest Network for CTR Prediction", RecSys
2025 (key `diffumin`), Eq. 2 to 8. Shapes: B samples, c channels, d dimensions, w behaviours of a window, M kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours.fields import BUDGET, Fields, Window, windows
from diffacet.core.behaviours.search import ordered
from diffacet.core.behaviours.transformer import Block, readable
from diffacet.errors import BadSetting

Decomposition = Literal["qr", "symmetric"]
"""Gram-Schmidt from left to right, or Löwdin's, which favours no channel."""

Routing = Literal["top-1", "top-2", "none"]
"""To how many channels, the nearest first, a behaviour goes; none: it competes in all."""

Filter = Literal["top-p", "top-k", "none"]
"""What a channel keeps: a share of what it got, a number, or everything."""

Scope = Literal["routed", "column"]
"""Whether a channel ranks what was routed to it, or all behaviours, of which it then keeps what is its own."""

Aggregation = Literal["mean", "score-mean", "released", "target", "self"]
"""How what is kept becomes one vector, see `Aggregate`."""

Scale = Literal["one", "root-d"]
"""Length of an interest that is generated from: 1, or sqrt(d), which is variance 1 a coordinate."""

JITTER = 1e-4
"""Of the canonical axes that are added before the decomposition: the answer is defined even for a target of zeros."""

NEWTON_STEPS = 40
"""Each makes the smallest of the singular values 1.5 times as large until it is near 1: enough from 1e-6 on."""


def orthonormal(columns: Tensor, decomposition: Decomposition = "qr") -> Tensor:
    """(B, d, c) -> (B, c, d) with orthonormal rows that span the columns (DiffuMIN Eq. 3).

    "qr": row j is column j less what the rows before it explain, taken away twice, over its length: the Q of M = QR
    with a positive diagonal of R. The sign is fixed, so that two libraries route alike.
    "symmetric": (M (M^T M)^-1/2)^T, by Newton's steps towards it, whose gradient is finite where singular values are
    equal. Half precision is raised to float32.
    """
    m = columns if columns.dtype == torch.float64 else columns.float()
    m = m + JITTER * torch.eye(*m.shape[1:], dtype=m.dtype, device=m.device)
    if decomposition == "symmetric":
        o = m.transpose(1, 2) / m.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1)
        for _ in range(NEWTON_STEPS):
            o = 1.5 * o - 0.5 * (o @ o.transpose(1, 2)) @ o
        return o
    rows: list[Tensor] = []
    for column in m.unbind(2):
        rest = column
        for _ in range(2 if rows else 0):
            for row in rows:
                rest = rest - (row * rest).sum(1, keepdim=True) * row
        rows.append(rest / rest.norm(dim=1, keepdim=True).clamp_min(1e-30))
    return torch.stack(rows, 1)


@dataclass(frozen=True)
class Routed:
    """What the channels of a batch keep.

    Attributes:
        row: (M,) int64, sample times c plus channel; those of a row are together.
        place: (M,) int64 rows of the batch's behaviours.
        sample: (M,) int64.
        score: (M,) of each with its channel, without gradient.
        got: (B, c) int64 behaviours that were routed to each channel.
        kept: (B, c) int64 behaviours that each keeps.
    """

    row: Tensor
    place: Tensor
    sample: Tensor
    score: Tensor
    got: Tensor
    kept: Tensor

    @property
    def active(self) -> Tensor:
        """(B, c) bool: the channel keeps a behaviour, and so has an interest; of what it got, but with "column"."""
        return self.kept > 0


@dataclass(frozen=True)
class Router:
    """Sends behaviours to channels and lets each keep its best (DiffuMIN Eq. 6, 7).

    Attributes:
        routing: see `Routing`.
        filter: see `Filter`.
        percent: p of "top-p", in 0.01..100 with two digits; a channel that got n keeps p n / 100, rounded up.
        count: k of "top-k".
        scope: see `Scope`.
        budget: behaviours of a window; changes no result.
    """

    routing: Routing = "top-1"
    filter: Filter = "top-p"
    percent: float = 20.0
    count: int = 100
    scope: Scope = "routed"
    budget: int = BUDGET

    @torch.no_grad()
    def __call__(self, fields: Fields, batch: ClickBatch, channels: Tensor) -> Routed:
        """Batch and channels (B, c, d) -> what is kept. Each behaviour is looked at once, in bounded memory."""
        B, c, _ = channels.shape
        got = torch.zeros(B, c, dtype=torch.int64, device=channels.device)
        rows, places, scores = [], [], []
        with torch.autocast(channels.device.type, enabled=False):  # in half precision much would be equal
            for each in windows(batch, self.budget):
                row, place, score, got[each.samples] = self._window(fields, batch, channels, each)
                rows.append(row)
                places.append(place)
                scores.append(score)
        row, place = torch.cat(rows), torch.cat(places)
        kept = torch.bincount(row, minlength=B * c).view(B, c)
        return Routed(row, place, row.div(c, rounding_mode="floor"), torch.cat(scores), got, kept)

    def limits(self, got: Tensor) -> Tensor:
        """Behaviours that a channel may keep of so many, int64; in whole numbers, for 0.2 is no binary fraction."""
        if self.filter == "top-p":
            return (got * round(self.percent * 100) + 9999).div(10000, rounding_mode="floor")
        return got.clamp(max=self.count) if self.filter == "top-k" else got

    def _window(
        self, fields: Fields, batch: ClickBatch, channels: Tensor, each: Window
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(rows, places, scores of what is kept, behaviours that each channel got) of one window."""
        c = channels.shape[1]
        # (b, c, w), Eq. 5; a maximum over channels then runs along the behaviours, which lie side by side.
        scores = torch.bmm(channels[each.samples], fields.behaviours(batch, each.place).transpose(1, 2))
        score, group = (part.flatten(1) for part in self._nearest(scores))
        into = group.shape[1] // each.mask.shape[1]
        mask = each.mask if into == 1 else each.mask.repeat_interleave(into, 1)
        got = _counts(group, mask, c)
        if self.scope == "column" and into < c:
            return self._columns(each, scores.transpose(1, 2), group, mask, got)
        position, kept = self._best(score, group, mask, got, self.limits(got))
        sample, at = kept.nonzero(as_tuple=True)
        chosen = position[sample, at]
        row = each.samples[sample] * c + group[sample, chosen]
        return row, each.place[sample, chosen // into], score[sample, chosen], got

    def _nearest(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, w) -> scores and numbers of the channels that each goes to, (b, w, how many); the first of equals."""
        c = scores.shape[1]
        into = {"top-1": 1, "top-2": min(c, 2)}.get(self.routing, c)
        if into == c:
            every = scores.transpose(1, 2)
            return every, torch.arange(c, device=scores.device).expand_as(every)
        # Channel by channel: a maximum with its place over an axis of a few is slow.
        score, group = scores[:, 0], torch.zeros_like(scores[:, 0], dtype=torch.int64)
        for channel in range(1, c):
            group = torch.where(scores[:, channel] > score, channel, group)
            score = torch.maximum(scores[:, channel], score)
        if into == 1:
            return score.unsqueeze(2), group.unsqueeze(2)
        # Twice the maximum: `topk` may take any of equals.
        other = scores.scatter(1, group.unsqueeze(1), -torch.inf).max(1)
        return torch.stack([score, other.values], 2), torch.stack([group, other.indices], 2)

    def _best(self, score: Tensor, group: Tensor, mask: Tensor, got: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (b, w) by group and score, and whether each is among the best `limit` (b, c) of its group."""
        position, of = ordered(score, mask, group)
        begin = torch.nn.functional.pad(got.cumsum(1), (1, 0))[:, :-1]
        inside = of.clamp(max=got.shape[1] - 1)
        rank = torch.arange(position.shape[1], device=position.device) - begin.gather(1, inside)
        return position, (of < 127) & (rank < limit.gather(1, inside))

    def _columns(
        self, each: Window, scores: Tensor, group: Tensor, mask: Tensor, got: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best of all behaviours in each column, less those that were routed elsewhere."""
        b, width, c = scores.shape
        every = torch.arange(c, device=scores.device).repeat(width).expand(b, -1)
        there = each.mask.repeat_interleave(c, 1)
        lengths = each.mask.sum(1, keepdim=True).expand(-1, c)
        position, kept = self._best(scores.flatten(1), every, there, lengths, self.limits(lengths))
        own = torch.zeros(b, width, c, dtype=torch.bool, device=scores.device)
        own.scatter_(2, group.view(b, width, -1), mask.view(b, width, -1))
        kept &= own.flatten(1).gather(1, position)
        sample, at = kept.nonzero(as_tuple=True)
        chosen = position[sample, at]
        row, found = each.samples[sample] * c + chosen % c, scores.flatten(1)[sample, chosen]
        return row, each.place[sample, chosen // c], found, got


def _counts(group: Tensor, mask: Tensor, c: int) -> Tensor:
    """(b, c) int64, how many of each row are in each group."""
    found = torch.zeros(len(group), c, dtype=torch.int64, device=group.device)
    return found.scatter_add_(1, group, mask.long())


class Aggregate(nn.Module):
    """What a channel keeps as one vector (DiffuMIN Eq. 8 and Figure 2a); 0 for an empty channel.

    "mean": of the embeddings, through which the channels get no gradient. "score-mean": each times its score.
    "released": the same sum over the longest history instead of over how many there are. "target": attention of the
    target, softmax(E e_s / sqrt(d)). "self": one Transformer block over what is kept, then the mean; quadratic in it.
    """

    def __init__(self, kind: Aggregation, dim: int, heads: int, length: int) -> None:
        """Width d, heads of "self", and the longest history, for "released"."""
        super().__init__()
        self.kind, self.length = kind, max(length, 1)
        self.block = Block(dim, heads, 3 * dim) if kind == "self" else None

    def forward(self, embedded: Tensor, routed: Routed, channels: Tensor, target: Tensor) -> Tensor:
        """(M, d) embeddings of what is kept, channels (B, c, d), targets (B, d) -> (B, c, d)."""
        B, c, d = channels.shape
        row, kept = routed.row, routed.kept.view(-1, 1).clamp(min=1)
        if self.block is not None:
            return _summed(self._mixed(embedded, row, kept, self.block), row, B * c).div(kept).view(B, c, d)
        if self.kind == "mean":
            return _summed(embedded, row, B * c).div(kept).view(B, c, d)
        if self.kind == "target":
            logits = (embedded * target[routed.sample]).sum(1) / d**0.5
            highest = logits.new_full((B * c,), -torch.inf).scatter_reduce(0, row, logits.detach(), "amax")
            weight = (logits - highest[row]).exp()
            total = weight.new_zeros(B * c).index_add(0, row, weight)
            return _summed(embedded * (weight / total[row]).unsqueeze(1), row, B * c).view(B, c, d)
        score = routed.score.unsqueeze(1).to(embedded.dtype)
        if torch.is_grad_enabled():  # the same numbers, through which embeddings and channels learn
            score = (embedded * channels.reshape(B * c, d)[row]).sum(1, keepdim=True)
        summed = _summed(score * embedded, row, B * c)
        return (summed / (self.length if self.kind == "released" else kept)).view(B, c, d)

    def _mixed(self, embedded: Tensor, row: Tensor, kept: Tensor, block: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """(M, d) after a block over each row's own."""
        order = row.argsort(stable=True)
        begin = kept.new_zeros(len(kept)).index_add_(0, row, torch.ones_like(row)).cumsum(0)
        begin = torch.nn.functional.pad(begin, (1, 0))[:-1]
        rank = torch.empty_like(row)
        rank[order] = torch.arange(len(row), device=row.device) - begin[row[order]]
        padded = embedded.new_zeros(len(kept), int(rank.max()) + 1 if len(rank) else 1, embedded.shape[1])
        mask = torch.zeros(padded.shape[:2], dtype=torch.bool, device=row.device)
        mask[row, rank] = True
        mask[:, 0] |= ~mask.any(1)  # a channel without behaviours reads a row of zeros, and nobody reads it
        return block(padded.index_put((row, rank), embedded), readable(mask).to(padded.dtype))[row, rank]


def rescaled(interests: Tensor, scale: Scale) -> Tensor:
    """(..., d) of length 1 or sqrt(d) (DiffuMIN Sec. 3.4); zero stays zero."""
    unit = nn.functional.normalize(interests, dim=-1)
    return unit * interests.shape[-1] ** 0.5 if scale == "root-d" else unit


def _summed(values: Tensor, row: Tensor, rows: int) -> Tensor:
    return values.new_zeros(rows, values.shape[1]).index_add(0, row, values)


class Channels(nn.Module):
    """OMIE whole: the channels of each target, and the aggregated interest of each channel (DiffuMIN Sec. 3.3).

    With `by_target` there is one channel, the target's own direction, instead of c (Table 3, variant A).
    """

    def __init__(
        self,
        dim: int,
        count: int,
        router: Router,
        aggregation: Aggregation,
        *,
        heads: int = 2,
        length: int = 0,
        decomposition: Decomposition = "qr",
        by_target: bool = False,
    ) -> None:
        """Width d and c <= d channels, else BadSetting; `length` is the longest history, see `Aggregate`."""
        super().__init__()
        if count > dim and not by_target:
            raise BadSetting(
                f"no more than {dim} channels are orthogonal where a behaviour is {dim} wide; got {count}; set fewer "
                "channels, or a larger dim"
            )
        self.count, self.router, self.decomposition = 1 if by_target else count, router, decomposition
        self.weight = None if by_target else nn.Parameter(torch.empty(dim, dim * count))
        if self.weight is not None:
            nn.init.xavier_uniform_(self.weight)
        self.aggregate = Aggregate(aggregation, dim, heads, length)

    def directions(self, target: Tensor) -> Tensor:
        """(B, d) -> (B, c, d) with orthonormal rows (Eq. 2, 3)."""
        if self.weight is None:
            return nn.functional.normalize(target, dim=1).unsqueeze(1)
        with torch.autocast(target.device.type, enabled=False):
            return orthonormal((target @ self.weight).view(len(target), -1, self.count), self.decomposition)

    def forward(self, fields: Fields, batch: ClickBatch, target: Tensor) -> tuple[Tensor, Tensor, Routed]:
        """Aggregated interests (B, c, d), channels (B, c, d), and what each kept (Eq. 4 to 8)."""
        channels = self.directions(target)
        routed = self.router(fields, batch, channels)
        return self.aggregate(fields.behaviours(batch, routed.place), routed, channels, target), channels, routed

    def diagnose(self, interests: Tensor, routed: Routed) -> dict[str, Tensor]:
        """Signs of collapse, each a scalar.

        The share of active channels; behaviours that each got, by the mean; the mean share of the one that got most;
        the mean cosine of two samples' interests of one channel; the norm of the newest gradient of the projection.
        """
        got, active = routed.got.double(), routed.active.double()
        most = got.amax(1) / got.sum(1).clamp(min=1)
        found = {"active": active.mean(), "largest": most.sum() / (most > 0).sum().clamp(min=1)}
        found |= {f"got_{n}": mean for n, mean in enumerate(got.mean(0), 1)}
        summed = nn.functional.normalize(interests, dim=-1).double().sum(0).square().sum(-1)  # (c,)
        there = active.sum(0)
        found["alike"] = (summed - there).sum() / (there * (there - 1)).sum().clamp(min=1)
        if self.weight is not None and self.weight.grad is not None:
            found["gradient"] = self.weight.grad.norm()
        return found
