"""Histories as clusters: what they hold, what they show, and that none of it is of the future."""

import dataclasses
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickshop import DAY, HOUR, SCHEMA, SPLIT, START, folder, log, raw
from diffacet.data import clicks
from diffacet.data.clicks import BehaviourField, Schema, cut, encode, from_frames, learn
from diffacet.data.clicks.clustering import clustered, day_starts, item_vectors, kind
from diffacet.data.clicks.kmeans import Rule, leaves, quiet
from diffacet.errors import BadSetting

FEW = Rule(most=4)
LONG = log(behaviours=40, samples=90)


def drawn(some, seed=0, width=5):
    """Random vectors for the values of the first field."""
    size = some.vocabularies["item"].size
    return np.random.default_rng(seed).standard_normal((size, width)).astype(np.float32)


def history(some, s):
    """What sample s sees: field values (F, n), times, sizes."""
    own = slice(some.begin[s], some.end[s])
    sizes = np.ones(own.stop - own.start) if some.sizes is None else some.sizes[own]
    return some.behaviours[:, own], some.behaviour_time[own], sizes


def same(one, other, rows):
    """Whether samples `rows` see the same in both logs."""
    return all(np.array_equal(a, b) for s in rows for a, b in zip(history(one, s), history(other, s), strict=True))


def line(places, times, *, types="v", shown=10 * DAY, **changes):
    """A log of one user whose behaviours lie on a line: (log, vectors); one sample, long after."""
    n = len(places)
    items = sorted(set(places))
    about = Schema(
        name="line",
        behaviour_fields=(BehaviourField("item", "item_id", "item_id"), BehaviourField("type", "behaviour_type")),
        split={"by": "instant", "valid": 2 * shown, "test": 3 * shown},
        **changes,
    )
    done = pl.DataFrame(
        {
            "user_id": [1] * n,
            "item_id": [items.index(place) for place in places],
            "timestamp": list(times),
            "behaviour_type": list(types) * (n if len(types) == 1 else 1),
        }
    )
    asked = pl.DataFrame({"user_id": [1], "item_id": [0], "timestamp": [shown], "label": [1]})
    made = from_frames(about, asked, done)
    some = encode(made, *learn(made, 5 * shown))
    vectors = np.zeros((some.vocabularies["item"].size, 1), np.float32)
    for number, item in enumerate(some.vocabularies["item"].values, 3):
        vectors[number] = items[item]
    return some, vectors


# --- the parting -----------------------------------------------------------------------------------------------


def test_parts_are_whole_numbers_exactly():
    rule = Rule()
    for n in [*range(21, 3000), 1024, 10**5, 10**6]:
        k = rule.parts(n)
        assert k == 2 or k**10 <= n**3
        assert (k + 1) ** 10 > n**3 or k == 2
    assert Rule(exponent=1.0).parts(50) == 50


@pytest.mark.parametrize("changes", [{"most": 0}, {"exponent": 0.0}, {"exponent": 1.5}, {"iterations": 0}])
def test_a_rule_out_of_range_is_refused(changes):
    with pytest.raises(BadSetting, match="clusters have"):
        Rule(**changes)


@settings(max_examples=15)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 99))
def test_leaves_divide_the_points_and_are_small(count, most, seed):
    rng = np.random.default_rng(seed)
    vectors, weights = rng.standard_normal((count, 3)), rng.integers(1, 5, count)
    with quiet():
        found = list(leaves(vectors, weights, Rule(most=most), np.random.default_rng(seed)))
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    for leaf in found:
        assert weights[leaf].sum() <= most or len(leaf) == 1


def test_far_apart_is_not_together():
    rng = np.random.default_rng(0)
    blob = rng.integers(0, 3, 90)
    vectors = rng.standard_normal((90, 4)) + 100 * np.eye(4)[blob]
    with quiet():
        found = list(leaves(vectors, np.ones(90, np.int64), Rule(most=40), np.random.default_rng(1)))
    assert len(found) < 20
    for leaf in found:
        assert len(set(blob[leaf])) == 1


