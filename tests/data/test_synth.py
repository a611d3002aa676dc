"""What a generated log is made of: exact sizes, the laws that it follows, and no dependence on how it is cut."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet.data.synth.catalogue import Catalogue, ordered, zipf_mandelbrot
from diffacet.data.synth.clicks import NOISE, draw_block
from diffacet.data.synth.naming import Names
from diffacet.data.synth.people import Activity, make_people
from diffacet.data.synth.settings import SLOTS, Settings
from diffacet.errors import BadSetting

PLAIN = {"noise": 0.0, "drift": 0.0, "evergreen": 1.0, "repeats": 1.0}
"""Settings under which the laws hold as they are written, without what bends them."""


class Log:
    """All blocks of a log, their users numbered through."""

    def __init__(self, settings):
        self.settings, self.catalogue, self.activity = settings, Catalogue(settings), Activity(settings)
        self.blocks = [draw_block(settings, self.catalogue, self.activity, b) for b in range(settings.blocks)]
        for name in ("item", "time", "slot", "rating"):
            parts = [getattr(block, name) for block in self.blocks]
            setattr(self, name, None if parts[0] is None else np.concatenate(parts))
        self.user = np.concatenate([block.first + block.user for block in self.blocks])
        self.topic = np.concatenate([np.append(b.people.topic, -1)[b.user * SLOTS + b.slot] for b in self.blocks])
        self.topic[self.slot == NOISE] = -1


@pytest.fixture(scope="module")
def plain():
    return Log(Settings(4000, 2000, 200_000, seed=1, **PLAIN))


@pytest.fixture(scope="module")
def usual():
    return Log(Settings(3000, 1000, 120_000, seed=2, noise=0.25, ratings=True))


@given(
    users=st.integers(1, 400),
    items=st.integers(6, 300),
    more=st.integers(0, 3000),
    fewest=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_sizes_are_exact(users, items, more, fewest, seed):
    settings = Settings(users, items, users * fewest + more, min_history=fewest, seed=seed)
    activity = Activity(settings)
    counts = [activity.counts(block) for block in range(settings.blocks)]
    assert [len(c) for c in counts[:-1]] == [settings.block_users] * (settings.blocks - 1)
    assert sum(map(len, counts)) == users
    assert sum(int(c.sum()) for c in counts) == settings.interactions
    assert [int(c.sum()) for c in counts] == activity.rows.tolist()
    assert min(c.min() for c in counts) >= fewest
    block = draw_block(settings, Catalogue(settings), activity, settings.blocks - 1)
    np.testing.assert_array_equal(np.bincount(block.user, minlength=len(counts[-1])), counts[-1])
    assert block.item.min() >= 0
    assert block.item.max() < items


def test_popularity_follows_the_law_that_was_asked_for():
    """The slope of log count over log (rank + q), fitted where counts are not small, is the exponent."""
    for exponent in (0.6, 1.0, 1.4):
        log = Log(Settings(4000, 2000, 200_000, zipf=exponent, seed=3, **PLAIN))
        counts = np.bincount(log.item, minlength=2000)
        rank = np.arange(1, 2001)
        fitted = rank <= 600
        slope = np.polyfit(np.log(rank[fitted] + log.settings.q), np.log(np.maximum(counts[fitted], 0.5)), 1)[0]
        assert slope == pytest.approx(-exponent, abs=0.12)


def gini(counts):
    ordered_ = np.sort(counts)
    n = len(ordered_)
    return 2 * (np.arange(1, n + 1) * ordered_).sum() / (n * ordered_.sum()) - (n + 1) / n


def test_concentration_is_that_of_the_law(plain):
    expected = gini(zipf_mandelbrot(2000, 1.0, plain.settings.q))
    assert gini(np.bincount(plain.item, minlength=2000)) == pytest.approx(expected, abs=0.03)


def test_the_law_is_written_out():
    shares = zipf_mandelbrot(5, 2.0, 1.0)
    terms = [1 / 4, 1 / 9, 1 / 16, 1 / 25, 1 / 36]
    np.testing.assert_allclose(shares, np.array(terms) / sum(terms))
    np.testing.assert_allclose(zipf_mandelbrot(4, 0.0, 7.0), 0.25)


def test_activity_has_a_heavy_tail_about_the_mean(plain):
    counts = np.bincount(plain.user, minlength=4000)
    assert counts.mean() == 50
    assert np.log(counts).std() == pytest.approx(plain.settings.activity, abs=0.08)
    assert counts.max() > 8 * counts.mean()


def test_a_click_on_a_place_finds_the_arc_that_holds_it(plain):
    """Against a walk around each ring: half-open arcs, one after another, in the table's order."""
    catalogue = plain.catalogue
    draw = np.random.default_rng(0)
    cell, place = draw.integers(0, plain.settings.T, 300), draw.random(300) * 4 - 2
    found = catalogue.find(cell, place)
    second = np.bincount(catalogue.entry_item, minlength=2000)
    for c, y, item in zip(cell, place, found, strict=True):
        mine = np.flatnonzero(catalogue.entry_topic == c)
        length = np.array([catalogue.popularity[catalogue.entry_item[e]] for e in mine])
        length = length / second[catalogue.entry_item[mine]]
        ends = np.cumsum(length) / length.sum()
        at = min(int((ends <= y % 1).sum()), len(mine) - 1)
        near = {catalogue.entry_item[mine[(at + step) % len(mine)]] for step in (-1, 0, 1)}
        assert item in near  # an end may move by 2^-32
        assert item == catalogue.entry_item[mine[at]] or np.abs(ends - y % 1).min() < 1e-8


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.sampled_from([6, 62]))
def test_ordered_is_a_stable_sort(keys, bits):
    keys = np.array(keys, np.int64)
    order, ascending = ordered(keys, bits)
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(ascending, np.sort(keys))


