"""Batches as a function of the step: drawn, cut and turned into tensors without a loop over users.

The published protocol of matching (ComiRec's and REMI's codes): no epochs; every step draws B distinct
users, for each one target position, and negatives that all rows share. Batch s depends on (seed, s) only.
`PositionBatch` is our own form: every position of a window is a target at once.
Collaborative models go over their rows in epochs: `ProfileBatch` over users, `PairBatch` over interactions, each
epoch in a fresh order that depends on (seed, epoch) only.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffacet import seeds
from diffacet.arrays import distinct, within
from diffacet.core.batch import Histories, PairBatch, PositionBatch, ProfileBatch, SequenceBatch
from diffacet.core.contract import Facts, Training
from diffacet.data.sequences import Sequences
from diffacet.errors import BadLog, BadSetting

IntArray = NDArray[np.int64]


def facts(
    train: Sequences, n_items: int, training: Training, n_users: int | None = None, clusters: IntArray | None = None
) -> Facts:
    """What a model's constructor may know of the training sequences.

    n_users: users of the log, None: those of `train`; clusters: see `Facts`.
    """
    users = int(train.users.max(initial=-1)) + 1 if n_users is None else n_users
    groups = np.zeros(0, np.int64) if clusters is None else clusters
    return Facts(n_items, training.length, train.items, train.offsets, train.users, users, groups)


def epoch_steps(train: Sequences, training: Training, batch_type: type[Any] = SequenceBatch) -> int:
    """Steps in which every training row is seen once: interactions for PairBatch, users for all others."""
    if batch_type is PairBatch:
        rows = len(train.items)
    else:
        rows = int((train.lengths() >= (1 if batch_type is ProfileBatch else 2)).sum())
    return max(1, math.ceil(rows / training.batch_size))


def in_steps(training: Training, epoch: int) -> Training:
    """The same settings with their epochs, of `epoch` steps each, told in steps: what the loop counts."""
    steps = training.max_steps
    if training.max_epochs is not None:
        steps = min(steps, training.max_epochs * epoch)
    every = training.validate_every if training.validate_epochs is None else training.validate_epochs * epoch
    return replace(training, max_steps=steps, validate_every=every, max_epochs=None, validate_epochs=None)


def check_length(training: Training, batch_type: type[Any]) -> None:
    """Raise BadSetting when a model that is trained on windows is asked to read whole histories."""
    if not training.length and training.max_steps and batch_type not in (ProfileBatch, PairBatch):
        raise BadSetting("length=0, the whole history, is for collaborative models; this one reads 1 item or more")


def batch_at(
    train: Sequences, n_items: int, training: Training, batch_type: type[Any] = SequenceBatch
) -> Callable[[int], Any]:
    """Step -> the batch of that step, on the CPU.

    B distinct users uniformly (all of them if there are fewer).
    SequenceBatch: one target position k for each, uniform in {first_target, ..., len - 1}, or in {len - 1} for a
    shorter sequence; history = the L items before k.
    PositionBatch: a window of L + 1 items, the whole sequence or one that ends at a uniform position; each of its
    items from position first_target of the sequence on is a target (the last item of a shorter sequence is).
    ProfileBatch: the next B users of the epoch's order, the last batch of an epoch being shorter.
    PairBatch: the next B interactions of the epoch's order, likewise, each with a uniform item that its user has
    not met in training; interactions of users who have met every item are left out.

    Raises:
        BadLog: when no training sequence has two items, or for the last two when there is nothing to learn from.
        BadSetting: when more distinct negatives are asked for than there are items, or `length` is 0, which
            only ProfileBatch and PairBatch take.
    """
    if batch_type is ProfileBatch:
        return _profiles(train, training)
    if batch_type is PairBatch:
        return _pairs(train, n_items, training)
    check_length(training, batch_type)
    lengths = train.lengths()
    eligible = np.flatnonzero(lengths >= 2)
    if not len(eligible):
        raise BadLog("no training sequence has two items, so there is no next item to learn; lower the filters")
    if training.unique_negatives and training.negatives > n_items:
        raise BadSetting(f"negatives lies in 0..{n_items} with unique_negatives=true; got {training.negatives}")
    size = min(training.batch_size, len(eligible))
    first = np.minimum(training.first_target, lengths - 1)
    cut = _positions if batch_type is PositionBatch else _targets

    def batch(step: int) -> Any:
        rng = seeds.stream(training.seed, "batch", step)
        rows = eligible[rng.choice(len(eligible), size, replace=False, shuffle=False)]
        parts, target = cut(train, rows, first[rows], training.length, rng)
        shared = _negatives(rng, target, n_items, training)
        return batch_type(**parts, target=torch.from_numpy(target), step=step, **shared)

    return batch


def _order(training: Training, rows: int) -> Callable[[int], tuple[IntArray, int]]:
    """Step -> the places of its rows in 0..rows - 1, and the epoch."""
    steps = math.ceil(rows / training.batch_size)

    @lru_cache(2)
    def shuffled(epoch: int) -> IntArray:
        return seeds.stream(training.seed, "epoch", epoch).permutation(rows)

    def places(step: int) -> tuple[IntArray, int]:
        epoch, part = divmod(step, steps)
        return shuffled(epoch)[part * training.batch_size : (part + 1) * training.batch_size], epoch

    return places


def _profiles(train: Sequences, training: Training) -> Callable[[int], ProfileBatch]:
    lengths = train.lengths()
    eligible = np.flatnonzero(lengths)
    if not len(eligible):
        raise BadLog("no user has a training interaction, so there is nothing to learn")
    places = _order(training, len(eligible))

    def batch(step: int) -> ProfileBatch:
        chosen, epoch = places(step)
        rows = eligible[chosen]
        longest = int(lengths[rows].max())
        width = min(training.length, longest) if training.length else longest
        return ProfileBatch(_histories(train, rows, lengths[rows], width), step, epoch)

    return batch


def _pairs(train: Sequences, n_items: int, training: Training) -> Callable[[int], PairBatch]:
    owner = np.repeat(train.users, train.lengths())
    met = distinct(owner * (n_items + 1) + train.items)
    count = np.bincount(met // (n_items + 1), minlength=int(owner.max(initial=-1)) + 1)
    eligible = np.flatnonzero(count[owner] < n_items)
    if not len(eligible):
        raise BadLog("no training user has an item left that it has not met, so there is nothing to rank below")
    places = _order(training, len(eligible))

    def batch(step: int) -> PairBatch:
        chosen, epoch = places(step)
        rows = eligible[chosen]
        user, item = owner[rows], train.items[rows]
        rng = seeds.stream(training.seed, "batch", step)
        negative = rng.integers(1, n_items + 1, len(rows))
        wrong = np.arange(len(rows))
        while len(wrong := wrong[within(user[wrong] * (n_items + 1) + negative[wrong], met)]):
            negative[wrong] = rng.integers(1, n_items + 1, len(wrong))
        pairs = [torch.from_numpy(numbers) for numbers in (user, item, negative)]
        return PairBatch(pairs[0], pairs[1], pairs[2], step, epoch)

    return batch


def _targets(
    train: Sequences, rows: IntArray, first: IntArray, length: int, rng: np.random.Generator
) -> tuple[dict[str, Any], IntArray]:
    """One target for each of `rows` (B,), at a uniform position from first[b] on, and what stands before it."""
    position = first + (rng.random(len(rows)) * (train.lengths()[rows] - first)).astype(np.int64)
    target = train.items[train.offsets[rows] + position]
    return {"history": _histories(train, rows, position, length)}, target


def _positions(
    train: Sequences, rows: IntArray, first: IntArray, length: int, rng: np.random.Generator
) -> tuple[dict[str, Any], IntArray]:
    """Every target of a window of each of `rows` (B,), which holds at least one."""
    lengths = train.lengths()[rows]
    shortest = np.maximum(np.minimum(lengths, length + 1), first + 1)
    last = shortest + (rng.random(len(rows)) * (lengths - shortest + 1)).astype(np.int64) - 1  # the newest target
    oldest = np.maximum(last - length, 0)
    steps = np.arange(length, dtype=np.int64)
    there = (oldest[:, None] + steps < last[:, None]) & (oldest[:, None] + steps + 1 >= first[:, None])
    row, position = np.nonzero(there)
    weight = (1 / (len(rows) * there.sum(1)[row])).astype(np.float32)
    target = train.items[train.offsets[rows][row] + oldest[row] + position + 1]
    parts = {
        "history": _histories(train, rows, last, length),
        "row": torch.from_numpy(row),
        "position": torch.from_numpy(position),
        "weight": torch.from_numpy(weight),
    }
    return parts, target


def _histories(train: Sequences, rows: IntArray, ends: IntArray, length: int) -> Histories:
    """The last `length` items of each row before ends[b]."""
    times = train.window_times(rows, ends, length)
    return Histories(
        torch.from_numpy(train.windows(rows, ends, length)),
        torch.from_numpy(train.users[rows]),
        torch.from_numpy(rows),
        None if times is None else torch.from_numpy(times),
    )


def _negatives(rng: np.random.Generator, target: IntArray, n_items: int, training: Training) -> dict[str, Any]:
    """What the rows share: negatives, and by the settings their hits and log expected counts."""
    everything = not training.negatives
    negatives, tries = (np.arange(1, n_items + 1), None) if everything else draw_negatives(rng, n_items, training)
    hits, log_q = None, None
    if training.mask_hits or everything:
        hits = torch.from_numpy(target[:, None] == negatives[None, :])
    if training.correction and not everything:
        log_q = (
            torch.from_numpy(log_expected_count(target, n_items, training, tries)),
            torch.from_numpy(log_expected_count(negatives, n_items, training, tries)),
        )
    return {"negatives": torch.from_numpy(negatives), "hits": hits, "log_q": log_q}


def draw_negatives(rng: np.random.Generator, n_items: int, training: Training) -> tuple[IntArray, int]:
    """M item numbers in 1..N by the settings' law, and how many draws they took (more than M when unique)."""

    def draw(count: int) -> IntArray:
        if training.sampler == "uniform":
            return rng.integers(1, n_items + 1, count)
        # P(i) = ln((i + 1) / i) / ln(N + 1): the inverse of its distribution is floor((N + 1)^u).
        return np.minimum(np.exp(rng.random(count) * math.log(n_items + 1)).astype(np.int64), n_items)

    if not training.unique_negatives:
        return draw(training.negatives), training.negatives
    if training.sampler == "uniform":
        return 1 + rng.choice(n_items, training.negatives, replace=False), training.negatives
    drawn = draw(2 * training.negatives)
    while len(first := np.sort(np.unique(drawn, return_index=True)[1])) < training.negatives:
        drawn = np.concatenate([drawn, draw(len(drawn))])
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