# --- clusters of a log -----------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    seed=st.integers(0, 999),
    most=st.integers(1, 8),
    length=st.sampled_from([0, 1, 7, 30]),
    apart=st.sampled_from([0, 1, 5, 100]),
    gap=st.sampled_from([0, 1, 30 * HOUR]),
    freeze=st.sampled_from([(), SPLIT]),
)
def test_every_sample_sees_all_its_behaviours_and_nothing_later(seed, most, length, apart, gap, freeze):
    made = raw(seed % 7, behaviours=30, samples=60)
    some = encode(made, *learn(made, SPLIT[0]), gap=gap, freeze=freeze)
    found = clustered(some, drawn(some, seed), rule=Rule(most=most), seed=seed, length=length, apart=apart)
    assert len(found) == len(some)
    assert found.sizes.dtype == np.float32
    assert found.behaviours.dtype == np.int32
    for s in range(len(some)):
        values, times, _ = history(some, s)
        shown, latest, sizes = history(found, s)
        start = int(day_starts(some.time[s : s + 1], "UTC")[0])
        before = int((times < start).sum())
        read = min(before, length) if length else before
        values, times = values[:, before - read :], times[before - read :]
        assert sizes.sum() == len(times)
        assert sizes.max(initial=1) <= most
        assert (latest < some.time[s] - gap).all() or freeze
        assert np.isin(latest, times).all()
        for f in range(3):
            assert set(shown[f]) <= set(values[f])
        for one in set(values[2]):  # each cluster is of one kind
            assert sizes[shown[2] == one].sum() == (values[2] == one).sum()
        tail = len(times) - read + min(apart, read)  # the day's own, and the most recent before it
        assert (sizes[len(sizes) - tail :] == 1).all()
        np.testing.assert_array_equal(shown[:, len(sizes) - tail :], values[:, len(times) - tail :])
        if read - min(apart, read) <= most:
            np.testing.assert_array_equal(shown, values)
            np.testing.assert_array_equal(latest, times)
        whole = latest[: len(sizes) - tail]
        assert (np.diff(whole) >= 0).all()


def test_long_histories_do_become_shorter():
    found = clustered(LONG, drawn(LONG), rule=FEW)
    counts, before = found.end - found.begin, LONG.end - LONG.begin
    assert (counts <= before).all()
    late = LONG.time >= START + 7 * DAY
    assert counts[late].sum() < 0.6 * before[late].sum()
    assert found.sizes.max() > 2


@pytest.mark.parametrize("apart", [0, 3])
def test_the_future_changes_nothing(apart):
    """Behaviours at or after a moment, planted for all users, are unseen by every sample up to that moment."""
    moment = START + 5 * DAY + 7 * HOUR

    def plant(shown, done, items):
        users = done["user_id"].unique().sort()
        planted = pl.concat(
            [
                pl.DataFrame(
                    {
                        "user_id": users,
                        "item_id": [n % 9 + late for n in range(len(users))],
                        "timestamp": [moment + late * HOUR] * len(users),
                        "behaviour_type": ["view"] * len(users),
                    }
                )
                for late in range(12)
            ]
        )
        return shown, pl.concat([planted, done]), items

    before = log(behaviours=40, samples=90)
    made = raw(behaviours=40, samples=90, change=plant)
    after = encode(made, *learn(raw(behaviours=40, samples=90), SPLIT[0]))
    vectors = drawn(before)
    one, other = (clustered(some, vectors, rule=FEW, apart=apart) for some in (before, after))
    rows = np.flatnonzero(before.time <= moment)
    assert 0 < len(rows) < len(before)
    assert same(one, other, rows)
    assert not same(one, other, np.flatnonzero(before.time > moment))


