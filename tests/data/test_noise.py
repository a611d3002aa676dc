import numpy as np
import polars as pl
import pytest

from diffacet.data import noise, parts, splits
from diffacet.data.filters import distinct_pairs, k_core, min_rating
from diffacet.data.interactions import Interactions
from diffacet.errors import BadLog, BadSetting


def rated(seed=0, users=30, items=60, **settings):
    """A log of distinct pairs with ratings 1..5."""
    rng = np.random.default_rng(seed)
    rows = [
        (user, int(item), int(rng.integers(1000)), int(rng.integers(1, 6)))
        for user in range(users)
        for item in rng.permutation(items)[: rng.integers(8, 30)]
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
    return Interactions.from_frame(frame, **settings)


def split(log, threshold=3, core=4):
    log = k_core(distinct_pairs(min_rating(log, threshold)), core)
    return parts.renumbered(log.with_parts(parts.assign(log)))


def rows(log, place):
    """user id -> item ids of one part, oldest first."""
    frame = log.frame.filter(pl.col("part") == place)
    found = {}
    for user, item in frame.select("user", "item").iter_rows():
        found.setdefault(log.users.values[user], []).append(log.items.values[item - 1])
    return found


def written_out(log, share, seed, mode):
    """The lists of train and valid with noise, as the spec says it, with one generator: {(user, part): items}."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = {}
    for user in range(log.n_users):
        mine = log.frame.filter(pl.col("user") == user)
        taken = {0, *mine["item"].to_list()}
        for place in (0, 1):
            own = mine.filter(pl.col("part") == place)["item"].to_list()
            left = [item for item in range(log.n_items + 1) if item not in taken]
            m = min(int(np.floor(share * len(own) + 0.5)), len(left))
            if m:
                drawn = rng.choice(left, m, replace=False).tolist()
                taken |= {*drawn}
                if mode == "replace":
                    gone = {*rng.choice(len(own), m, replace=False).tolist()}
                    own = [item for number, item in enumerate(own) if number not in gone]
                places = rng.integers(0, np.arange(len(own) + 1, len(own) + m + 1))
                for item, at in zip(drawn, places, strict=True):
                    own.insert(at, item)
            found[user, place] = own
    return found


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("times", ["real", "rank"])
def test_random_noise_is_the_procedure_written_out(mode, times):
    clean = split(rated())
    if times == "rank":
        ranks = clean.frame.select(pl.int_range(pl.len()).over("user")).to_series()
        frame = clean.frame.with_columns(ranks.alias("time"))
        clean = Interactions(frame, clean.users, clean.items, times="rank")
    noisy = noise.random_noise(clean, 0.4, 7, mode)
    for (user, place), items in written_out(clean, 0.4, 7, mode).items():
        mine = noisy.frame.filter((pl.col("user") == user) & (pl.col("part") == place))
        assert mine["item"].to_list() == items
    assert noisy.frame["time"].to_list() == noisy.frame.sort("user", "time")["time"].to_list()
    if times == "rank":
        assert (
            noisy.frame["time"].to_list()
            == noisy.frame.select(pl.int_range(pl.len()).over("user")).to_series().to_list()
        )


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_random_noise_has_exact_counts_and_touches_no_test(mode):
    clean = split(rated())
    noisy = noise.random_noise(clean, 0.3, 1, mode)
    assert (noisy.n_users, noisy.n_items) == (clean.n_users, clean.n_items)
    assert rows(noisy, 2) == rows(clean, 2)
    everything = {user: {*items} for user, items in rows(clean, 2).items()}
    for place in (0, 1):
        for user, items in rows(clean, place).items():
            everything[user] |= {*items}
    for place in (0, 1):
        for user, items in rows(noisy, place).items():
            before = rows(clean, place)[user]
            m = int(0.3 * len(before) + 0.5)
            new = [item for item in items if item not in everything[user]]
            assert len(new) == m
            assert len(items) == len(before) + (m if mode == "add" else 0)
            assert {*items} - {*new} <= {*before}
    assert splits.given(noisy).dropped_users == 0  # and the parts are apart
    new = noisy.frame.join(clean.frame, on=["user", "item"], how="anti")
    assert new["rating"].null_count() == len(new) > 0
    assert noisy.frame["rating"].null_count() == len(new)


def test_random_noise_is_a_function_of_the_seed():
    clean = split(rated())
    first = noise.random_noise(clean, 0.2, 3)
    assert first.frame.equals(noise.random_noise(clean, 0.2, 3).frame)
    assert not first.frame.equals(noise.random_noise(clean, 0.2, 4).frame)
    assert noise.random_noise(clean, 0.0, 3) is clean


def test_random_noise_takes_what_is_left():
    frame = pl.DataFrame({"user_id": [1] * 6 + [2], "item_id": [*range(6), 9], "timestamp": range(7)})
    log = Interactions.from_frame(frame).with_parts(np.array([0, 0, 0, 0, 1, 2, 0]))
    noisy = noise.random_noise(log, 1.0, 0)
    assert {*rows(noisy, 0)[1]} == {0, 1, 2, 3, 9}
    assert rows(noisy, 1)[1] == [4]


@pytest.mark.parametrize(
    ("share", "mode", "message"),
    [(-0.1, "add", "between 0 and 1; got -0.1"), (0.1, "swap", "add or replace; got 'swap'")],
)
def test_random_noise_refuses(share, mode, message):
    with pytest.raises(BadSetting, match=message):
        noise.random_noise(split(rated()), share, 0, mode)


def test_random_noise_needs_parts():
    with pytest.raises(BadLog, match="has none; split it first"):
        noise.random_noise(rated(), 0.1, 0)


def test_natural_noise_follows_its_rules():
    raw = rated(users=40)
    clean = split(raw)
    noisy = noise.natural_noise(raw, clean, 3, 5)
    stars = {(u, i): (t, r) for u, i, t, r in raw.frame.select("user", "item", "time", "rating").iter_rows()}

    def told(user, item):
        return stars[int(raw.users.numbers([user])[0]), int(raw.items.numbers([item])[0])]

    assert rows(noisy, 2) == rows(clean, 2)
    low = 0
    for place in (0, 1):
        for user, items in rows(clean, place).items():
            assert len(rows(noisy, place)[user]) == len(items)
        for user, items in rows(noisy, place).items():
            last = max(told(user, item)[0] for item in rows(clean, 0)[user])
            first = min(told(user, item)[0] for item in rows(clean, 2)[user])
            for item in items:
                time, rating = told(user, item)
                if rating >= 3:
                    assert item in rows(clean, place)[user]
                else:
                    low += 1
                    assert time <= last if place == 0 else last < time < first
    assert low > 20
    splits.given(noisy)
    trained = [item for items in rows(noisy, 0).values() for item in items]
    assert noisy.items.values.to_list()[: len({*trained})] == list(dict.fromkeys(trained))
    assert noisy.frame.equals(noise.natural_noise(raw, clean, 3, 5).frame)
    assert not noisy.frame.equals(noise.natural_noise(raw, clean, 3, 6).frame)


def test_natural_noise_needs_low_ratings():
    raw = rated()
    high = min_rating(raw, 3)
    with pytest.raises(BadLog, match="from ratings below 3, and the log has none"):
        noise.natural_noise(high, split(raw), 3, 0)
    plain = Interactions(raw.frame.drop("rating"), raw.users, raw.items)
    with pytest.raises(BadLog, match="the log has no ratings; use random noise"):
        noise.natural_noise(plain, split(raw), 3, 0)
