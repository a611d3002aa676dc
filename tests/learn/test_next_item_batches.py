"""Every pair of a history and its next item once an epoch, and negatives that a user has not met."""

import numpy as np
import pytest
import torch

from diffacet.core import objectives
from diffacet.core.batch import Histories, PositionBatch, ProfileBatch, SequenceBatch
from diffacet.core.contract import Training
from diffacet.data.sequences import Sequences
from diffacet.errors import BadLog, BadSetting
from diffacet.learn import batches
from diffacet.learn.batches import batch_at, epoch_steps
from diffacet.learn.negatives import Met
from diffacet.models import card

N = 30


def sequences(lengths, n_items=N, seed=0):
    rng = np.random.default_rng(seed)
    rows = [rng.choice(n_items, n, replace=False) + 1 for n in lengths]
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    items = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return Sequences(items, offsets, np.arange(len(lengths), dtype=np.int64) + 3)


def training(**changes):
    wanted = {"batch_size": 4, "length": 5, "first_target": 1, "negatives": 2, "sampling": "epochs"} | changes
    return Training(**wanted)


@pytest.mark.parametrize("first", [1, 3])
def test_every_pair_comes_once_an_epoch(first):
    train = sequences([1, 2, 9, 4])
    settings = training(first_target=first)
    steps = epoch_steps(train, settings)
    at = batch_at(train, N, settings)
    wanted = []
    for row in range(len(train)):
        own = train.row(row).tolist()
        positions = range(max(1, min(first, len(own) - 1)), len(own))
        wanted += [(own[max(0, p - 5) : p], own[p]) for p in positions]
    orders = []
    for epoch in range(2):
        found = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            batch = at(step)
            for history, target in zip(batch.history.items.tolist(), batch.target.tolist(), strict=True):
                found.append(([i for i in history if i], target))
        assert sorted(found) == sorted(wanted)
        orders.append(found)
    assert orders[0] != orders[1]


def test_windows_come_once_an_epoch_for_each_user():
    train = sequences([3, 9, 2, 1, 12, 4, 4])
    settings = training(targets="every")
    steps = epoch_steps(train, settings, PositionBatch)
    assert steps == 2
    at = batch_at(train, N, settings, PositionBatch)
    users = [user for step in range(steps) for user in at(step).history.users.tolist()]
    assert sorted(users) == sorted(u + 3 for u in (0, 1, 2, 4, 5, 6))


def test_weights_of_targets_or_of_users():
    train = sequences([3, 9, 2])
    for weighting in ("user", "target"):
        batch = batch_at(train, N, training(weighting=weighting, batch_size=3), PositionBatch)(0)
        assert float(batch.weight.sum()) == pytest.approx(1)
        if weighting == "target":
            assert batch.weight.unique().numel() == 1
        else:
            sums = torch.zeros(3).index_add_(0, batch.row, batch.weight)
            assert torch.allclose(sums, torch.full((3,), 1 / 3))


@pytest.mark.parametrize("batch_type", [SequenceBatch, PositionBatch])
def test_own_negatives_are_what_the_user_has_not_met(batch_type):
    train = sequences([20, 9, 29, 2])
    at = batch_at(train, N, training(own_negatives=True, negatives=7), batch_type)
    for step in range(6):
        batch = at(step)
        row = batch.row if batch_type is PositionBatch else torch.arange(len(batch.target))
        assert batch.negatives.shape == (len(batch.target), 7)
        for r, negatives in zip(row.tolist(), batch.negatives.tolist(), strict=True):
            user = int(batch.history.users[r]) - 3
            assert not {*negatives} & {*train.row(user).tolist()}
            assert all(1 <= i <= N for i in negatives)


def test_own_negatives_are_uniform():
    """Chi-square over what the user lacks, 20,000 draws: below the 99.9 % point for 24 degrees of freedom."""
    train = sequences([5])
    met = Met(train, N)
    drawn = met.others_of(np.random.default_rng(0), np.full(2_000, 3), 10)
    counts = np.bincount(drawn.ravel(), minlength=N + 1)[1:]
    lacking = np.setdiff1d(np.arange(1, N + 1), train.row(0))
    assert counts.sum() == counts[lacking - 1].sum() == 20_000
    expected = 20_000 / len(lacking)
    assert ((counts[lacking - 1] - expected) ** 2 / expected).sum() < 51.2


def test_a_user_who_met_everything_is_left_out():
    train = sequences([N, 4])
    at = batch_at(train, N, training(own_negatives=True))
    assert {user for step in range(8) for user in at(step).history.users.tolist()} == {4}
    with pytest.raises(BadLog, match="met every item"):
        batch_at(sequences([N]), N, training(own_negatives=True))


def test_settings_that_own_negatives_do_not_take():
    for wrong in ({"negatives": 0}, {"correction": True}):
        with pytest.raises(BadSetting, match="own_negatives"):
            batch_at(sequences([5]), N, training(own_negatives=True, **wrong))


def test_the_form_of_a_batch_is_the_cards_or_one_of_its_others():
    one = card("remi")
    assert batches.form(one, training()) is SequenceBatch
    with pytest.raises(BadSetting, match="remi is not trained so"):
        batches.form(one, training(targets="every"))
    assert batches.form(card("diffrec"), training()) is ProfileBatch


def test_own_negatives_make_the_softmax_of_each_row():
    torch.manual_seed(0)
    user, target, negatives = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 5, 3)
    nothing = torch.zeros(0)
    batch = SequenceBatch(Histories(nothing, nothing, nothing), nothing, nothing)
    rows = []
    for b in range(4):
        logits = torch.stack([user[b] @ target[b], *(user[b] @ n for n in negatives[b])])
        rows.append(-logits.log_softmax(0)[0])
    assert torch.allclose(objectives.sampled_softmax(user, target, negatives, batch), torch.stack(rows).mean())
    turned = negatives[:, torch.randperm(5)]
    assert torch.allclose(objectives.sampled_softmax(user, target, turned, batch), torch.stack(rows).mean())


def test_the_binary_loss_tells_the_target_from_each_negative():
    torch.manual_seed(0)
    user, target, negatives = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 2, 3)
    nothing = torch.zeros(0)
    batch = SequenceBatch(Histories(nothing, nothing, nothing), nothing, nothing)
    rows = []
    for b in range(4):
        wrong = sum((1 - (user[b] @ n).sigmoid()).log() for n in negatives[b])
        rows.append(-(user[b] @ target[b]).sigmoid().log() - wrong)
    assert torch.allclose(objectives.binary(user, target, negatives, batch), torch.stack(rows).mean())


@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_everything_is_the_full_softmax(hardness):
    torch.manual_seed(0)
    user, vectors, target = torch.randn(4, 3), torch.randn(N, 3), torch.tensor([3, 1, 30, 7])
    nothing = torch.zeros(0)
    history = Histories(nothing, nothing, nothing)
    numbers = torch.arange(1, N + 1)
    plain = SequenceBatch(history, target, numbers, hits=target[:, None] == numbers)
    every = SequenceBatch(history, target, numbers, everything=True)
    found = objectives.sampled_softmax(user, vectors[target - 1], vectors, every, hardness)
    assert torch.allclose(found, objectives.sampled_softmax(user, vectors[target - 1], vectors, plain, hardness))