def test_row_order_and_other_users_change_nothing():
    unique = lambda done: done.with_columns(pl.col("timestamp") + pl.int_range(pl.len()))  # noqa: E731
    parts = [
        lambda s, d, i: (s, unique(d), i),
        lambda s, d, i: (s, unique(d).sample(fraction=1.0, shuffle=True, seed=1), i),
    ]
    one, other = (log(behaviours=40, samples=90, change=change) for change in parts)
    assert not np.array_equal(one.pointers, one.begin)
    vectors = drawn(one)
    found = clustered(one, vectors, rule=FEW)
    again = clustered(other, vectors, rule=FEW)
    for name in ("behaviours", "behaviour_time", "sizes", "begin", "end"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
    # One user alone, as in a prediction.
    rows = np.flatnonzero(one.user == 3)
    made = raw(behaviours=40, samples=90, change=parts[0])
    own = from_frames(
        SCHEMA,
        made.samples.filter(pl.Series(one.user == 3)),
        made.behaviours.filter(pl.col("user_id") == 3),
        made.items,
    )
    alone = clustered(encode(own, *learn(made, SPLIT[0])), vectors, rule=FEW)
    assert len(alone) == len(rows) > 0
    for place, s in enumerate(rows):
        for a, b in zip(history(alone, place), history(found, s), strict=True):
            np.testing.assert_array_equal(a, b)


def test_equal_times_in_another_order_give_the_same_clusters():
    rng = np.random.default_rng(0)
    places, types = rng.integers(0, 12, 50).tolist(), rng.choice(["a", "b"], 50).tolist()
    times = np.sort(rng.integers(0, 9, 50)).tolist()
    order = rng.permutation(50)
    one, vectors = line(places, times, types=types)
    other, again = line([places[n] for n in order], [times[n] for n in order], types=[types[n] for n in order])
    np.testing.assert_array_equal(vectors, again)
    assert not np.array_equal(one.behaviours, other.behaviours)
    found, told = (clustered(some, vectors, rule=FEW) for some in (one, other))
    for a, b in zip(history(found, 0), history(told, 0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_seed_decides():
    vectors = drawn(LONG)
    one, same_, other = (clustered(LONG, vectors, rule=FEW, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.behaviours, same_.behaviours)
    np.testing.assert_array_equal(one.sizes, same_.sizes)
    assert one.sizes.tolist() != other.sizes.tolist()


def test_a_cluster_shows_the_member_nearest_to_its_mean_and_has_the_time_of_the_latest():
    some, vectors = line([2.2, 0.0, 1.0, 90.0], [10, 40, 20, 30])
    found = clustered(some, vectors, rule=Rule(most=3))
    values, times, sizes = history(found, 0)
    assert sizes.tolist() == [1, 3]
    assert vectors[values[0]].ravel().tolist() == [90.0, 1.0]
    assert times.tolist() == [30, 40]


def test_of_equally_near_members_the_most_recent_is_shown():
    some, vectors = line([1.0, 1.0, 90.0, 1.0], [10, 20, 30, 40], types="abca", timezone="Asia/Shanghai")
    some = dataclasses.replace(some, schema=dataclasses.replace(some.schema, behaviour_fields=_unkind(some.schema)))
    values, times, sizes = history(clustered(some, vectors, rule=Rule(most=3)), 0)
    assert sizes.tolist() == [1, 3]
    assert times.tolist() == [30, 40]
    assert some.vocabularies["type"].values[int(values[1, 1]) - 3] == "a"


def _unkind(about):
    """The fields of a schema without a kind of behaviour: what was the kind is a field like others."""
    return tuple(BehaviourField("way", "way") if field.name == "type" else field for field in about.behaviour_fields)


def test_what_coincides_is_cut_by_time():
    some, vectors = line([5.0] * 45, range(0, 450, 10))
    values, times, sizes = history(clustered(some, vectors), 0)
    assert sizes.tolist() == [20, 20, 5]
    assert times.tolist() == [190, 390, 440]
    assert len(set(values[0])) == 1


def test_items_of_equal_vectors_are_one_place():
    some, vectors = line([float(n) for n in range(41)], range(41))
    values, times, sizes = history(clustered(some, 0 * vectors), 0)
    assert sizes.tolist() == [20, 20, 1]
    assert vectors[values[0]].ravel().tolist() == times.tolist() == [19, 39, 40]


def test_few_behaviours_stay_as_they_are():
    for rule in (Rule(most=60), Rule(most=200)):
        found = clustered(LONG, drawn(LONG), rule=rule)
        assert same(LONG, found, range(len(LONG)))
        assert (found.sizes == 1).all()
    some, vectors = line([1.0, 2.0, 3.0], [1, 2, 3])
    assert same(some, clustered(some, vectors, rule=Rule(most=3)), [0])
    assert not same(some, clustered(some, vectors, rule=Rule(most=2)), [0])
    assert same(some, clustered(some, vectors, rule=Rule(most=2), apart=1), [0])


def test_kinds_are_never_mixed():
    some, vectors = line([1.0] * 12, range(12), types="ababababcccc")
    values, _, sizes = history(clustered(some, vectors, rule=Rule(most=10)), 0)
    assert sizes.tolist() == [4, 4, 4]
    assert len(set(values[1])) == 3
    assert kind(some.schema) == 1
    assert kind(SCHEMA) == 2
    assert kind(dataclasses.replace(SCHEMA, behaviour_fields=SCHEMA.behaviour_fields[:2])) is None


def test_batches_of_clusters_are_cut_like_others():
    found = clustered(LONG, drawn(LONG), rule=FEW)
    rows = np.arange(0, len(LONG), 7)
    for length in (0, 5):
        told = cut(found, rows, length)
        for b, s in enumerate(rows):
            values, times, sizes = history(found, s)
            own = slice(told["start"][b], told["end"][b])
            keep = slice(-length if length else None, None)
            np.testing.assert_array_equal(told["behaviours"][own].T, values[:, keep])
            np.testing.assert_array_equal(told["times"][own], times[keep])
            np.testing.assert_array_equal(told["sizes"][own], sizes[keep])


def test_progress_ends_with_everything():
    told = []
    clustered(LONG, drawn(LONG), rule=FEW, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1] > 0


def test_a_log_without_behaviours_or_long_histories_stays():
    none = log(change=lambda shown, done, items: (shown, done.clear(), items))
    found = clustered(none, drawn(none))
    assert found.behaviours.shape == (3, 0)
    assert not (found.end - found.begin).any()
    assert found.sizes.tolist() == []


def test_what_cannot_be_clustered_is_refused():
    vectors = drawn(LONG)
    for wrong in (vectors[1:], vectors[:, :0], vectors[0]):
        with pytest.raises(BadSetting, match=r"its vectors are \(\d+, any\)"):
            clustered(LONG, wrong)
    broken = vectors.copy()
    broken[4, 1] = np.nan
    with pytest.raises(BadSetting, match="not all finite"):
        clustered(LONG, broken)
    with pytest.raises(BadSetting, match="0 or more; got -1 and 0"):
        clustered(LONG, vectors, length=-1)
    with pytest.raises(BadSetting, match="clusters already"):
        clustered(clustered(LONG, vectors), vectors)


# --- histories inside rows -------------------------------------------------------------------------------------


def inline(timed):
    """Two rows that bring their histories along: of the day before, and of two days before and the same morning."""
    times = [[START - 30 * HOUR + n for n in range(6)], [START - 50 * HOUR, *(START + n * HOUR for n in range(1, 9))]]
    about = Schema(
        name="rows",
        behaviour_fields=(BehaviourField("item", "past", "item_id"),),
        split={"by": "instant", "valid": START + DAY, "test": START + 2 * DAY},
        history="inline",
        behaviour_times="real" if timed else "order",
    )
    frame = {
        "user_id": [1, 1],
        "item_id": [1, 2],
        "timestamp": [START - HOUR, START + 10 * HOUR],
        "label": [0, 1],
        "past": [[1, 1, 2, 2, 3, 1], [3, 1, 1, 2, 2, 3, 3, 1, 2]],
    }
    made = from_frames(about, pl.DataFrame(frame | ({"behaviour_timestamp": times} if timed else {})))
    return encode(made, *learn(made, START + DAY))


@pytest.mark.parametrize("timed", [False, True])
def test_histories_inside_rows_are_clustered_row_by_row(timed):
    some = inline(timed)
    vectors = np.arange(some.vocabularies["item"].size, dtype=np.float32)[:, None]
    found = clustered(some, vectors, rule=Rule(most=3))
    for s, n in enumerate((6, 9)):
        _, times, sizes = history(found, s)
        assert sizes.sum() == n
        assert sizes.max() <= 3
        assert times.any() == timed
    assert found.end[0] - found.begin[0] < 6
    # The second row's own day is not clustered, if times tell which that is.
    assert (found.end[1] - found.begin[1] < 9) == (not timed)


# --- days and vectors ------------------------------------------------------------------------------------------


def test_days_begin_at_midnight_where_the_data_are_from():
    for zone in ("UTC", "Asia/Shanghai", "America/New_York", "Asia/Kathmandu"):
        times = START + np.arange(-400, 400) * 11 * HOUR
        found = day_starts(times, zone)
        utc = pl.Series(times).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        starts = pl.Series(found).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        assert (starts.dt.date() == utc.dt.date()).all()
        assert (starts.dt.time() == datetime(2000, 1, 1).time()).all()
        assert (found <= times).all()
    shanghai = day_starts(np.array([1494001800000, 1494084600000, 1494088200000]), "Asia/Shanghai")
    assert (np.diff(shanghai) == [0, DAY]).all()


def test_item_vectors_are_of_the_past_and_alike_for_items_of_the_same_users():
    some = LONG
    found = item_vectors(some, SPLIT[0], dim=8)
    assert found.shape == (some.vocabularies["item"].size, 8)
    assert found.dtype == np.float32
    assert not found[:3].any()
    norms = np.linalg.norm(found, axis=1)
    assert np.allclose(norms[norms > 0], 1, atol=1e-5)
    later = dataclasses.replace(some, behaviours=some.behaviours.copy())
    later.behaviours[0, some.behaviour_time >= SPLIT[0]] = 4
    np.testing.assert_array_equal(item_vectors(later, SPLIT[0], dim=8), found)
    # Users like one kind of items each.
    kinds = np.zeros(len(found), np.int64)
    kinds[some.behaviours[0]] = some.behaviours[1]
    near = found @ found.T
    alike = (kinds[:, None] == kinds) & (kinds[:, None] > 2) & ~np.eye(len(found), dtype=bool)
    apart = (kinds[:, None] != kinds) & (kinds[:, None] > 2) & (kinds > 2)
    assert near[alike].mean() > near[apart].mean() + 0.2


def test_item_vectors_are_the_matrix_as_far_as_there_are_directions():
    some = LONG
    found = item_vectors(some, SPLIT[0], dim=40)
    met = np.zeros((int(some.user.max()) + 1, len(found)))
    owner = np.repeat(np.arange(len(some.pointers) - 1), np.diff(some.pointers))
    seen = some.behaviour_time < SPLIT[0]
    met[owner[seen], some.behaviours[0, seen]] = 1
    met[:, :3] = 0
    gram = met.T @ met  # all directions: angles between columns
    norms = np.sqrt(np.diag(gram))
    expected = gram / np.where(norms > 0, norms, 1) / np.where(norms > 0, norms, 1)[:, None]
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-4)
    np.testing.assert_array_equal(item_vectors(some, SPLIT[0], dim=40), found)


def test_item_vectors_of_nothing_are_zero():
    assert not item_vectors(LONG, START).any()
    rows = inline(timed=False)
    found = item_vectors(rows, START + DAY, dim=2)
    assert np.allclose(np.linalg.norm(found[3:], axis=1), 1)
    assert not item_vectors(rows, START - DAY, dim=2).any()


def test_real_packed_data_can_be_clustered(tmp_path):
    packed = clicks.open(folder(tmp_path / "shop", behaviours=40, samples=90))
    vectors = item_vectors(packed.log, packed.split.borders[0])
    found = clustered(packed.log, vectors, rule=FEW, length=50, apart=5)
    assert found.pointers is None
    assert found.sizes.max() > 1