def test_shares_of_topics_are_the_planted_weights(plain):
    """Over all users with enough clicks: the share of an interest among a user's clicks has the weight as its mean."""
    block = plain.blocks[0]
    weights = block.people.mean_weights(0.0)
    np.testing.assert_allclose(weights.sum(1), 1)
    counts = np.zeros((len(weights), SLOTS))
    np.add.at(counts, (block.user, block.slot), 1)
    n = counts.sum(1, keepdims=True)
    many = n[:, 0] >= 60
    share = (counts / n)[many]
    assert not share[weights[many] == 0].any()
    slope, intercept = np.polyfit(weights[many].ravel(), share.ravel(), 1)
    assert slope == pytest.approx(1, abs=0.05)
    assert intercept == pytest.approx(0, abs=0.02)


def test_interests_are_as_many_as_asked_and_different():
    settings = Settings(3000, 500, 30_000, interests=2.2, drift=0.0)
    people = make_people(settings, Catalogue(settings), 0, 3000)
    used = people.topic >= 0
    assert used.sum(1).min() == 1
    assert used.sum(1).max() == 5
    assert used.sum(1).mean() == pytest.approx(2.2, abs=0.06)
    for row, mask in zip(people.topic[:300], used[:300], strict=True):
        assert len(set(row[mask])) == mask.sum()
    assert not people.base[~used].any()


def test_topics_differ_even_where_there_are_as_few_as_slots():
    settings = Settings(500, 60, 5000, topics=SLOTS, interests=5.0, drift=1.0)
    people = make_people(settings, Catalogue(settings), 0, 500)
    for row in people.topic:
        assert sorted(row) == list(range(SLOTS))


def test_clicks_lie_about_the_planted_place(plain):
    """Within two widths of the user's place on the ring for most clicks of an interest, and evenly without taste."""
    for log, low, high in ((plain, 0.85, 1.0), (Log(Settings(2000, 2000, 60_000, width=0.5, **PLAIN)), 0.2, 0.5)):
        block, catalogue = log.blocks[0], log.catalogue
        place, topic = catalogue.entry_place, catalogue.entry_topic
        mine, its = block.people.place[block.user, block.slot], block.people.topic[block.user, block.slot]
        far = np.full(len(mine), 1.0)
        for entry in (catalogue._first, catalogue._last):
            at = entry[block.item]
            away = np.abs(place[at] - mine)
            far = np.where(topic[at] == its, np.minimum(far, np.minimum(away, 1 - away)), far)
        assert low < (far <= 2 * 0.08 + 0.02).mean() < high


def test_sessions_stay_with_an_interest_and_go_step_by_step(plain):
    block = plain.blocks[0]
    same = block.session[1:] == block.session[:-1]
    kept = (block.slot[1:] == block.slot[:-1])[same].mean()
    changed = (block.slot[1:] == block.slot[:-1])[~same & (block.user[1:] == block.user[:-1])].mean()
    assert kept > 0.7 > 0.6 > changed
    lengths = np.bincount(block.session)
    assert 3 < lengths.mean() < 4.2  # a session also ends with its user
    gaps = np.diff(block.time)[same]
    assert gaps.min() >= 1
    assert gaps.mean() == pytest.approx(45.5, abs=2)


def test_noise_is_as_much_as_asked_and_falls_where_it_is_popular(usual):
    stray = usual.slot == NOISE
    assert stray.mean() == pytest.approx(0.25, abs=0.01)
    shares = np.bincount(usual.item[stray], minlength=1000) / stray.sum()
    assert np.corrcoef(shares, usual.catalogue.popularity)[0, 1] > 0.6
    assert usual.rating[stray].mean() < usual.rating[~stray].mean() - 1
    assert set(np.unique(usual.rating)) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_drift_moves_the_weights_and_none_does_not():
    """Distance between what a user clicks in the first and in the last third of a life."""

    def moved(drift):
        log = Log(Settings(800, 1000, 120_000, drift=drift, noise=0.0, seed=5))
        far, asked = [], log.blocks[0]
        for user in range(len(asked.people.life)):
            slots = asked.slot[asked.user == user]
            if len(slots) >= 120:
                third = len(slots) // 3
                first, last = (np.bincount(part, minlength=SLOTS) / third for part in (slots[:third], slots[-third:]))
                far.append(np.abs(first - last).sum() / 2)
        return np.mean(far)

    still, some, much = moved(0.0), moved(0.5), moved(1.0)
    assert still < 0.35
    assert some > still + 0.1
    assert much > some + 0.1


