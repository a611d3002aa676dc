"""Batches as a function of the step: drawn, cut and turned into tensors without a loop over users.

The published protocol of matching (ComiRec's and REMI's codes): no epochs; every step draws B distinct
users, for each one target position, and negatives that all rows share. Batch s depends on (seed, s) only.
That of next items (DreamRec's and DimeRec's): every pair of a history and its next item once an epoch.
`PositionBatch` takes every position of a window as a target at once (SASRec; facet).
With sampling="blocks" every user comes once an epoch, read piece by piece: see `user_blocks`.
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
from diffacet.core.batch import Batch, Histories, PairBatch, PositionBatch, ProfileBatch, SequenceBatch
from diffacet.core.contract import Card, Facts, StreamedFacts, Training
from diffacet.data.sequences import Sequences
from diffacet.data.user_ranges import Beginnings, InMemory
from diffacet.errors import BadLog, BadSetting
from diffacet.learn import negatives, user_blocks
from diffacet.learn.user_blocks import UserBlocks

IntArray = NDArray[np.int64]


def facts(
    train: Sequences | Beginnings,
    n_items: int,
    training: Training,
    n_users: int | None = None,
    clusters: IntArray | None = None,
) -> Facts:
    """What a model's constructor may know of the training sequences.

    n_users: users of the log, None: those of `train`; clusters: see `Facts`.
    """
    if isinstance(train, Beginnings):
        return StreamedFacts(n_items, training.length, n_users=len(train.counts) if n_users is None else n_users)
    users = int(train.users.max(initial=-1)) + 1 if n_users is None else n_users
    groups = np.zeros(0, np.int64) if clusters is None else clusters
    return Facts(n_items, training.length, train.items, train.offsets, train.users, users, groups)


def form(card: Card, training: Training) -> type[Batch]:
    """The form of the batches that a model is trained on; raises BadSetting when it does not take the one asked for."""
    if training.targets == "own":
        return card.batch
    wanted = SequenceBatch if training.targets == "one" else PositionBatch
    if wanted not in (card.batch, *card.also):
        raise BadSetting(f"targets={training.targets}: {card.name} is not trained so; leave it at own")
    return wanted


def epoch_steps(train: Sequences | Beginnings, training: Training, batch_type: type[Any] = SequenceBatch) -> int:
    """Steps in which every training row is seen once: interactions for PairBatch, users for all others.

    Pairs of a history and its target for SequenceBatch with sampling="epochs".
    """
    if isinstance(train, Beginnings):
        rows = int((train.counts >= 2).sum())
    elif batch_type is PairBatch:
        rows = len(train.items)
    elif batch_type is SequenceBatch and training.sampling == "epochs":
        lengths = train.lengths()
        rows = int(np.where(lengths >= 2, lengths - _first(lengths, training), 0).sum())
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


def check_sampling(training: Training, batch_type: type[Any]) -> None:
    """Raise BadSetting when users are to be read in blocks, and the model is not trained on windows of them."""
    if training.sampling == "blocks" and batch_type not in (SequenceBatch, PositionBatch):
        raise BadSetting(
            "sampling=blocks is for models that learn from windows of a user's history, such as dmi or sasrec; this "
            "one learns from whole rows: set sampling=drawn"
        )


def check_length(training: Training, batch_type: type[Any]) -> None:
    """Raise BadSetting when a model that is trained on windows is asked to read whole histories."""
    if not training.length and training.max_steps and batch_type not in (ProfileBatch, PairBatch):
        raise BadSetting("length=0, the whole history, is for collaborative models; this one reads 1 item or more")


def batch_at(
    train: Sequences | Beginnings, n_items: int, training: Training, batch_type: type[Any] = SequenceBatch
) -> Callable[[int], Any]:
    """Step -> the batch of that step, on the CPU.

    B distinct users uniformly (all of them if there are fewer); with sampling="epochs" the next B of the epoch's order,
    for SequenceBatch the next B pairs of a history and its target, from position first_target on; with "blocks" the
    next B users of the order of `user_blocks`, where the sequences need not be in memory.
    SequenceBatch: one target position k for each, uniform in {first_target, ..., len - 1}, or in {len - 1} for a
    shorter sequence; history = the L items before k.
    PositionBatch: a window of L + 1 items, the whole sequence or one that ends at a uniform position; each of its
    items from position first_target of the sequence on is a target (the last item of a shorter sequence is).
    ProfileBatch: the next B users of the epoch's order, the last batch of an epoch being shorter.
    PairBatch: the next B interactions of the epoch's order, likewise, each with a uniform item that its user has
    not met in training; interactions of users who have met every item are left out.

    Raises:
        BadLog: when no training sequence has two items, or for the last two when there is nothing to learn from.
        BadSetting: when more distinct negatives are asked for than there are items, `length` is 0, which only
            ProfileBatch and PairBatch take, or sampling is "blocks", which these do not take.
    """
    check_sampling(training, batch_type)
    if isinstance(train, Sequences) and batch_type is ProfileBatch:
        return _profiles(train, training)
    if isinstance(train, Sequences) and batch_type is PairBatch:
        return _pairs(train, n_items, training)
    check_length(training, batch_type)
    if training.unique_negatives and training.negatives > n_items:
        raise BadSetting(f"negatives lies in 0..{n_items} with unique_negatives=true; got {training.negatives}")
    if training.own_negatives and (training.correction or not training.negatives):
        raise BadSetting(
            f"own_negatives=true takes negatives >= 1 and correction=false; got negatives={training.negatives} and "
            f"correction={str(training.correction).lower()}; for a full softmax set own_negatives=false as well"
        )
    if isinstance(train, Beginnings) or training.sampling == "blocks":
        chosen, others = _blocks(train, n_items, training)
    else:
        chosen, others = _in_memory(train, n_items, training, batch_type)
    cut = _positions if batch_type is PositionBatch else _targets

    def batch(step: int) -> Any:
        rng = seeds.stream(training.seed, "batch", step)
        sequences, rows, position = chosen(step, rng)
        parts, target = cut(sequences, rows, position, training, rng)
        if others is None:
            extra = negatives.shared(rng, target, n_items, training)
        else:
            row = parts.get("row")
            own = others(rng, sequences, rows if row is None else rows[row.numpy()])
            extra = {"negatives": torch.from_numpy(own)}
        if sequences is not train:
            # Where a batch has sequences of its own, their rows tell nobody apart.
            parts["history"] = replace(parts["history"], case=parts["history"].users)
        return batch_type(**parts, target=torch.from_numpy(target), step=step, **extra)

    return batch


Chosen = Callable[[int, np.random.Generator], tuple[Sequences, IntArray, IntArray | None]]
"""(step, rng) -> sequences, the rows of a batch in them (B,), and the target's position in each, None: a random one."""
Others = Callable[[np.random.Generator, Sequences, IntArray], IntArray] | None
"""(rng, sequences, rows (n,)) -> items (n, M) that the users of the rows have not met; None: negatives are shared."""


