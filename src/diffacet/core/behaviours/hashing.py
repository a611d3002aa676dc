"""Codes of random hyperplanes in whole numbers: how far apart they are, and sums of what shares a bucket.

Shapes: N behaviours of a batch, d dimensions, b bits, G groups of bits, r buckets of a group, B samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from diffacet.core.batch import ClickBatch
from diffacet.core.behaviours.fields import BUDGET, Fields

WORD = 64
"""Bits of a word."""


@torch.no_grad()
def codes(fields: Fields, batch: ClickBatch, coded: Callable[[Tensor], Tensor], budget: int = BUDGET) -> Tensor:
    """coded(embeddings) (N, ...) of all behaviours of the batch, each once, embedded `budget` at a time."""
    return torch.cat([coded(fields(part)) for part in torch.split(batch.behaviours, budget)])


def packed(bits: Tensor) -> Tensor:
    """(..., b) bool -> (..., ceil(b / 64)) int64 words; what is missing in the last is 0."""
    whole = -(-bits.shape[-1] // WORD) * WORD
    pieces = signatures(functional.pad(bits, (0, whole - bits.shape[-1])), 16).view(*bits.shape[:-1], whole // WORD, 4)
    return (pieces << torch.arange(0, WORD, 16, device=bits.device)).sum(-1)


def differing(words: Tensor, others: Tensor) -> Tensor:
    """(..., words) codes of both, broadcast -> (...,) int64 bits in which they differ."""
    # The bits of a word are counted in pairs, fours and bytes at once; masks clear what a shift of the sign brings in.
    x = words ^ others
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((x * 0x0101010101010101) >> 56).sum(-1)


def signatures(bits: Tensor, width: int) -> Tensor:
    """(..., G * width) bool -> (..., G) int64 below 2^width: each group of neighbouring bits as one."""
    powers = 2.0 ** torch.arange(width, device=bits.device)  # exact in float32, as are their sums
    return (bits.view(-1, width).float() @ powers).long().view(*bits.shape[:-1], bits.shape[-1] // width)


def bucket_sums(signature: Tensor, vectors: Tensor, buckets: int, before: Tensor | None = None) -> Tensor:
    """(n, G) signatures of (n, d) vectors -> (G, r, d) sum of the vectors of each bucket; added to `before`, if given.

    What one user's history comes to when it is served: a new behaviour is added to its G buckets, and a candidate
    reads G rows however long the history is.
    """
    groups, d = signature.shape[1], vectors.shape[1]
    row = (signature + buckets * torch.arange(groups, device=signature.device)).flatten()
    table = vectors.new_zeros(groups * buckets, d) if before is None else before.reshape(groups * buckets, d)
    return table.index_add(0, row, vectors.repeat_interleave(groups, 0)).view(groups, buckets, d)


def mean_direction(sums: Tensor) -> Tensor:
    """(..., G, d) sums -> (..., d): the mean of their directions; a sum of zero has none and counts as zero."""
    length = sums.norm(dim=-1, keepdim=True)
    return (sums / torch.where(length > 0, length, 1)).mean(-2)
