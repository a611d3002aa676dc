"""The protocols of the next item: who is held out, which positions are asked for, and what is shown at each."""

import random

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffacet.data import next_item, splits
from diffacet.data.holdouts import Holdout
from diffacet.data.interactions import Interactions
from diffacet.data.sequences import Prefixes, Sequences
from diffacet.errors import BadLog, BadSetting
from diffacet.rank.evaluate import histories, per_user

LENGTHS = [5, 1, 3, 2, 7, 4, 1, 6, 2, 3, 9, 1, 4, 5, 2, 8, 3, 1, 6, 2, 12, 3]


def log_of(lengths, parts=None, clock=None):
    """Users 0.. with random items and rising times; `clock` gives each user's first time."""
    generator = np.random.default_rng(len(lengths))
    begin = generator.permutation(len(lengths)) * 100 if clock is None else clock
    user = np.repeat(np.arange(len(lengths)), lengths)
    place = np.concatenate([np.arange(length) for length in lengths])
    frame = {
        "user_id": user,
        "item_id": generator.integers(0, 9, len(user)),
        "timestamp": np.array(begin)[user] + place,
    }
    log = Interactions.from_frame(pl.DataFrame(frame), times="real")
    return log if parts is None else log.with_parts(np.array(parts)[user])


def parted(lengths):
    return log_of(lengths, parts=np.arange(len(lengths)) % 3)


def expected(log, users, first=1, last=False):
    """The cases as a loop: (user, history, target)."""
    found = []
    for user in users:
        items = log.sequences().row(int(user)).tolist()
        every = range(first, len(items))
        found += [(int(user), items[:p], items[p]) for p in (every[-1:] if last else every)]
    return found


def cases(holdout):
    assert holdout.history.users.tolist() == holdout.target.users.tolist()
    return [
        (int(user), holdout.history.row(c).tolist(), *holdout.target.row(c).tolist())
        for c, user in enumerate(holdout.history.users)
    ]


def units(holdout):
    return holdout.history.base.users


@pytest.mark.parametrize("name", ["next-item", "next-item-last"])
def test_users_are_shuffled_by_pythons_generator_and_cut_in_tenths(name):
    for seed in (1230, 3):
        log = log_of(LENGTHS)
        order = list(range(len(LENGTHS)))
        random.Random(seed).shuffle(order)
        split = splits.make_split(log, name, seed)
        first, second = 8 * len(order) // 10, 9 * len(order) // 10
        assert split.train.users.tolist() == order[:first]
        assert [split.train.row(n).tolist() for n in range(first)] == [
            log.sequences().row(user).tolist() for user in order[:first]
        ]
        for holdout, users in ((split.valid, order[first:second]), (split.test, order[second:])):
            assert units(holdout).tolist() == users
            assert cases(holdout) == expected(log, users, last=name == "next-item-last")
            assert not holdout.exclude_seen
            assert holdout.everyone is None
        assert (split.protocol, split.seed, split.dropped_users) == (name, seed, 0)


@pytest.mark.parametrize(("users", "sizes"), [(10, (8, 1, 1)), (19, (15, 2, 2)), (11_714, (9371, 1171, 1172))])
def test_parts_are_disjoint_cover_all_and_are_rounded_down(users, sizes):
    split = next_item.next_item(log_of([2] * users))
    found = [split.train.users, units(split.valid), units(split.test)]
    assert tuple(map(len, found)) == sizes
    assert sorted(np.concatenate(found).tolist()) == list(range(users))


def test_numbers_of_cases():
    """All: the sum of len - 1; with empty histories: of len; last: users of two or more."""
    log = parted(LENGTHS)
    for name in splits.next_item.NAMES:
        split = splits.make_split(log, name, 5)
        for holdout in (split.valid, split.test):
            lengths = np.array(LENGTHS)[units(holdout)]
            if name == "next-item-last":
                assert len(holdout) == (lengths >= 2).sum()
                continue
            assert len(holdout) == (lengths - 1).sum()
            assert len(next_item.with_empty(holdout)) == lengths.sum()


