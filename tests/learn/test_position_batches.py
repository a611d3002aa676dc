import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet import seeds
from diffacet.core.batch import PositionBatch, SequenceBatch
from diffacet.core.contract import Training
from diffacet.data.sequences import Sequences
from diffacet.errors import BadLog
from diffacet.learn.batches import batch_at

DAY = 86_400


def sequences(lengths):
    """Every interaction has an item of its own, so an item tells its sequence and its position."""
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    items = 1 + np.random.default_rng(0).permutation(offsets[-1])
    return Sequences(items, offsets, np.arange(len(lengths), dtype=np.int64) * 10 + 3, DAY * np.arange(offsets[-1]))


def training(**changes):
    return dataclasses.replace(Training(batch_size=8, length=6, negatives=15, first_target=1), **changes)


def cut(train, chosen, step=0):
    return batch_at(train, len(train.items), chosen, PositionBatch)(step)


def targets_of(train, batch, b):
    """Positions, within the whole sequence, of the targets of user b, in the batch's order."""
    sequence = train.row(int(batch.history.case[b])).tolist()
    return [sequence.index(item) for item in batch.target[batch.row == b].tolist()]


# --- what a batch is -------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 25), min_size=1, max_size=20).filter(lambda x: max(x) >= 2),
    size=st.integers(1, 25),
    length=st.integers(1, 12),
    first=st.integers(1, 15),
    step=st.integers(0, 10**6),
)
def test_every_position_of_the_window_is_a_target_once(lengths, size, length, first, step):
    train = sequences(lengths)
    batch = cut(train, training(batch_size=size, length=length, first_target=first), step)
    eligible = [u for u, n in enumerate(lengths) if n >= 2]
    B, rows = min(size, len(eligible)), batch.history.case.tolist()
    assert batch.step == step
    assert batch.history.items.shape == (B, length)
    assert len(set(rows)) == B
    assert set(rows) <= set(eligible)
    assert batch.history.users.tolist() == [10 * row + 3 for row in rows]
    assert len(batch.row) == len(batch.position) == len(batch.target) == len(batch.weight)
    assert batch.row.tolist() == sorted(batch.row.tolist())
    for b, row in enumerate(rows):
        sequence, times = train.row(row).tolist(), train.times[train.offsets[row] : train.offsets[row + 1]].tolist()
        n, lowest = len(sequence), min(first, len(sequence) - 1)
        found = targets_of(train, batch, b)
        last = found[-1]
        oldest = max(last - length, 0)
        # The window is what the model may read, and as much of it as there is.
        assert min(n, length + 1) - 1 <= last < n
        assert found == list(range(max(lowest, oldest + 1), last + 1))
        padding = [0] * (length - (last - oldest))
        assert batch.history.items[b].tolist() == sequence[oldest:last] + padding
        assert batch.history.times[b].tolist() == times[oldest:last] + padding
        for k, position in zip(found, batch.position[batch.row == b].tolist(), strict=True):
            assert batch.history.items[b, : position + 1].tolist() == sequence[oldest:k]
    for tensor in (batch.row, batch.position, batch.target, batch.negatives, *vars(batch.history).values()):
        assert tensor.dtype == torch.int64


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(2, 25), min_size=1, max_size=12),
    length=st.integers(1, 12),
    first=st.integers(1, 6),
)
def test_every_user_weighs_the_same(lengths, length, first):
    batch = cut(sequences(lengths), training(length=length, first_target=first))
    B = len(batch.history.case)
    each = torch.zeros(B, dtype=torch.float64).index_add(0, batch.row, batch.weight.double())
    assert torch.allclose(each, torch.full_like(each, 1 / B), rtol=1e-6)
    assert batch.weight.sum().item() == pytest.approx(1, rel=1e-5)
    for b in range(B):
        assert len(set(batch.weight[batch.row == b].tolist())) == 1
    assert batch.weight.dtype == torch.float32


def test_two_items_are_one_target():
    train = sequences([2, 2])
    for first in (1, 4):  # the last item is a target, however high the first one stands
        batch = cut(train, training(first_target=first))
        for b, row in enumerate(batch.history.case.tolist()):
            oldest, newest = train.row(row).tolist()
            assert batch.history.items[b].tolist() == [oldest, 0, 0, 0, 0, 0]
            assert batch.target[b] == newest
        assert batch.row.tolist() == [0, 1]
        assert batch.position.tolist() == [0, 0]
        assert batch.weight.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("first", [1, 9])
