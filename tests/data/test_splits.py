import math
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.data import cuts, splits
from diffacet.data.holdouts import Holdout, bounds
from diffacet.data.interactions import Interactions
from diffacet.data.sequences import Sequences
from diffacet.errors import BadLog, BadSetting


def random_log(seed, users=60, longest=12, clock=1000):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, longest, users)
    user = np.repeat(np.arange(users), counts)
    frame = pl.DataFrame(
        {
            "user_id": user,
            "item_id": generator.integers(0, 40, len(user)),
            "timestamp": generator.integers(0, clock, len(user)),
        }
    )
    return Interactions.from_frame(frame)


def log_of_lengths(lengths):
    rows = [(user, place % 7, place) for user, length in enumerate(lengths) for place in range(length)]
    return Interactions.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


def rows_of(sequences):
    return {int(user): sequences.row(i).tolist() for i, user in enumerate(sequences.users)}


def whole(log):
    return rows_of(log.sequences())


def holdouts(split):
    return [split.valid, split.test]


@pytest.mark.parametrize(("users", "parts"), [(10, (8, 1, 1)), (19, (15, 2, 2)), (2236, (1788, 224, 224))])
def test_by_user_sizes_are_rounded_down(users, parts):
    split = splits.by_user(log_of_lengths([5] * users))
    assert (len(split.train), len(split.valid), len(split.test)) == parts


def test_by_user_has_the_published_sizes_of_beauty():
    split = splits.by_user(log_of_lengths([2] * 22_363))
    assert (len(split.train), len(split.valid), len(split.test)) == (17_890, 2_236, 2_237)


@pytest.mark.parametrize("seed", [1230, 7])
def test_by_user_shuffles_users_of_first_appearance_with_pythons_generator(seed):
    log = random_log(0)
    lengths = log.sequences().lengths()
    expected = [user for user in range(log.n_users) if lengths[user] >= 2]
    random.Random(seed).shuffle(expected)
    split = splits.by_user(log, seed=seed)
    parts = [split.train.users, split.valid.history.users, split.test.history.users]
    assert np.concatenate(parts).tolist() == expected
    assert split.dropped_users == log.n_users - len(expected) > 0
    assert (split.protocol, split.seed) == ("by-user", seed)


def test_by_user_keeps_training_users_whole_and_cuts_the_others():
    log = random_log(1)
    split, rows = splits.by_user(log), whole(log)
    assert all(rows[user] == items for user, items in rows_of(split.train).items())
    for holdout in holdouts(split):
        history, target = rows_of(holdout.history), rows_of(holdout.target)
        assert holdout.history.users.tolist() == holdout.target.users.tolist()
        assert len(holdout) == len(history)
        for user in history:
            assert history[user] + target[user] == rows[user]
            assert not set(split.train.users) & {user}


def test_the_cut_is_four_fifths_rounded_down_for_all_lengths():
    lengths = list(range(5, 1001))
    split = splits.by_user(log_of_lengths(lengths), ratio=(1, 1, 1))
    for holdout in holdouts(split):
        for user, c in zip(holdout.history.users, holdout.history.lengths(), strict=True):
            assert c == int(lengths[user] * 0.8) == 4 * lengths[user] // 5
        assert holdout.target.lengths().min() >= 1
        assert (holdout.history.times < np.repeat(holdout.history.lengths(), holdout.history.lengths())).all()


@pytest.mark.parametrize("share", [1e-12, 0.01, 0.2, 0.5, 0.9, 0.99])
def test_history_and_target_are_never_empty(share):
    split = splits.by_user(log_of_lengths([2, 3, 4, 5, 10] * 6), target_share=share)
    for holdout in holdouts(split):
        assert holdout.history.lengths().min() >= 1
        assert holdout.target.lengths().min() >= 1
    even = splits.by_user(log_of_lengths([20] * 10), target_share=share)
    assert even.test.target.lengths().tolist() == [min(19, max(1, round(20 * share)))]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_by_user_ignores_how_different_users_interleave(seed, shuffle):
    generator = np.random.default_rng(seed)
    rows = [(user, int(generator.integers(9)), 0) for user in range(12) for _ in range(3)]  # all times tie
    queues = [[row for row in rows if row[0] == user] for user in range(12)]
    mixed = [queue.pop(0) for queue in queues]
    while any(queues):
        mixed.append(shuffle.choice([queue for queue in queues if queue]).pop(0))
    held = []
    for order in (rows, mixed):
        log = Interactions.from_frame(pl.DataFrame(order, schema=["user_id", "item_id", "timestamp"], orient="row"))
        test = splits.by_user(log).test
        parts = (test.history, test.target)
        held.append([(part.users.tolist(), log.items.ids(part.items).to_list()) for part in parts])
    assert held[0] == held[1]