@given(st.lists(st.integers(1, 9), min_size=10, max_size=30), st.integers(1, 6))
def test_histories_are_the_latest_items_before_the_target_in_time_order(lengths, width):
    split = next_item.given(parted([*lengths, 2, 2, 2]))  # each part has a user of two
    for holdout in (split.valid, split.test, next_item.with_empty(split.test)):
        rows = np.arange(len(holdout))
        shown, times = holdout.history.last(rows, width), holdout.history.last_times(rows, width)
        assert shown.shape == times.shape == (len(rows), width)
        for row, (_, history, _), seen, clock, target in zip(
            rows, cases(holdout), shown.tolist(), times.tolist(), holdout.target.times, strict=True
        ):
            kept = history[-width:]
            assert seen == kept + [0] * (width - len(kept))
            assert clock[: len(kept)] == sorted(clock[: len(kept)])
            assert all(time < target for time in clock[: len(kept)])
            assert holdout.history.lengths()[row] == len(history)


def test_prefixes_read_like_their_copies():
    log = log_of(LENGTHS)
    prefixes, items = log.sequences().steps(0)
    copied = prefixes.copied()
    assert len(prefixes) == len(copied) == len(items) == sum(LENGTHS)
    assert prefixes.users.tolist() == copied.users.tolist()
    assert prefixes.lengths().tolist() == copied.lengths().tolist()
    assert [prefixes.row(n).tolist() for n in range(len(copied))] == [
        copied.row(n).tolist() for n in range(len(copied))
    ]
    rows = np.array([3, 0, 3, 40, 11])
    for length in (0, 1, 4, 20):
        assert np.array_equal(prefixes.last(rows, length), copied.last(rows, length))
        assert np.array_equal(prefixes.last_times(rows, length), copied.last_times(rows, length))
    assert prefixes.base.items is log.sequences().items or np.shares_memory(prefixes.base.items, log.column("item"))
    bare = Sequences(prefixes.base.items, prefixes.base.offsets, prefixes.base.users)
    assert Prefixes(bare, prefixes.rows, prefixes.ends).last_times(rows, 3) is None
    with pytest.raises(IndexError, match=r"beginning 90 of 90"):
        prefixes.row(len(prefixes))
    with pytest.raises(ValueError, match="outside its sequence"):
        Prefixes(prefixes.base, np.array([1]), np.array([2]))


def test_many_prefixes_take_no_room():
    """A user of 20,000 items has 200 million items in its histories, of which none is copied."""
    sequences = Sequences(np.arange(1, 20_001), np.array([0, 20_000]), np.array([0]))
    history, target = sequences.steps()
    assert history.base is sequences
    assert history.lengths().sum() == 19_999 * 20_000 // 2
    assert np.array_equal(history.last(np.array([19_998]), 3), [[19_997, 19_998, 19_999]])
    assert target.row(19_998).tolist() == [20_000]


def test_with_empty_adds_each_users_first_item():
    split = next_item.next_item(log_of(LENGTHS), seed=2)
    more = next_item.with_empty(split.test)
    log = log_of(LENGTHS)
    assert cases(more) == expected(log, units(split.test), first=0)
    assert (more.history.lengths() == 0).sum() == len(units(split.test))
    with pytest.raises(BadSetting, match="belong to the splits next-item, next-item-chronological, next-item-given"):
        next_item.with_empty(splits.leave_last(log).test)


def test_chronological_cuts_users_by_their_first_event():
    clock = [50, 10, 10, 90, 30, 10, 70, 80, 20, 60, 40, 5]
    log = log_of([3] * 12, clock=clock)
    split = splits.make_split(log, "next-item-chronological", 9)
    order = sorted(range(12), key=lambda user: clock[user])  # ties stay in the order of the log
    assert split.train.users.tolist() == order[:9]
    assert units(split.valid).tolist() == order[9:10]
    assert units(split.test).tolist() == order[10:]
    assert cases(split.test) == expected(log, order[10:])
    assert split.seed is None