def _in_memory(train: Sequences, n_items: int, training: Training, batch_type: type[Any]) -> tuple[Chosen, Others]:
    """Rows of all training sequences."""
    eligible, others = np.flatnonzero(train.lengths() >= 2), None
    if not len(eligible):
        raise BadLog("no training sequence has two items, so there is no next item to learn; lower the filters")
    if training.own_negatives:
        met = negatives.Met(train, n_items)
        eligible = eligible[met.lacking(train.users[eligible])]
        if not len(eligible):
            raise BadLog("every training user has met every item, so nobody has a negative; own_negatives=false")

        def others(rng: np.random.Generator, sequences: Sequences, rows: IntArray) -> IntArray:
            return met.others_of(rng, sequences.users[rows], training.negatives)

    chosen = _epochs if training.sampling == "epochs" else _drawn
    return chosen(train, eligible, training, batch_type), others


def _blocks(train: Sequences | Beginnings, n_items: int, training: Training) -> tuple[Chosen, Others]:
    """The users of a step in sequences of their own; with own negatives those of N and more items are left out."""
    streamed = Beginnings(InMemory(train), train.lengths()) if isinstance(train, Sequences) else train
    own = training.own_negatives
    most = n_items - 1 if own else None
    sizes = {"block": user_blocks.BLOCK, "blocks": user_blocks.BLOCKS}
    users = UserBlocks(streamed, training.batch_size, training.seed, most=most, **sizes)

    def others(rng: np.random.Generator, sequences: Sequences, rows: IntArray) -> IntArray:
        apart = replace(sequences, users=np.arange(len(sequences)))  # so that nothing is as long as all users are many
        return negatives.Met(apart, n_items).others_of(rng, rows, training.negatives)

    def chosen(step: int, rng: np.random.Generator) -> tuple[Sequences, IntArray, IntArray | None]:
        del rng
        sequences = users.at(step)
        return sequences, np.arange(len(sequences)), None

    return chosen, others if own else None