def test_ties_in_time_are_cut_in_the_order_of_the_input():
    rows = [(user, 100 * user + place, 0) for place in range(5) for user in range(10)]
    log = Interactions.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    split = splits.by_user(log)
    (user,) = split.test.history.users
    assert log.items.ids(split.test.history.items).to_list() == [100 * user + place for place in range(4)]
    assert log.items.ids(split.test.target.items).to_list() == [100 * user + 4]


def test_repeats_stay_among_the_targets():
    rows = [(user, place < 5, place) for user in range(10) for place in range(10)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row", strict=False)
    split = splits.by_user(Interactions.from_frame(frame.cast(pl.Int64)))
    items = split.test.target.row(0)
    assert len(items) == 2
    assert items[0] == items[1]


def test_one_user_in_each_part_is_enough_and_none_is_not():
    split = splits.by_user(log_of_lengths([5, 5, 5]), ratio=(1, 1, 1))
    assert (len(split.train), len(split.valid), len(split.test)) == (1, 1, 1)
    with pytest.raises(BadLog, match="give 0, 1 and 2"):
        splits.by_user(log_of_lengths([5, 5, 5]), ratio=(1, 4, 4))


@given(st.integers(1, 10**12), st.tuples(*[st.integers(1, 10**6)] * 3))
def test_both_bounds_are_places_of_what_is_cut(n, ratio):
    """So a cut in time is the time of an interaction, whatever the ratio."""
    first, second = bounds(n, ratio)
    assert 0 <= first <= second < n


def test_what_is_not_said_is_the_published_protocol():
    lengths = np.arange(2, 40)
    said = cuts.by_user(lengths, ratio=(8, 1, 1), target_share=0.2, seed=1230)
    for cut in (cuts.by_user(lengths), splits.by_user(log_of_lengths(lengths))):
        train = cut.train if isinstance(cut, cuts.Cut) else cut.train.users
        assert train.tolist() == said.train.tolist()
        assert cut.seed == 1230
    assert cuts.by_user(lengths).test.shown.tolist() == said.test.shown.tolist()
    log = random_log(3)
    assert rows_of(splits.by_time(log).train) == rows_of(splits.by_time(log, ratio=(8, 1, 1)).train)


def test_too_few_users_are_refused_with_the_counts():
    with pytest.raises(BadLog, match=r"4 users with two or more interactions, cut 8:1:1, give 3, 0 and 1"):
        splits.by_user(log_of_lengths([5, 5, 5, 5, 1]))


def test_leave_last_is_literal():
    log = random_log(2)
    split, rows = splits.leave_last(log), whole(log)
    kept = {user: items for user, items in rows.items() if len(items) >= 3}
    assert rows_of(split.train) == {user: items[:-2] for user, items in kept.items()}
    assert rows_of(split.valid.history) == rows_of(split.train)
    assert rows_of(split.valid.target) == {user: items[-2:-1] for user, items in kept.items()}
    assert rows_of(split.test.history) == {user: items[:-1] for user, items in kept.items()}
    assert rows_of(split.test.target) == {user: items[-1:] for user, items in kept.items()}
    assert split.dropped_users == len(rows) - len(kept) > 0
    assert split.seed is None
    for holdout in holdouts(split):
        ends = np.maximum.reduceat(holdout.history.times, holdout.history.offsets[:-1])
        assert (ends <= holdout.target.times).all()


def test_leave_last_needs_a_user_of_three():
    with pytest.raises(BadLog, match="three interactions"):
        splits.leave_last(log_of_lengths([2, 1, 2]))


@pytest.mark.parametrize(("seed", "clock"), [(3, 1000), (4, 30), (5, 10**9)])
def test_by_time_is_literal_and_leaks_nothing(seed, clock):
    log = random_log(seed, clock=clock)
    split = splits.by_time(log)
    times = sorted(log.frame["time"].to_list())
    first, second = times[len(times) * 8 // 10], times[len(times) * 9 // 10]
    spans = {u: [(i, t) for v, i, t in log.frame.rows() if v == u] for u in range(log.n_users)}

    def between(low, high):
        return {u: [i for i, t in pairs if low <= t < high] for u, pairs in spans.items()}

    def filled(*parts):
        users = [u for u in spans if all(part[u] for part in parts)]
        return [{u: part[u] for u in users} for part in parts]

    end = max(times) + 1
    assert [rows_of(split.train)] == filled(between(-1, first))
    valid = filled(between(-1, first), between(first, second))
    test = filled(between(-1, second), between(second, end))
    assert [rows_of(split.valid.history), rows_of(split.valid.target)] == valid
    assert [rows_of(split.test.history), rows_of(split.test.target)] == test
    assert split.dropped_users == sum(
        u not in valid[0] and u not in test[0] and not between(-1, first)[u] for u in spans
    )

    assert split.train.times.max() < first <= split.valid.target.times.min()
    assert split.valid.history.times.max() < split.valid.target.times.min()
    assert split.valid.target.times.max() < second <= split.test.target.times.min()
    assert split.test.history.times.max() < split.test.target.times.min()


def test_by_time_of_ten_interactions_asks_for_the_last():
    users = [1, 2, 1, 2, 1, 2, 1, 2, 2, 1]
    log = Interactions.from_frame(pl.DataFrame({"user_id": users, "item_id": range(10), "timestamp": range(10)}))
    split = splits.by_time(log)
    assert split.valid.target.times.tolist() == [8]
    assert split.test.target.times.tolist() == [9]
    assert sorted(split.train.times.tolist()) == list(range(8))


def test_by_time_refuses_ranks():
    with pytest.raises(BadLog, match="only count each user's interactions"):
        splits.by_time(log_of_lengths([5] * 20))


def test_by_time_refuses_a_log_of_one_moment():
    frame = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [1, 2, 1, 2], "timestamp": [9, 9, 9, 9]})
    with pytest.raises(BadLog, match=r"4 interactions of 9\.\.9 at 9 and 9, which leaves 0 users to train"):
        splits.by_time(Interactions.from_frame(frame))