def test_an_interest_that_is_replaced_ends_where_the_newcomer_begins():
    settings = Settings(2000, 500, 20_000, drift=1.0)
    people = make_people(settings, Catalogue(settings), 0, 2000)
    assert (people.topic[:, -1] >= 0).all()
    at = people.begins[:, -1]
    assert (((people.ends < 1).sum(1) == 1) & (people.ends.min(1) == at)).all()
    before, after = people.weights(0.2, 1.0), people.weights(0.8, 1.0)
    assert not before[:, -1].any()
    assert (after[:, -1] > 0).all()
    np.testing.assert_allclose(before.sum(1), 1)
    np.testing.assert_allclose(after.sum(1), 1)
    old = people.ends.argmin(1)
    assert not after[np.arange(2000), old].any()


def test_items_are_born_and_fade(usual):
    catalogue = usual.catalogue
    span = (usual.time - usual.settings.begin) / (usual.settings.days * 86_400)
    assert span.min() >= 0
    early = np.bincount(usual.item[span < 0.4], minlength=1000)
    late = np.bincount(usual.item[span > 0.6], minlength=1000)
    head = np.arange(300)  # where counts tell something
    ratio = (late[head] + 1) / (early[head] + 1)
    assert (ratio > 8).mean() > 0.03  # not there yet at first
    assert (ratio < 1 / 3).mean() > 0.03
    assert catalogue.popularity.sum() == pytest.approx(1)


def test_hours_of_the_day_differ_and_sessions_lie_in_the_span():
    log = Log(Settings(2000, 300, 40_000, days=20.5, begin=1_700_000_123))
    opening = np.flatnonzero(np.diff(np.concatenate([b.session for b in log.blocks]), prepend=-1) != 0)
    begun = log.time[opening] - log.settings.begin
    assert begun.min() >= 0
    assert begun.max() <= 20.5 * 86_400
    hour = log.time[opening] // 3600 % 24
    assert (hour == 20).sum() > 5 * (hour == 3).sum()


def test_repeats_are_fewer_where_they_are_not_wanted():
    def share(repeats):
        log = Log(Settings(2000, 2000, 60_000, repeats=repeats, seed=4))
        return 1 - pl.DataFrame({"u": log.user, "i": log.item}).n_unique() / len(log.item)

    assert share(0.0) < 0.5 * share(1.0)


def test_ids_are_one_to_one_and_far_apart():
    for n in (1, 7, 5000):
        numbers = Names(n, "numbers", "u", 3).numbers(np.arange(n))
        assert len(np.unique(numbers)) == n
        assert numbers.min() >= 0
    many = Names(5000, "numbers", "u", 3)
    everything = many.numbers(np.arange(1 << 16))
    assert everything.max() < 1 << many.bits
    assert len(np.unique(everything)) == 1 << 16
    assert np.median(np.abs(np.diff(everything))) > 1_000_000
    texts = Names(50, "text", "u", 3).series(np.arange(50))
    assert texts.n_unique() == 50
    assert texts.str.len_chars().n_unique() == 1
    assert texts.str.starts_with("u").all()
    assert (Names(5000, "numbers", "i", 3).numbers(np.arange(9)) != everything[:9]).all()


def test_a_block_depends_on_the_settings_and_its_number_only(usual):
    again = draw_block(usual.settings, Catalogue(usual.settings), Activity(usual.settings), 3)
    for name in ("user", "session", "slot", "item", "time", "rating"):
        np.testing.assert_array_equal(getattr(again, name), getattr(usual.blocks[3], name))


def test_seeds_differ():
    logs = [Log(Settings(200, 100, 2000, seed=seed)) for seed in (0, 1)]
    assert (logs[0].item != logs[1].item).mean() > 0.5
    assert (logs[0].time != logs[1].time).mean() > 0.9


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"users": 0}, "users is 1 or more; got 0"),
        ({"items": 5}, "items is 6 or more"),
        ({"interactions": 99}, "100 users with 1 or more interactions each are 100 or more"),
        ({"interactions": 10**8}, "100,000 interactions on average at most"),
        ({"interests": 5.5}, "interests lies in 1..5; got 5.5"),
        ({"topics": 5}, "topics lies in 6..1000; got 5"),
        ({"topics": 300}, "items is 300 or more"),
        ({"noise": 1.1}, "noise lies in 0..1"),
        ({"noise": float("nan")}, "noise lies in 0..1"),
        ({"ids": "uuid"}, "ids is numbers or text; got 'uuid'"),
    ],
)
def test_bad_settings_teach(changed, words):
    with pytest.raises(BadSetting, match=words):
        Settings(**({"users": 100, "items": 200, "interactions": 1000} | changed))
