"""Training users in blocks: every one once an epoch, in an order that looks drawn, out of memory that stays small."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

import partitionlog
from diffacet.core.batch import PairBatch, PositionBatch, ProfileBatch, SequenceBatch
from diffacet.core.contract import Training
from diffacet.data.interactions import Interactions
from diffacet.data.partitions import Partitions
from diffacet.data.sequences import Sequences
from diffacet.data.streamed_split import make
from diffacet.data.user_ranges import Beginnings, InMemory
from diffacet.errors import BadLog, BadSetting
from diffacet.learn import batches, user_blocks
from diffacet.learn.batches import batch_at, epoch_steps
from diffacet.learn.user_blocks import UserBlocks

N = 30


def log(users=50, most=9, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, most + 1, users)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return Sequences(rng.integers(1, N + 1, offsets[-1]), offsets, np.arange(users), np.arange(offsets[-1]))


def beginnings(train):
    return Beginnings(InMemory(train), train.lengths())


def blocks(train, **changes):
    return UserBlocks(beginnings(train), **{"batch_size": 4, "seed": 3, "block": 6, "blocks": 2} | changes)


def equal(one, other):
    for name in (field.name for field in dataclasses.fields(one)):
        mine, theirs = getattr(one, name), getattr(other, name)
        if torch.is_tensor(mine):
            assert torch.equal(mine, theirs), name
        elif name == "history":
            equal(mine, theirs)
        elif not isinstance(mine, tuple):
            assert mine == theirs, name


@pytest.mark.parametrize("batch_size", [1, 4, 17, 100])
@pytest.mark.parametrize("size", [(1, 1), (6, 2), (100, 32)])
def test_an_epoch_has_every_user_once_with_its_whole_sequence(batch_size, size):
    train = log()
    users = blocks(train, batch_size=batch_size, block=size[0], blocks=size[1])
    wanted = np.flatnonzero(train.lengths() >= 2).tolist()
    orders = []
    for epoch in range(3):
        seen = []
        for step in range(epoch * users.steps, (epoch + 1) * users.steps):
            found = users.at(step)
            assert len(found) == min(batch_size, len(wanted) - len(seen))
            for row, user in enumerate(found.users.tolist()):
                assert found.row(row).tolist() == train.row(user).tolist()
            assert found.times.tolist() == [t for u in found.users for t in range(*train.offsets[u : u + 2])]
            seen += found.users.tolist()
        assert sorted(seen) == wanted
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


def test_a_step_depends_on_seed_and_number_alone():
    train = log()
    one, other, another = blocks(train), blocks(train), blocks(train, seed=4)
    straight = [one.at(step).users.tolist() for step in range(40)]
    assert [other.at(step).users.tolist() for step in reversed(range(40))] == straight[::-1]
    assert [another.at(step).users.tolist() for step in range(40)] != straight


def test_every_place_of_an_epoch_is_as_likely_for_every_user():
    """Chi-square of each of 64 users over 16 places of an epoch, 1,000 epochs; blocks of 4, buffers of 4 blocks."""
    train = log(64, most=1)
    users = blocks(train, least=1, block=4, blocks=4, batch_size=4)
    counts = np.zeros((64, 16))
    for step in range(1_000 * 16):
        counts[users.at(step).users, step % 16] += 1
    chances = np.array([stats.chisquare(user).pvalue for user in counts])
    assert chances.min() > 1e-5
    assert stats.kstest(chances, "uniform").pvalue > 1e-3


def together(train, **changes):
    """How often neighbours of a block of 4 are in one batch of 8, among 128 users: a share of 400 epochs."""
    users, met = blocks(train, least=1, block=4, batch_size=8, **changes), 0
    for step in range(400 * 16):
        batch = np.sort(users.at(step).users)
        met += int(((np.diff(batch) == 1) & (batch[1:] % 4 > 0)).sum())
    return met / (96 * 400)


def test_neighbours_meet_hardly_more_often_than_others():
    """Two users of one buffer of 64 meet in 7 of 63 epochs, two of all 128 in 7 of 127: that is all the difference."""
    train, slack = log(128, most=1), 5 * (7 / 127 / (96 * 400)) ** 0.5
    assert abs(together(train, blocks=16) - 7 / 63) < 2 * slack
    assert abs(together(train, blocks=32) - 7 / 127) < slack


class Watched:
    """A source that counts the interactions that are read."""

    def __init__(self, source):
        self.source, self.reads = source, []

    def lengths(self):
        return self.source.lengths()

    def sequences(self, first, last):
        self.reads.append((first, last))
        return self.source.sequences(first, last)


def test_no_more_than_a_buffer_is_held():
    """Users that are alive at any time: those of one buffer, of which another is read only when it was left."""
    train = log(400)
    source = Watched(InMemory(train))
    users = UserBlocks(Beginnings(source, train.lengths()), batch_size=7, seed=0, block=10, blocks=3)
    for step in range(2 * users.steps):
        before = len(source.reads)
        users.at(step)
        held = sum(len(part) for part in users._held.values())
        assert held <= 30
        assert len(users._held) == 1
        assert len(source.reads) - before in (0, 1, 2, 3)  # blocks of one buffer at most
        assert all(last - first <= 10 for first, last in source.reads)
    assert len(source.reads) == 2 * 40  # each block once an epoch


def test_a_log_of_one_buffer_is_read_once():
    source = Watched(InMemory(log()))
    users = UserBlocks(Beginnings(source, source.lengths()), batch_size=4, seed=0, block=6)
    for step in range(5 * users.steps):
        users.at(step)
    assert len(source.reads) == 9


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One log in 1 and in 64 partitions, and in memory."""
    place = tmp_path_factory.mktemp("sources")
    frame = partitionlog.rows(users=90, items=N, seed=2)
    for count in (1, 64):
        partitionlog.write(frame, place / str(count), count)
    one, many = (Partitions.open(place / str(count)) for count in (1, 64))
    return one, many, InMemory(one.log().sequences())


