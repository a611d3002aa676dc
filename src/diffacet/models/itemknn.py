"""ItemKNN: item co-occurrence with shrinkage and recency, untrained; seconds of work and hard to beat.

B. Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001, in the form that
sequence data ask for: near items count more, recent items of the history count more, and the popularity of
the candidate is damped less than cosine does.
Shapes: B users, L history items, N items, E stored pairs.
"""

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from diffacet.core.batch import Histories
from diffacet.core.contract import INFERENCE, STRICT, Card, Facts, Preset, Training
from diffacet.core.papers import ITEM_KNN


@dataclass(frozen=True, config=STRICT)
class ItemKNNConfig:
    """Settings of ItemKNN; similarity of i to j = W_ij / (n_i^a n_j^b + shrinkage)."""

    window: Annotated[
        int | None, Field(ge=1, title="w", description="greatest distance of two items in a sequence; none: any")
    ] = None
    decay: Annotated[
        float, Field(ge=0, title="p", description="W_ij sums distance^-p over the sequences; 0: plain counts")
    ] = 0.0
    history_power: Annotated[float, Field(ge=0, title="a", description="power of the history item's count")] = 0.5
    candidate_power: Annotated[float, Field(ge=0, title="b", description="power of the candidate's count")] = 0.5
    shrinkage: Annotated[float, Field(ge=0, description="added to the denominator, against rare pairs")] = 0.0
    recency: Annotated[
        float, Field(gt=0, le=1, description="weight of a history item for each step back in time"), INFERENCE
    ] = 1.0


class ItemKNN(nn.Module):
    """score(j) = sum over history items i of recency^age(i) * similarity(i, j); the latest item has age 0."""

    starts: Tensor
    neighbours: Tensor
    similarity: Tensor

    def __init__(self, config: ItemKNNConfig, facts: Facts) -> None:
        super().__init__()
        self.config = config
        left, right, weight = co_occurrence(
            facts.train_items, facts.train_offsets, config.window, config.decay, facts.n_items
        )
        counts = facts.item_counts().astype(np.float64)
        damped = counts[left] ** config.history_power * counts[right] ** config.candidate_power
        starts = np.searchsorted(left, np.arange(facts.n_items + 2))
        self.register_buffer("starts", torch.from_numpy(starts))  # (N + 2,): pairs of i are starts[i]:starts[i + 1]
        self.register_buffer("neighbours", torch.from_numpy(right.astype(np.int32)))  # (E,)
        similarity = weight / (damped + config.shrinkage)
        self.register_buffer("similarity", torch.from_numpy(similarity.astype(np.float32)))  # (E,)
        self.n_items = facts.n_items

    def scores(self, history: Histories) -> Tensor:
        """(B, N + 1), 0 where nothing in the history co-occurred with the item."""
        items, mask = history.items, history.mask
        age = mask.sum(-1, keepdim=True) - 1 - torch.arange(items.shape[1], device=items.device)
        row, position = mask.nonzero(as_tuple=True)
        item = items[row, position]
        weight = self.config.recency ** age[row, position].to(self.similarity.dtype)
        count = self.starts[item + 1] - self.starts[item]  # pairs of each history item
        # All pairs of all history items, as one ragged gather.
        owner = torch.repeat_interleave(torch.arange(len(item), device=item.device), count)
        offset = torch.arange(len(owner), device=item.device) - (count.cumsum(0) - count)[owner]
        pair = self.starts[item][owner] + offset
        cell = row[owner] * (self.n_items + 1) + self.neighbours[pair]
        scores = self.similarity.new_zeros(len(items) * (self.n_items + 1))
        return scores.index_add_(0, cell, weight[owner] * self.similarity[pair]).view(len(items), -1)


def co_occurrence(
    items: NDArray[np.int64], offsets: NDArray[np.int64], window: int | None, decay: float, n_items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(i, j, W_ij), ascending by i then j, of every ordered pair i != j that shares a sequence.

    items (n,), sequence u being items[offsets[u]:offsets[u + 1]]. W_ij sums distance^-decay over the pairs of
    positions at most `window` apart. One vectorised pass for each distance, merged before memory grows.
    """
    lengths = np.diff(offsets)
    longest = int(lengths.max(initial=0))
    room = np.repeat(offsets[1:], lengths) - np.arange(len(items))  # positions left in the sequence, itself included
    keys, weights = np.zeros(0, np.int64), np.zeros(0)
    pending: list[tuple[NDArray[np.int64], float]] = []
    for distance in range(1, min(longest - 1, window or longest) + 1):
        at = np.flatnonzero(room > distance)
        one, other = items[at], items[at + distance]
        pending.append((np.concatenate([one * (n_items + 1) + other, other * (n_items + 1) + one]), distance**-decay))
        if sum(len(part) for part, _ in pending) > max(20_000_000, len(keys)):
            keys, weights = _merge(keys, weights, pending)
            pending = []
    keys, weights = _merge(keys, weights, pending)
    left, right = np.divmod(keys, n_items + 1)
    return left[left != right], right[left != right], weights[left != right]


def _merge(
    keys: NDArray[np.int64], weights: NDArray[np.float64], pending: list[tuple[NDArray[np.int64], float]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sum equal keys of what there is and what is pending."""
    if not pending:
        return keys, weights
    everything = np.concatenate([keys, *(part for part, _ in pending)])
    values = np.concatenate([weights, *(np.full(len(part), weight) for part, weight in pending)])
    order = np.argsort(everything, kind="stable")
    everything, values = everything[order], values[order]
    first = np.flatnonzero(np.concatenate([[True], everything[1:] != everything[:-1]])[: len(everything)])
    return everything[first], np.add.reduceat(values, first) if len(first) else values


_UNTRAINED = Training(max_steps=0)

CARDS = [
    Card(
        "item-knn",
        ItemKNN,
        ItemKNNConfig,
        task="matching",
        summary="item co-occurrence, untrained: the bar that costs seconds",
        paper=ITEM_KNN,
        presets={
            "paper": Preset(ItemKNNConfig(), _UNTRAINED, "cosine of co-occurrence, all history equal"),
            "best": Preset(
                ItemKNNConfig(history_power=0.8, candidate_power=0.2, shrinkage=20.0, recency=0.9),
                _UNTRAINED,
                "chosen on validation of Amazon Beauty, one split",
            ),
            "long": Preset(
                ItemKNNConfig(window=40, decay=0.5, history_power=0.5, candidate_power=0.25, recency=0.9),
                Training(max_steps=0, length=40),
                "for long sequences: chosen on validation of Gowalla, one split",
            ),
        },
    ),
]