def _first(lengths: IntArray, training: Training) -> IntArray:
    """The first position of each sequence that may be a target: that of the settings, or the last of a short one."""
    return np.minimum(training.first_target, lengths - 1)


def _drawn(train: Sequences, eligible: IntArray, training: Training, batch_type: type[Any]) -> Chosen:
    """B distinct users uniformly, all of them if there are fewer."""
    del batch_type
    size = min(training.batch_size, len(eligible))

    def chosen(step: int, rng: np.random.Generator) -> tuple[Sequences, IntArray, IntArray | None]:
        del step
        return train, eligible[rng.choice(len(eligible), size, replace=False, shuffle=False)], None

    return chosen


def _epochs(train: Sequences, eligible: IntArray, training: Training, batch_type: type[Any]) -> Chosen:
    """The next B rows of the epoch's order; for SequenceBatch the next B pairs of a row and a position in it."""
    rows, position = eligible, None
    if batch_type is SequenceBatch:
        lengths = train.lengths()[eligible]
        first = _first(lengths, training)
        rows, before = np.repeat(eligible, lengths - first), np.cumsum(lengths - first) - (lengths - first)
        position = np.arange(len(rows)) + np.repeat(first - before, lengths - first)
    places = _order(training, len(rows))

    def chosen(step: int, rng: np.random.Generator) -> tuple[Sequences, IntArray, IntArray | None]:
        del rng
        mine, _ = places(step)
        return train, rows[mine], None if position is None else position[mine]

    return chosen


def epoch_order(seed: int, rows: int) -> Callable[[int], IntArray]:
    """Epoch -> the order in which 0..rows - 1 are gone through in it, (rows,) int64; the newest two are kept."""

    @lru_cache(2)
    def shuffled(epoch: int) -> IntArray:
        return seeds.stream(seed, "epoch", epoch).permutation(rows)

    return shuffled


def _order(training: Training, rows: int) -> Callable[[int], tuple[IntArray, int]]:
    """Step -> the places of its rows in 0..rows - 1, and the epoch."""
    steps, shuffled = math.ceil(rows / training.batch_size), epoch_order(training.seed, rows)

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
    met = negatives.Met(train, n_items)
    eligible = np.flatnonzero(met.lacking(owner))
    if not len(eligible):
        raise BadLog("no training user has an item left that it has not met, so there is nothing to rank below")
    places = _order(training, len(eligible))

    def batch(step: int) -> PairBatch:
        chosen, epoch = places(step)
        rows = eligible[chosen]
        user, item = owner[rows], train.items[rows]
        rng = seeds.stream(training.seed, "batch", step)
        negative = met.others(rng, user)
        pairs = [torch.from_numpy(numbers) for numbers in (user, item, negative)]
        return PairBatch(pairs[0], pairs[1], pairs[2], step, epoch)

    return batch


def _targets(
    train: Sequences, rows: IntArray, position: IntArray | None, training: Training, rng: np.random.Generator
) -> tuple[dict[str, Any], IntArray]:
    """One target for each of `rows` (B,), at `position` or a uniform one, and what stands before it."""
    if position is None:
        lengths = train.lengths()[rows]
        first = _first(lengths, training)
        position = first + (rng.random(len(rows)) * (lengths - first)).astype(np.int64)
    target = train.items[train.offsets[rows] + position]
    return {"history": _histories(train, rows, position, training.length)}, target


def _positions(
    train: Sequences, rows: IntArray, position: IntArray | None, training: Training, rng: np.random.Generator
) -> tuple[dict[str, Any], IntArray]:
    """Every target of a window of each of `rows` (B,), which holds at least one and lies anywhere."""
    lengths, length = train.lengths()[rows], training.length
    first = _first(lengths, training)
    shortest = np.maximum(np.minimum(lengths, length + 1), first + 1)
    last = shortest + (rng.random(len(rows)) * (lengths - shortest + 1)).astype(np.int64) - 1  # the newest target
    oldest = np.maximum(last - length, 0)
    steps = np.arange(length, dtype=np.int64)
    there = (oldest[:, None] + steps < last[:, None]) & (oldest[:, None] + steps + 1 >= first[:, None])
    row, position = np.nonzero(there)
    per_user = len(rows) * there.sum(1)[row]
    weight = (1 / (per_user if training.weighting == "user" else np.full(len(row), len(row)))).astype(np.float32)
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