def test_chronological_refuses_ranks():
    frame = pl.DataFrame({"user_id": np.repeat(np.arange(12), 2), "item_id": 1, "timestamp": [0, 1] * 12})
    with pytest.raises(BadLog, match=r"only count each user's interactions .* use next-item, or import a log with"):
        next_item.chronological(Interactions.from_frame(frame))


def test_given_takes_the_parts_of_the_log():
    log = parted(LENGTHS)
    split = splits.make_split(log, "next-item-given", 0)
    assert split.train.users.tolist() == list(range(0, len(LENGTHS), 3))
    assert cases(split.valid) == expected(log, range(1, len(LENGTHS), 3))
    assert cases(split.test) == expected(log, range(2, len(LENGTHS), 3))
    assert log.parts_divide_users


def test_given_needs_parts_that_divide_users():
    log = log_of([3, 3, 3])
    assert not log.parts_divide_users
    with pytest.raises(BadLog, match="'diffacet import --format dreamrec' makes such data"):
        next_item.given(log)
    within = log.with_parts(np.array([0, 0, 0, 1, 1, 2, 2, 2, 2]))
    assert not within.parts_divide_users
    with pytest.raises(BadLog, match=r"user 1 has interactions in valid and test; use --split given"):
        next_item.given(within)
    with pytest.raises(BadLog, match=r"no user is in 'train'; use --split next-item, which cuts 3 users"):
        next_item.given(log_of([3, 3, 3], parts=[1, 1, 2]))


def test_parts_without_a_case_are_refused():
    with pytest.raises(BadLog, match=r"next-item: none of the 1 users in 'valid' has two interactions"):
        next_item.next_item(log_of([1] * 10))
    with pytest.raises(BadLog, match=r"next-item needs a user in each part, but 4 users, cut 8:1:1, give 3, 0 and 1"):
        next_item.next_item(log_of([3] * 4))
    with pytest.raises(BadLog, match=r"none of the 2 users in 'test' has two interactions"):
        next_item.given(log_of([3, 3, 1, 1], parts=[0, 1, 2, 2]))
    for protocol in (next_item.next_item, next_item.chronological):
        with pytest.raises(BadSetting, match="three positive numbers"):
            protocol(log_of([3] * 20), ratio=(8, 0, 2))


def test_check_apart_looks_into_prefixes():
    sequences = Sequences(np.array([1, 2, 1, 3]), np.array([0, 4]), np.array([7]))
    history, target = sequences.steps()
    with pytest.raises(BadLog, match=r"1 targets are among .* first item number 1 of user number 7"):
        Holdout(history, target).check_apart()


class Recent(torch.nn.Module):
    """Scores each item by the place of its latest occurrence in what is shown."""

    def scores(self, history):
        found = torch.zeros(len(history.items), 10)
        places = torch.arange(1.0, history.items.shape[1] + 1).expand(history.items.shape)
        return found.scatter_reduce(1, history.items, places * history.mask, "amax")


@pytest.mark.parametrize("seen", [False, True])
def test_evaluation_of_cases_is_that_of_their_copies(seen):
    holdout = next_item.with_empty(next_item.next_item(log_of(LENGTHS * 10), seed=4).test)
    copied = Holdout(holdout.history.copied(), holdout.target)
    one, other = (
        per_user(Recent(), cut, length=4, ks=(1, 3), exclude_seen=seen, batch_size=7).values
        for cut in (holdout, copied)
    )
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name], equal_nan=True), name
    shown = histories(holdout, np.arange(5), 4)
    assert shown.users.tolist() == holdout.history.users[:5].tolist()
    assert shown.case.tolist() == list(range(5))
    # Where three different items are shown, the list of three is the latest of them, whatever the ties of the others.
    latest = [list(dict.fromkeys(history[-4:][::-1]))[:3] for _, history, _ in cases(holdout)]
    wide = [c for c, items in enumerate(latest) if len(items) == 3]
    assert len(wide) > 20
    hits = [float(cases(holdout)[c][2] in latest[c]) for c in wide]
    if seen:
        assert not one["hit_rate@3"][wide][np.array(hits) > 0].any()
    else:
        assert one["hit_rate@3"][wide].tolist() == hits
        assert 0 < sum(hits) < len(hits)