def training(**changes):
    small = {"batch_size": 5, "length": 4, "negatives": 7, "seed": 3, "sampling": "blocks", "first_target": 2}
    return dataclasses.replace(Training(), **small | changes)


@pytest.mark.parametrize("kind", [SequenceBatch, PositionBatch])
@pytest.mark.parametrize("changes", [{}, {"own_negatives": True}, {"negatives": 0}, {"mask_hits": True}])
@pytest.mark.parametrize("split", ["by-user", "leave-last"])
def test_batches_are_equal_for_any_partitions_and_in_memory(sources, monkeypatch, kind, changes, split):
    monkeypatch.setattr(user_blocks, "BLOCK", 8)
    monkeypatch.setattr(user_blocks, "BLOCKS", 3)
    ats = [batch_at(make(source, split, 7).train, N, training(**changes), kind) for source in sources]
    for step in (0, 1, 2, 11, 12, 13, 40, 3):
        first, *others = [at(step) for at in ats]
        assert first.step == step
        for other in others:
            equal(first, other)


def test_batches_hold_what_the_protocol_lets_learn(sources):
    source = sources[1]
    whole = source.sequences(0, source.n_users)
    split = make(source, "leave-last", 0)
    at = batch_at(split.train, N, training(length=50, batch_size=1_000))
    batch = at(0)
    users = batch.history.users.tolist()
    assert sorted(users) == np.flatnonzero(whole.lengths() >= 4).tolist()  # two items are left to learn from
    assert batch.history.case.tolist() == users
    for row, user in enumerate(users):
        known = whole.row(user)[:-2]
        shown = batch.history.items[row][batch.history.mask[row]].tolist()
        place = len(shown)
        assert shown == known[:place].tolist()
        assert batch.target[row] == known[place]
        assert place >= min(2, len(known) - 1)


def test_own_negatives_are_items_that_the_user_has_not_met(sources):
    split = make(sources[0], "by-user", 0)
    at = batch_at(split.train, N, training(own_negatives=True, negatives=20))
    for step in range(10):
        batch = at(step)
        for user, drawn in zip(batch.history.users.tolist(), batch.negatives.tolist(), strict=True):
            assert not set(drawn) & set(sources[0].sequences(user, user + 1).items.tolist())


def test_sequences_in_memory_take_blocks_as_well():
    train = log()
    at = batch_at(train, N, training())
    assert epoch_steps(train, training()) == epoch_steps(beginnings(train), training())
    for step in range(20):
        equal(at(step), batch_at(beginnings(train), N, training())(step))


def test_models_of_whole_rows_are_refused():
    for kind in (ProfileBatch, PairBatch):
        with pytest.raises(BadSetting, match="sampling=blocks is for models that learn from windows"):
            batch_at(log(), N, training(), kind)


def test_facts_of_streamed_rows_refuse_a_look_at_them():
    facts = batches.facts(beginnings(log()), N, training(), 60)
    assert (facts.n_items, facts.length, facts.n_users) == (N, 4, 60)
    for name in ("train_items", "train_offsets", "train_users"):
        with pytest.raises(BadSetting, match="sampling=blocks never has them all in memory"):
            getattr(facts, name)
    with pytest.raises(BadSetting, match="looks at all training sequences"):
        facts.item_counts()
    assert facts.without_training().n_users == 60
    assert not len(facts.without_training().train_items)


def test_nobody_to_learn_from_is_refused():
    with pytest.raises(BadLog, match="no training sequence has two items"):
        batch_at(log(most=1), N, training())


def test_other_protocols_are_refused(sources):
    for name in ("by-time", "collaborative", "next-item", "given"):
        with pytest.raises(BadSetting, match="takes the splits by-user and leave-last; got " + name):
            make(sources[0], name, 0)


def test_interactions_are_a_source(sources):
    log = sources[0].log()
    assert isinstance(log, Interactions)
    assert InMemory(log.sequences()).lengths().tolist() == sources[1].lengths().tolist()
