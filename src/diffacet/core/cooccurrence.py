"""Co-occurrence: how often two items stand in the same sequences, and the item-to-item scores that follow.

The form that sequence data ask for: near items count more, recent items of a history count more, and the
popularity of the candidate is damped less than cosine does.
Shapes: B users, L history items, N items, E stored pairs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffacet.core.batch import Histories
from diffacet.core.contract import Facts

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
PAIRS_AT_ONCE = 80_000_000
"""Pairs that are held and sorted together (8 bytes each, three times); more are taken in parts of whole sequences."""


class CoOccurrence(nn.Module):
    """Similarity of i to j = W_ij / (n_i^a n_j^b + shrinkage), where the items co-occurred in training; untrained.

    W_ij sums distance^-decay over the pairs of positions at most `window` apart (none: any) in the training
    sequences, n counts an item's training interactions.
    """

    starts: Tensor
    neighbours: Tensor
    similarity: Tensor

    def __init__(
        self,
        facts: Facts,
        *,
        window: int | None,
        decay: float,
        history_power: float,
        candidate_power: float,
        shrinkage: float,
    ) -> None:
        """A is `history_power`, b `candidate_power`."""
        super().__init__()
        self.n_items = facts.n_items
        left, right, weight = co_occurrence(facts.train_items, facts.train_offsets, window, decay, facts.n_items)
        counts = facts.item_counts().astype(np.float64)
        damped = counts[left] ** history_power * counts[right] ** candidate_power
        starts = np.searchsorted(left, np.arange(facts.n_items + 2))
        self.register_buffer("starts", torch.from_numpy(starts))  # (N + 2,): pairs of i are starts[i]:starts[i + 1]
        self.register_buffer("neighbours", torch.from_numpy(right.astype(np.int32)))  # (E,)
        similarity = weight / (damped + shrinkage)
        self.register_buffer("similarity", torch.from_numpy(similarity.astype(np.float32)))  # (E,)

    def forward(self, history: Histories, recency: float) -> Tensor:
        """score(j) = sum over history items i of recency^age(i) * similarity(i, j), the latest item having age 0.

        (B, N + 1), 0 where nothing in the history co-occurred with the item.
        """
        items, mask = history.items, history.mask
        age = mask.sum(-1, keepdim=True) - 1 - torch.arange(items.shape[1], device=items.device)
        row, position = mask.nonzero(as_tuple=True)
        item = items[row, position]
        weight = recency ** age[row, position].to(self.similarity.dtype)
        count = self.starts[item + 1] - self.starts[item]  # pairs of each history item
        # All pairs of all history items, as one ragged gather.
        owner = torch.repeat_interleave(torch.arange(len(item), device=item.device), count)
        offset = torch.arange(len(owner), device=item.device) - (count.cumsum(0) - count)[owner]
        pair = self.starts[item][owner] + offset
        cell = row[owner] * (self.n_items + 1) + self.neighbours[pair]
        scores = self.similarity.new_zeros(len(items) * (self.n_items + 1))
        return scores.index_add_(0, cell, weight[owner] * self.similarity[pair]).view(len(items), -1)


def co_occurrence(
    items: IntArray, offsets: IntArray, window: int | None, decay: float, n_items: int
) -> tuple[IntArray, IntArray, FloatArray]:
    """(i, j, W_ij), ascending by i then j, of every ordered pair i != j that shares a sequence.

    items (n,), sequence u being items[offsets[u]:offsets[u + 1]]. W_ij sums distance^-decay over the pairs of
    positions at most `window` apart. One vectorised pass for each distance.
    """
    lengths = np.diff(offsets)
    reach = np.minimum(lengths, lengths.max(initial=0) if window is None else window + 1) - 1
    pairs = np.cumsum(lengths * np.minimum(lengths - 1, 2 * reach))
    keys, weights = np.zeros(0, np.int64), np.zeros(0)
    begin = 0
    while begin < len(lengths):
        before = pairs[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(pairs, before + PAIRS_AT_ONCE, "right")))
        part = _pairs(items[offsets[begin] : offsets[end]], lengths[begin:end], int(reach[begin:end].max()), n_items)
        keys, weights = _merged(keys, weights, *_weighed(*part, decay)) if len(keys) else _weighed(*part, decay)
        begin = end
    left, right = np.divmod(keys, n_items + 1)
    return left, right, weights


def _pairs(items: IntArray, lengths: IntArray, reach: int, n_items: int) -> tuple[IntArray, int]:
    """Ordered pairs of different items at most `reach` apart, each (i * (N + 1) + j) * 2^bits + distance; and bits."""
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(items))  # positions left in the sequence
    bits, found = reach.bit_length(), [np.zeros(0, np.int64)]
    for distance in range(1, reach + 1):
        at = np.flatnonzero(room > distance)
        one, other = items[at], items[at + distance]
        differ = one != other
        one, other = one[differ], other[differ]
        for left, right in ((one, other), (other, one)):
            found.append(((left * (n_items + 1) + right) << bits) | distance)
    return np.concatenate(found), bits


def _weighed(codes: IntArray, bits: int, decay: float) -> tuple[IntArray, FloatArray]:
    """Distinct pairs, ascending, and the sum of distance^-decay of each. Sorting codes beats any grouping by far."""
    codes.sort()
    keys, distance = codes >> bits, codes & ((1 << bits) - 1)
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    weights = np.arange(1, (1 << bits) + 1, dtype=np.float64) ** -decay
    return keys[first], np.add.reduceat(weights[distance - 1], first) if len(first) else np.zeros(0)


def _merged(
    keys: IntArray, weights: FloatArray, more_keys: IntArray, more_weights: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Two lists of distinct pairs as one."""
    everything = np.concatenate([keys, more_keys])
    order = np.argsort(everything, kind="stable")
    everything, values = everything[order], np.concatenate([weights, more_weights])[order]
    first = np.flatnonzero(np.concatenate([[True], everything[1:] != everything[:-1]])[: len(everything)])
    return everything[first], np.add.reduceat(values, first) if len(first) else values