def test_windows_of_long_sequences_reach_every_end_alike(first):
    """Chi-square with a fixed seed; a sequence that fits into the window is always taken whole."""
    lengths, length, draws = [12, 7, 20, 8, 2, 30], 6, 800
    train = sequences(lengths)
    at = batch_at(train, len(train.items), training(length=length, first_target=first), PositionBatch)
    ends = [[] for _ in lengths]
    for step in range(draws):
        batch = at(step)
        newest = batch.target[torch.diff(batch.row, append=torch.tensor([-1])) != 0]
        for row, item in zip(batch.history.case.tolist(), newest.tolist(), strict=True):
            ends[row].append(train.row(row).tolist().index(item))
    for n, found in zip(lengths, ends, strict=True):
        nearest = max(min(n, length + 1) - 1, min(first, n - 1))
        counts = np.bincount(found, minlength=n)
        assert not counts[:nearest].any()
        assert len(counts) == n
        reached, degrees = counts[nearest:], n - 1 - nearest
        expected = len(found) / (degrees + 1)
        assert (reached > 0).all()
        # Above the 0.999 quantile of chi-square for every number of degrees.
        assert ((reached - expected) ** 2 / expected).sum() <= degrees + 3.3 * math.sqrt(2 * degrees) + 6 * (
            degrees > 0
        )


# --- what the targets share ------------------------------------------------------------------------------------


def test_hits_and_corrections_are_those_of_the_targets():
    train = sequences([12, 9, 30, 5, 7, 2])
    n = len(train.items)
    batch = cut(train, training(negatives=80, mask_hits=True, correction=True, sampler="log-uniform"))
    assert batch.hits.shape == (len(batch.target), 80)
    assert batch.hits.any()
    for p, j in itertools.product(range(len(batch.target)), range(80)):
        assert batch.hits[p, j] == (batch.target[p] == batch.negatives[j])
    for ids, found in zip((batch.target, batch.negatives), batch.log_q, strict=True):
        expected = [math.log(80 * math.log((i + 1) / i) / math.log(n + 1)) for i in ids.tolist()]
        assert np.allclose(found.numpy(), expected, rtol=1e-5)
    whole = cut(train, training(negatives=0))
    assert whole.negatives.tolist() == list(range(1, n + 1))
    assert whole.everything


def tensors(batch):
    return [batch.row, batch.position, batch.target, batch.weight, batch.negatives, *vars(batch.history).values()]


def test_a_batch_is_a_function_of_seed_and_step_only():
    train = sequences([12, 9, 30, 5, 7, 2, 15, 8, 8, 20])
    at = batch_at(train, len(train.items), training(), PositionBatch)
    ahead = [at(step) for step in range(4)]
    torch.manual_seed(99)
    for step in reversed(range(4)):
        for one, other in zip(tensors(ahead[step]), tensors(cut(train, training(), step)), strict=True):
            assert torch.equal(one, other)
    for one, other in itertools.combinations([*ahead, cut(train, training(seed=1))], 2):
        assert not torch.equal(one.history.case, other.history.case) or not torch.equal(one.negatives, other.negatives)


def test_moving_a_batch_keeps_it():
    batch = cut(sequences([12, 9, 3]), training(mask_hits=True, correction=True), 4)
    moved = batch.to(torch.device("cpu"))
    pairs = [*zip(tensors(batch), tensors(moved), strict=True), *zip(batch.log_q, moved.log_q, strict=True)]
    assert all(torch.equal(one, other) for one, other in [*pairs, (batch.hits, moved.hits)])
    assert isinstance(moved, PositionBatch)
    assert moved.step == 4


def test_a_log_without_a_next_item_is_refused():
    with pytest.raises(BadLog, match="no training sequence has two items"):
        cut(sequences([1, 0, 1]), training())


# --- the published form beside it ------------------------------------------------------------------------------


def test_both_forms_draw_the_same_users():
    train = sequences([12, 9, 30, 5, 7, 2, 15, 8, 8, 20])
    one = batch_at(train, len(train.items), training(batch_size=4))(5)
    assert isinstance(one, SequenceBatch)
    assert torch.equal(one.history.case, cut(train, training(batch_size=4), 5).history.case)


def test_the_published_form_is_drawn_as_before():
    """One stream a step: the users, then a position for each, then the negatives."""
    lengths = [12, 9, 1, 30, 5, 7, 2, 0, 15, 8]
    train, chosen = sequences(lengths), training(batch_size=4, first_target=4)
    n, eligible = len(train.items), [u for u, length in enumerate(lengths) if length >= 2]
    for step in range(5):
        batch, rng = batch_at(train, n, chosen)(step), seeds.stream(0, "batch", step)
        rows = [eligible[i] for i in rng.choice(len(eligible), 4, replace=False, shuffle=False)]
        target = []
        for row, share in zip(rows, rng.random(4), strict=True):
            lowest = min(4, lengths[row] - 1)
            target.append(train.row(row)[lowest + int(share * (lengths[row] - lowest))])
        assert batch.history.case.tolist() == rows
        assert batch.target.tolist() == target
        assert batch.negatives.tolist() == rng.integers(1, n + 1, 15).tolist()
