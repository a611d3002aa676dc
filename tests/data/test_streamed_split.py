"""Splits that are read piece by piece are those of the log in memory: same users, same cases, same order."""

import numpy as np
import polars as pl
import pytest

import partitionlog
from diffacet.data import holdouts, next_item, splits, user_ranges
from diffacet.data.interactions import Interactions
from diffacet.data.partitions import Partitions
from diffacet.data.sequences import Sequences
from diffacet.data.streamed_split import make
from diffacet.data.user_ranges import Beginnings, InMemory, joined, taken
from diffacet.errors import BadLog, BadSetting

FRAME = partitionlog.rows(users=120, items=40, seed=1)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streamed") / "log"
    partitionlog.write(FRAME, folder, 7)
    return Partitions.open(folder)


@pytest.fixture(params=["partitions", "memory"])
def source(request, opened):
    return opened if request.param == "partitions" else InMemory(opened.log().sequences())


def same(one, other):
    for name in ("items", "offsets", "users", "times"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


@pytest.mark.parametrize("name", ["by-user", "leave-last"])
@pytest.mark.parametrize("seed", [0, 1230])
@pytest.mark.parametrize("together", [1, 50, 2**18])
def test_the_split_is_that_of_the_log_in_memory(opened, source, name, seed, together, monkeypatch):
    monkeypatch.setattr(user_ranges, "TOGETHER", together)
    whole, streamed = splits.make_split(opened.log(), name, seed), make(source, name, seed)
    for on in ("valid", "test"):
        mine, theirs = getattr(streamed, on), getattr(whole, on)
        same(mine.history, theirs.history)
        same(mine.target, theirs.target)
        assert mine.seen is None
        some, some_too = streamed.holdout(on, 5, 9), whole.holdout(on, 5, 9)
        assert len(some) == 5
        same(some.history, some_too.history)
        same(some.target, some_too.target)
    order = np.argsort(whole.train.users)
    same(streamed.train.read(0, opened.n_users), whole.train.take(order))
    for attribute in ("protocol", "dropped_users", "leaks", "exclude_seen"):
        assert getattr(streamed, attribute) == getattr(whole, attribute)
    assert streamed.train_items().tolist() == whole.train_items().tolist()
    with pytest.raises(BadSetting, match=r"train\+valid is an input of the splits collaborative and given"):
        splits.with_valid(streamed)


def test_a_small_log_is_refused_as_in_memory(tmp_path):
    partitionlog.write(FRAME.filter(pl.col("user_id").is_in(["u1", "u2"])), tmp_path / "small", 2)
    source = Partitions.open(tmp_path / "small")
    with pytest.raises(BadLog, match="by-user needs a user in each part"):
        make(source, "by-user", 0)
    short = Interactions.from_frame(FRAME.unique("user_id"))
    with pytest.raises(BadLog, match="leave-last needs three interactions"):
        make(InMemory(short.sequences()), "leave-last", 0)


def test_beginnings_are_those_of_the_users_who_have_one():
    whole = Sequences(np.arange(1, 10), np.array([0, 3, 4, 9]), np.arange(3), np.arange(9) * 10)
    found = Beginnings(InMemory(whole), np.array([2, 0, 4])).read(0, 3)
    assert [found.row(0).tolist(), found.row(1).tolist()] == [[1, 2], [5, 6, 7, 8]]
    assert found.users.tolist() == [0, 2]
    assert found.times.tolist() == [0, 10, 40, 50, 60, 70]
    only = Beginnings(InMemory(whole), np.array([2, 1, 4])).read(1, 3, np.array([True, False]))
    assert (only.users.tolist(), only.items.tolist()) == ([1], [4])


def test_some_users_are_taken_without_reading_all(opened, monkeypatch):
    monkeypatch.setattr(user_ranges, "TOGETHER", 20)
    reads, lengths = [], opened.lengths()

    class Source:
        def sequences(self, first, last):
            reads.append(last - first)
            return opened.sequences(first, last)

    users = np.array([90, 3, 4, 50])
    same(taken(Source(), users, lengths), opened.sequences(0, opened.n_users).take(users))
    assert sum(reads) <= 5
    same(taken(Source(), users[:0], lengths), joined([]))


def test_parts_are_joined_in_order():
    whole = Sequences(np.arange(1, 10), np.array([0, 3, 4, 9]), np.arange(3), np.arange(9) * 10)
    source = InMemory(whole)
    same(joined([source.sequences(0, 1), source.sequences(1, 1), source.sequences(1, 3)]), whole)
    assert joined([source.sequences(0, 1), Sequences(np.array([5]), np.array([0, 1]), np.array([7]))]).times is None
    with pytest.raises(ValueError, match=r"users lie in 0\.\.2; got 1\.\.3"):
        source.sequences(1, 4)


def test_some_cases_are_drawn_by_seed():
    assert holdouts.some(10, None, 0) is None
    assert holdouts.some(10, 10, 0) is None
    drawn = holdouts.some(1_000, 10, 0)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert drawn.tolist() == holdouts.some(1_000, 10, 0).tolist() != holdouts.some(1_000, 10, 1).tolist()


def test_some_cases_of_any_protocol(opened):
    split = next_item.make(opened.log(), "next-item", 0)
    some, every = split.holdout("valid", 6, 0), split.valid
    rows = holdouts.some(len(every), 6, 0)
    assert [some.history.row(n).tolist() for n in range(6)] == [every.history.row(n).tolist() for n in rows]
    assert some.target.items.tolist() == every.target.items[rows].tolist()
    masked = splits.collaborative(opened.log())
    some = masked.holdout("test", 6, 0)
    rows = holdouts.some(len(masked.test), 6, 0)
    assert some.exclude_seen
    same(some.masked(), masked.test.masked().take(rows))