def test_splits_are_made_by_name():
    log = random_log(6)
    log = log.with_parts(np.arange(len(log)) % 3)
    for name in ("by-user", "leave-last", "by-time", "collaborative", *splits.next_item.NAMES[:3]):
        split = splits.make_split(log, name, 5)
        assert split.protocol == name
        assert split.seed == (5 if name in ("by-user", "next-item", "next-item-last") else None)
        assert split.leaks.endswith(".")
        assert split.exclude_seen == split.valid.exclude_seen == (name in splits.MASKING)
    with pytest.raises(BadSetting, match=r"unknown split 'by-users' \(did you mean 'by-user'\?\)"):
        splits.make_split(log, "by-users", 5)


@pytest.mark.parametrize("ratio", [(8, 0, 2), (8, 1), (8, 1, -1)])
def test_a_ratio_that_is_not_one_is_refused(ratio):
    for protocol in (splits.by_user, splits.by_time):
        with pytest.raises(BadSetting, match="three positive numbers"):
            protocol(random_log(0), ratio=ratio)


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_a_share_that_is_not_one_is_refused(share):
    with pytest.raises(BadSetting, match="between 0 and 1"):
        splits.by_user(random_log(0), target_share=share)


def reference(log, parts=(0.7, 0.2, 0.1)):
    """The collaborative protocol as a loop: user -> (train, valid, test), repeats dropped."""
    found = {}
    for user, items in whole(log).items():
        items = list(dict.fromkeys(items))
        train, valid = int(parts[0] * len(items)) + 1, math.ceil(parts[1] * len(items)) - 1
        if len(items) < 3:
            train, valid = len(items), 0
        elif not valid:
            train, valid = train - 1, 1
        if len(items) >= 3 and train + valid == len(items):
            train -= 1
        found[user] = (items[:train], items[train : train + valid], items[train + valid :])
    return found


def test_collaborative_is_literal():
    log = random_log(8, longest=30)
    split, expected = splits.collaborative(log), reference(log)
    assert rows_of(split.train) == {user: train for user, (train, _, _) in expected.items()}
    cases = {user: parts for user, parts in expected.items() if parts[1]}
    assert 0 < len(cases) < log.n_users
    for holdout, target in ((split.valid, 1), (split.test, 2)):
        assert rows_of(holdout.history) == {user: parts[0] for user, parts in cases.items()}
        assert rows_of(holdout.target) == {user: parts[target] for user, parts in cases.items()}
        assert holdout.exclude_seen
        assert holdout.everyone == log.n_users
    assert split.valid.seen is None
    assert split.valid.masked() is split.valid.history
    assert rows_of(split.test.seen) == {user: parts[0] + parts[1] for user, parts in cases.items()}
    assert (split.protocol, split.seed, split.dropped_users) == ("collaborative", None, 0)
    assert split.exclude_seen


def test_the_parts_of_a_collaborative_split_are_apart():
    split = splits.collaborative(random_log(9, longest=30))
    for holdout in holdouts(split):
        holdout.check_apart()
    pairs = [
        (user, item)
        for part in (split.train, split.valid.target, split.test.target)
        for user, items in rows_of(part).items()
        for item in items
    ]
    assert len(pairs) == len(set(pairs))
    for (user, shown), target in zip(
        rows_of(split.test.seen).items(), rows_of(split.test.target).values(), strict=True
    ):
        assert not {*shown} & {*target}, user


