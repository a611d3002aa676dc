"""Batches of models that go over whole rows, or over single interactions, in epochs."""

import dataclasses

import numpy as np
import pytest
import torch

from diffacet.core.batch import PairBatch, PositionBatch, ProfileBatch, SequenceBatch
from diffacet.core.contract import Training
from diffacet.data.sequences import Sequences
from diffacet.errors import BadLog, BadSetting
from diffacet.learn import batches
from diffacet.learn.batches import batch_at, epoch_steps, in_steps

N = 12


def log(lengths=(3, 0, 5, 1, 7, 4), seed=0):
    """Distinct items in a row; users are not numbered as the rows are."""
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.choice(N, n, replace=False) + 1 for n in lengths]).astype(np.int64)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return Sequences(items, offsets, np.arange(len(lengths), dtype=np.int64) * 2 + 1)


def training(**changes):
    return dataclasses.replace(Training(batch_size=2, length=0, seed=3), **changes)


def test_an_epoch_shows_every_user_once_with_the_whole_row():
    train = log()
    at = batch_at(train, N, training(), ProfileBatch)
    assert epoch_steps(train, training(), ProfileBatch) == 3  # five users with items
    orders = []
    for epoch in range(3):
        seen = []
        for step in range(3 * epoch, 3 * epoch + 3):
            batch = at(step)
            assert (batch.step, batch.epoch) == (step, epoch)
            seen += batch.history.case.tolist()
            assert batch.history.items.shape[1] == batch.history.mask.sum(1).max()
            for b, row in enumerate(batch.history.case.tolist()):
                own = batch.history.items[b]
                assert own[own > 0].tolist() == train.row(row).tolist()
                assert batch.history.users[b] == train.users[row]
        assert sorted(seen) == [0, 2, 3, 4, 5]
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


def test_the_last_batch_of_an_epoch_is_shorter():
    at = batch_at(log(), N, training(), ProfileBatch)
    assert [len(at(step).history.items) for step in range(6)] == [2, 2, 1, 2, 2, 1]


def test_rows_are_cut_to_their_latest_items_when_a_length_is_asked_for():
    train = log()
    for step in range(3):
        batch = batch_at(train, N, training(length=3), ProfileBatch)(step)
        for b, row in enumerate(batch.history.case.tolist()):
            own = batch.history.items[b]
            assert own[own > 0].tolist() == train.row(row)[-3:].tolist()


def test_an_epoch_shows_every_interaction_once_and_no_negative_is_the_users():
    train = log()
    at = batch_at(train, N, training(), PairBatch)
    steps = epoch_steps(train, training(), PairBatch)
    assert steps == 10
    real = sorted((int(train.users[u]), int(i)) for u in range(len(train)) for i in train.row(u))
    for epoch in range(3):
        pairs = []
        for step in range(steps * epoch, steps * (epoch + 1)):
            batch = at(step)
            assert (batch.step, batch.epoch) == (step, epoch)
            pairs += list(zip(batch.user.tolist(), batch.item.tolist(), strict=True))
            for user, negative in zip(batch.user.tolist(), batch.negative.tolist(), strict=True):
                assert (user, negative) not in real
                assert 1 <= negative <= N
        assert sorted(pairs) == real


def test_negatives_are_uniform_over_what_the_user_has_not():
    train = Sequences(np.arange(1, 9), np.array([0, 8]), np.array([0]))
    at = batch_at(train, N, training(batch_size=8), PairBatch)
    drawn = torch.cat([at(step).negative for step in range(1_000)])
    counts = torch.bincount(drawn, minlength=N + 1)[9:]
    assert counts.sum() == 8_000
    assert ((counts - 2_000).abs() < 5 * (8_000 * 0.25 * 0.75) ** 0.5).all()


def test_a_user_who_has_everything_is_skipped():
    items = np.concatenate([np.arange(1, N + 1), [4, 2]])
    train = Sequences(items, np.array([0, N, N + 2]), np.array([0, 1]))
    at = batch_at(train, N, training(batch_size=50), PairBatch)
    assert at(0).user.tolist() == [1, 1]
    with pytest.raises(BadLog, match="no training user has an item left"):
        batch_at(train.take(np.array([0])), N, training(), PairBatch)


@pytest.mark.parametrize("kind", [ProfileBatch, PairBatch])
def test_a_batch_is_a_function_of_seed_and_step(kind):
    one, other = batch_at(log(), N, training(), kind), batch_at(log(), N, training(), kind)
    another = batch_at(log(), N, training(seed=4), kind)

    def told(batch):
        return [value.tolist() for value in vars(getattr(batch, "history", batch)).values() if torch.is_tensor(value)]

    assert [told(one(step)) for step in (7, 0, 4)] == [told(other(step)) for step in (7, 0, 4)]
    assert [told(one(step)) for step in range(8)] != [told(another(step)) for step in range(8)]


def test_nothing_to_learn_from_is_refused():
    empty = Sequences(np.zeros(0, np.int64), np.zeros(3, np.int64), np.arange(2))
    with pytest.raises(BadLog, match="no user has a training interaction"):
        batch_at(empty, N, training(), ProfileBatch)


@pytest.mark.parametrize("kind", [SequenceBatch, PositionBatch])
def test_a_whole_history_is_refused_where_windows_are_cut(kind):
    with pytest.raises(BadSetting, match="length=0, the whole history, is for collaborative models"):
        batch_at(log(), N, training(), kind)


def test_epochs_are_told_in_steps():
    asked = training(max_epochs=4, validate_epochs=2, max_steps=100, validate_every=7)
    told = in_steps(asked, 10)
    assert (told.max_steps, told.validate_every) == (40, 20)
    assert in_steps(dataclasses.replace(asked, max_steps=30), 10).max_steps == 30
    plain = training(max_steps=100, validate_every=7)
    assert in_steps(plain, 10) == plain


def test_facts_tell_of_users_and_clusters():
    train, clusters = log(), np.array([-1, 0, 1] + [0] * 10)
    told = batches.facts(train, N, training(), 20, clusters)
    assert (told.n_users, told.train_users.tolist()) == (20, train.users.tolist())
    kept = told.without_training()
    assert (kept.n_items, kept.length, kept.n_users) == (N, 0, 20)
    assert kept.clusters.tolist() == clusters.tolist()
    assert not len(kept.train_items)
    assert batches.facts(train, N, training()).n_users == 12
