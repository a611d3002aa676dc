"""Search units: which few of many behaviours are read closely. Selection carries no gradient.

Order is exact on every device: by score, then the more recent first. Shapes: b samples of a window, w behaviours,
h queries a sample, K kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours.fields import BUDGET, Window, windows

_POSITION_BITS = 24
_GROUP_BITS = _POSITION_BITS + 32


def products(embedded: Tensor, queries: Tensor) -> Tensor:
    """(b, w, d) behaviours and (b, h, d) queries of their samples -> (b, w, h) inner products."""
    return torch.bmm(embedded, queries.transpose(1, 2))


def ordered(score: Tensor, mask: Tensor, group: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Positions (b, w) int64 by group, then falling score, the more recent first; and the group of each, (b, w).

    What is masked comes last, as group 127. One sort of 64-bit keys, each of which holds group, score and position.

    Args:
        score: (b, w) float32, or integers below 2^31 in size.
        mask: (b, w) bool.
        group: (b, w) int64 in 0..126; None: all in group 0.
    """
    width = score.shape[1]
    if score.is_floating_point():
        # The bits of a float, seen as an integer, rise with it once those of negative ones are turned over.
        bits = (score.float() + 0.0).view(torch.int32)
        rank = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    else:
        rank = score.int()
    # In place, for it is passes over memory that cost: ~rank falls as the score rises, and may be negative.
    key = (~rank).long().mul_(2**_POSITION_BITS)
    key += torch.arange(width - 1, -1, -1, device=score.device)
    key.add_(torch.where(mask, 0 if group is None else group, 127), alpha=2**_GROUP_BITS)
    if key.device.type == "cpu":
        key.numpy().sort(axis=1)  # several times faster than torch's, which also carries the places along
    else:
        key = key.sort(dim=1).values
    return width - 1 - (key & (2**_POSITION_BITS - 1)), (key + 2 ** (_GROUP_BITS - 1)) >> _GROUP_BITS


@torch.no_grad()
def top(score: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Positions of the k highest scores and whether each is a behaviour, both (b, min(k, w)); best first."""
    position, group = ordered(score, mask)
    return position[:, :k].contiguous(), group[:, :k] < 127


@torch.no_grad()
def searched(
    batch: ClickBatch, k: int, score: Callable[[Window], Tensor], budget: int = BUDGET
) -> tuple[Tensor, Tensor]:
    """Rows of the batch's behaviours with the k highest scores of each sample, best first, and whether each is one.

    Both (B, ..., K) with K = k, or the longest history if that is shorter; for `score` see `ordered`, window by window
    (b, ..., w), where ... are the heads that search apart from each other, if any.
    """
    place = mask = torch.zeros(0)
    for n, seen in enumerate(windows(batch, budget)):
        found = score(seen)
        heads, width = found.shape[1:-1], found.shape[-1]
        wide = seen.mask.view(len(found), *[1] * len(heads), width).expand_as(found)
        position, is_one = top(found.reshape(-1, width), wide.reshape(-1, width), k)
        rows = seen.place.view(len(found), *[1] * len(heads), width).expand_as(found)
        if not n:  # the longest histories come first
            place = seen.place.new_zeros(len(batch), *heads, position.shape[1])
            mask = torch.zeros_like(place, dtype=torch.bool)
        shape = (*found.shape[:-1], -1)
        place[seen.samples, ..., : position.shape[1]] = rows.gather(-1, position.view(shape))
        mask[seen.samples, ..., : position.shape[1]] = is_one.view(shape)
    return place, mask


@torch.no_grad()
def newest(wanted: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Positions of the k most recent `wanted` (b, w) and whether each is one, both (b, min(k, w)); newest first."""
    width = wanted.shape[1]
    position = torch.arange(width, device=wanted.device)
    found = torch.where(wanted, position, -1).topk(min(k, width), dim=1).values
    return found.clamp(min=0), found >= 0


class SimHash(nn.Module):
    """Codes of vectors by the sides of random hyperplanes on which they lie: near in angle, alike in bits.

    The matrix (d, bits), normal, is a buffer: it is saved, and never learned.
    """

    planes: Tensor

    def __init__(self, dim: int, bits: int, generator: torch.Generator) -> None:
        """Bits for vectors of width `dim`, drawn from `generator`."""
        super().__init__()
        self.register_buffer("planes", torch.randn(dim, bits, generator=generator))

    @torch.no_grad()
    def forward(self, vectors: Tensor) -> Tensor:
        """(..., d) -> (..., bits) bool; the zero vector has all of them."""
        return vectors @ self.planes >= 0