def test_given_takes_the_logs_own_parts():
    log = random_log(10, users=30, longest=20)
    rows = log.frame.select(pl.struct("user", "item").is_first_distinct()).to_series().to_numpy()
    log = log.restrict(rows)
    part = np.random.default_rng(0).integers(0, 3, len(log))
    split = splits.given(log.with_parts(part))
    mine = [{u: [] for u in range(log.n_users)} for _ in range(3)]
    for user, item, place in zip(log.column("user"), log.column("item"), part, strict=True):
        mine[place][int(user)].append(int(item))
    learned = {user: items for user, items in mine[0].items() if items}
    assert rows_of(split.train) == learned
    assert split.dropped_users == log.n_users - len(learned) > 0
    for holdout, place in ((split.valid, 1), (split.test, 2)):
        assert rows_of(holdout.target) == {u: items for u, items in mine[place].items() if items and u in learned}
        assert rows_of(holdout.history) == {u: learned[u] for u in rows_of(holdout.target)}
        assert holdout.everyone == len(learned)
    both = {u: [i for i, p in zip(whole(log)[u], part[log.column("user") == u], strict=True) if p < 2] for u in learned}
    assert rows_of(split.test.seen) == {u: both[u] for u in rows_of(split.test.target)}
    assert split.protocol == "given"


def test_the_validation_part_may_be_shown_at_test():
    split = splits.collaborative(random_log(11, longest=30))
    more = splits.with_valid(split)
    assert rows_of(more.test.history) == rows_of(split.test.seen)
    assert rows_of(more.test.masked()) == rows_of(split.test.masked())
    assert more.test.target is split.test.target
    assert more.valid is split.valid
    assert more.test.exclude_seen
    with pytest.raises(BadSetting, match=r"train\+valid is an input of the splits .*; this one is by-user"):
        splits.with_valid(splits.by_user(random_log(11)))


def test_given_needs_parts_that_are_apart():
    log = log_of_lengths([6, 6, 6])
    with pytest.raises(BadLog, match=r"'diffacet import-split' makes such data.*'diffacet split'"):
        splits.given(log)
    frame = pl.DataFrame({"user_id": [1, 1, 1, 1], "item_id": [5, 6, 5, 7], "timestamp": [0, 1, 2, 3]})
    twice = Interactions.from_frame(frame).with_parts(np.array([0, 1, 2, 2]))
    with pytest.raises(BadLog, match="1 targets are among the items that must not be recommended, first item number 1"):
        splits.given(twice)


@pytest.mark.parametrize("seed", range(40))
def test_targets_that_could_never_be_hits_are_found_as_sets_find_them(seed):
    draw = np.random.default_rng(seed)
    users, most = 4, 12

    def rows(per_user):
        return Sequences.from_rows(
            np.repeat(np.arange(users), per_user), draw.integers(1, most, users * per_user), None, users
        )

    holdout = Holdout(rows(3), rows(2), rows(4) if seed % 2 else None)
    masked = holdout.seen if seed % 2 else holdout.history
    bad = [(int(item), user) for user in range(users) for item in holdout.target.row(user) if item in masked.row(user)]
    if not bad:
        holdout.check_apart()
        return
    item, user = bad[0]
    told = f"^{len(bad)} targets are among .* first item number {item} of user number {user};"
    with pytest.raises(BadLog, match=told):
        holdout.check_apart()


@pytest.mark.parametrize(("shown", "asked"), [([1, 1], [4, 2]), ([4, 2], [1, 1])])
def test_items_beyond_the_others_numbers_are_not_taken_for_another_users(shown, asked):
    rows = np.arange(2)
    Holdout(*(Sequences.from_rows(rows, np.array(items), None, 2) for items in (shown, asked))).check_apart()


def test_cases_of_validation_are_drawn_with_seed_0_unless_said():
    split = splits.by_user(random_log(12, users=300))
    few, same = split.holdout("valid", 7), split.holdout("valid", 7, 0)
    assert few.history.users.tolist() == same.history.users.tolist()
    assert few.history.users.tolist() != split.holdout("valid", 7, 1).history.users.tolist()
    assert split.holdout("valid") is split.valid
    assert split.holdout("test", len(split.test)) is split.test


def test_a_log_without_cases_is_refused():
    with pytest.raises(BadLog, match="collaborative: no user has interactions to train on and others in 'valid'"):
        splits.collaborative(log_of_lengths([2, 1, 2]))
    log = log_of_lengths([3, 3])
    with pytest.raises(BadLog, match="given: no user has interactions to train on and others in 'test'"):
        splits.given(log.with_parts(np.array([0, 1, 1, 0, 0, 1])))
