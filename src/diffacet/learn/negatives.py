"""Negatives of a batch: shared by its rows, or each row's own."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffacet.arrays import distinct, within
from diffacet.core.contract import Training
from diffacet.data.sequences import Sequences

IntArray = NDArray[np.int64]


def shared(rng: np.random.Generator, target: IntArray, n_items: int, training: Training) -> dict[str, Any]:
    """What all rows share, by name: negatives (M,), and by the settings `hits` (B, M) bool and `log_q`.

    `log_q` is log expected counts of targets (B,) and of negatives (M,), float64; both are None where not asked for.
    """
    if not training.negatives:
        return {"negatives": torch.arange(1, n_items + 1), "everything": True}
    negatives, tries = draw(rng, n_items, training)
    hits, log_q = None, None
    if training.mask_hits:
        hits = torch.from_numpy(target[:, None] == negatives[None, :])
    if training.correction:
        log_q = (
            torch.from_numpy(log_expected_count(target, n_items, training, tries)),
            torch.from_numpy(log_expected_count(negatives, n_items, training, tries)),
        )
    return {"negatives": torch.from_numpy(negatives), "hits": hits, "log_q": log_q}


class Met:
    """What each training user has met, to draw what it has not."""

    def __init__(self, train: Sequences, n_items: int) -> None:
        """The training sequences; users of two sequences have met the items of both."""
        self._width = n_items + 1
        owner = np.repeat(train.users, train.lengths())
        self._pairs = distinct(owner * self._width + train.items)
        self._count = np.bincount(self._pairs // self._width, minlength=int(owner.max(initial=-1)) + 1)

    def lacking(self, users: IntArray) -> NDArray[np.bool_]:
        """(n,) users -> (n,) bool, whether there is an item that the user has not met."""
        return self._count[users] < self._width - 1

    def others(self, rng: np.random.Generator, users: IntArray) -> IntArray:
        """For each entry of `users`, any shape, an item uniform over what that user, who lacks one, has not met."""
        found = rng.integers(1, self._width, users.shape)
        wrong = np.argwhere(np.ones_like(found, dtype=np.bool_))
        while len(wrong):
            at = tuple(wrong.T)
            met = within(users[at] * self._width + found[at], self._pairs)
            wrong = wrong[met]
            found[tuple(wrong.T)] = rng.integers(1, self._width, len(wrong))
        return found

    def others_of(self, rng: np.random.Generator, users: IntArray, count: int) -> IntArray:
        """(n,) users who each lack an item -> (n, count) items that they have not met, repeats allowed."""
        return self.others(rng, np.repeat(users[:, None], count, axis=1))


def draw(rng: np.random.Generator, n_items: int, training: Training) -> tuple[IntArray, int]:
    """M item numbers in 1..N by the settings' law, and how many draws they took (more than M when unique)."""

    def drawn_by_law(count: int) -> IntArray:
        if training.sampler == "uniform":
            return rng.integers(1, n_items + 1, count)
        # P(i) = ln((i + 1) / i) / ln(N + 1): the inverse of its distribution is floor((N + 1)^u).
        return np.minimum(np.exp(rng.random(count) * math.log(n_items + 1)).astype(np.int64), n_items)

    if not training.unique_negatives:
        return drawn_by_law(training.negatives), training.negatives
    if training.sampler == "uniform":
        return 1 + rng.choice(n_items, training.negatives, replace=False), training.negatives
    drawn = drawn_by_law(2 * training.negatives)
    while len(first := np.sort(np.unique(drawn, return_index=True)[1])) < training.negatives:
        drawn = np.concatenate([drawn, drawn_by_law(len(drawn))])
    first = first[: training.negatives]
    return drawn[first], int(first[-1]) + 1


def log_expected_count(numbers: IntArray, n_items: int, training: Training, tries: int | None) -> NDArray[np.float32]:
    """Ln of how often each item is expected among the negatives, (n,) float32.

    With repeats M P(i); without, 1 - (1 - P(i))^tries for the log-uniform law and M / N for the uniform one.
    """
    drawn = training.negatives if tries is None else tries
    if training.sampler == "uniform":
        return np.full(len(numbers), math.log(drawn / n_items), np.float32)
    probability = np.log1p(1.0 / numbers) / math.log(n_items + 1)
    if not training.unique_negatives:
        return np.log(drawn * probability).astype(np.float32)
    return np.log(-np.expm1(drawn * np.log1p(-probability))).astype(np.float32)
