"""The packed log against written-out loops: histories, vocabularies, scales, hashes, and what must not leak."""

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet.data.clicks import BehaviourField, Vocabulary, encode, from_frames, learn
from diffacet.data.clicks.windows import ends, order
from diffacet.data.hashing import ids
from diffacet.errors import BadLog, BadSetting
from showings import frames, schema

END = 1_600_000_024_000


def packed(parts, about=None, until=END, min_count=1, **options):
    raw = from_frames(schema() if about is None else about, *parts)
    return encode(raw, *learn(raw, until, min_count=min_count), **options)


def history(log, s):
    """The fields of what sample s sees, as tuples."""
    return [tuple(row) for row in log.behaviours[:, log.begin[s] : log.end[s]].T]


def filtered(parts, log, s, gap=0, border=None):
    """The same, by a filter over the frame of behaviours."""
    shown, done, kinds, _ = parts
    user, time = shown["user_id"][s], shown["timestamp"][s]
    until = time - gap if border is None else min(time - gap, border)
    kind_of = dict(kinds.iter_rows())
    seen = [row for row in done.iter_rows(named=True) if row["user_id"] == user and row["timestamp"] < until]
    seen.sort(key=lambda row: row["timestamp"])  # stable
    number = {name: dict(zip(log.vocabularies[name].values, range(3, 10**6), strict=False)) for name in log.names}
    return [
        (
            number["item"].get(row["item_id"], 1),
            number["kind"].get(kind_of.get(row["item_id"]), 1),
            number["type"].get(row["type"], 1),
        )
        for row in seen
    ]


@given(
    st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 40), st.integers(1, 6), st.integers(1, 12),
    st.integers(0, 5000), st.integers(1, 50),
)  # fmt: skip
def test_histories_are_those_of_a_filter(seed, samples, behaviours, users, span, gap, block):
    parts = frames(seed, samples, behaviours, users, items=6, span=span)
    log = packed(parts, gap=gap, block=block)
    for s in range(len(log)):
        assert history(log, s) == filtered(parts, log, s, gap)


def test_the_log_has_users_without_behaviours_and_equal_times():
    """So that the comparisons above compare something."""
    shown, done, *_ = frames()
    log = packed(frames())
    assert not set(shown["user_id"]) <= set(done["user_id"])
    assert not set(done["user_id"]) <= set(shown["user_id"])
    assert len(shown.join(done, on=["user_id", "timestamp"])) > 0
    assert (log.end == log.begin).any()
    assert (log.end - log.begin).max() > 3


def test_samples_keep_their_order_and_values():
    shown, _, kinds, towns = parts = frames()
    log = packed(parts)
    kind_of, town_of = dict(kinds.iter_rows()), dict(towns.iter_rows())
    number = {name: dict(zip(v.values, range(3, 10**6), strict=False)) for name, v in log.vocabularies.items()}
    assert (log.names, log.other_names) == (("item", "kind", "type"), ("user_id", "users.town", "hour"))
    for s, row in enumerate(shown.iter_rows(named=True)):
        assert log.time[s] == row["timestamp"]
        assert log.label[s] == row["label"]
        assert list(log.target[:, s]) == [
            number["item"].get(row["item_id"], 1),
            number["kind"].get(kind_of.get(row["item_id"]), 1),
            2,
        ]
        assert list(log.other[:, s]) == [
            number["user_id"].get(row["user_id"], 1),
            number["users.town"].get(town_of[row["user_id"]], 1),
            number["hour"].get(row["hour"], 1),
        ]
    for a in range(len(log)):
        assert ((log.user == log.user[a]) == (shown["user_id"] == shown["user_id"][a]).to_numpy()).all()
    assert (log.group == log.user).all()
    dtypes = dict.fromkeys(("behaviours", "target", "other"), "i4") | {"label": "u1", "numeric": "f4"}
    dtypes |= dict.fromkeys(("known_user", "known_item"), "?")
    dtypes |= dict.fromkeys(("behaviour_time", "user", "time", "group", "begin", "end", "case", "pointers"), "i8")
    assert all(getattr(log, name).dtype == np.dtype(dtype) for name, dtype in dtypes.items())


def test_fields_tell_what_a_model_may_know():
    log = packed(frames())
    told = log.fields()
    assert told["names"] == log.names
    assert told["shared"] == (True, True, False)
    assert told["sizes"] == tuple(3 + len(log.vocabularies[name].values) for name in log.names)
    assert told["other_sizes"] == tuple(3 + len(log.vocabularies[name].values) for name in log.other_names)
    assert told["numeric"] == log.numeric.shape[1] == 2
    assert told["timed"] is True
    assert log.behaviours.max() < max(told["sizes"])


# ------------------------------------------------------------------------------------------------- what must not leak


def test_behaviours_at_or_after_every_sample_change_nothing():
    shown, done, kinds, towns = frames()
    log = packed((shown, done, kinds, towns), until=END)
    late = pl.DataFrame(
        {"user_id": shown["user_id"], "item_id": shown["item_id"], "type": ["buy"] * len(shown),
         "timestamp": shown["timestamp"]}
    ).filter(pl.col("timestamp") == pl.col("timestamp").max().over("user_id"))  # fmt: skip
    assert len(late)
    raw = from_frames(
        schema(), shown, pl.concat([late, done, late.with_columns(pl.col("timestamp") + 7)]), kinds, towns
    )
    planted = encode(raw, log.vocabularies, learn(raw, END)[1])
    for s in range(len(log)):
        assert history(planted, s) == history(log, s)
    for name in ("target", "other", "numeric", "case", "label", "time"):
        np.testing.assert_array_equal(getattr(planted, name), getattr(log, name))


def test_a_behaviour_just_before_a_sample_changes_exactly_the_later_ones():
    shown, done, kinds, towns = frames(samples=200)
    log = packed((shown, done, kinds, towns))
    user = shown["user_id"].mode()[0]
    moment = int(shown.filter(pl.col("user_id") == user)["timestamp"].median())
    one = pl.DataFrame({"user_id": [user], "item_id": [3], "type": ["buy"], "timestamp": [moment - 1]})
    raw = from_frames(schema(), shown, pl.concat([one, done]), kinds, towns)
    planted = encode(raw, log.vocabularies, learn(raw, END)[1])
    changed = [history(planted, s) != history(log, s) for s in range(len(log))]
    expected = (shown["user_id"] == user) & (shown["timestamp"] >= moment)
    assert changed == expected.to_list()
    assert 0 < sum(changed) < (shown["user_id"] == user).sum()


def test_nothing_is_learned_from_the_end_of_training_on():
    """Whatever samples from then on and behaviours from then on hold, vocabularies and scales stay."""
    shown, done, kinds, towns = frames()
    before = learn(from_frames(schema(), shown, done, kinds, towns), END)
    other = pl.col("item_id") + 1000
    shown = shown.with_columns(
        pl.when(pl.col("timestamp") < END).then("item_id").otherwise(other).alias("item_id"),
        pl.when(pl.col("timestamp") < END).then("price").otherwise(1e6).alias("price"),
        pl.when(pl.col("timestamp") < END).then("user_id").otherwise(pl.lit("new")).alias("user_id"),
    )
    done = done.with_columns(pl.when(pl.col("timestamp") < END).then("item_id").otherwise(other).alias("item_id"))
    raw = from_frames(schema(), shown, done, kinds, towns)
    after = learn(raw, END)
    assert after[1] == before[1]
    assert after[0].keys() == before[0].keys()
    for name, vocabulary in before[0].items():
        assert after[0][name].values.equals(vocabulary.values)
    log = encode(raw, *after)
    late = (shown["timestamp"] >= END).to_numpy()
    assert (log.target[0, late] == 1).all()
    assert (log.target[0, ~late] >= 3).all()
    assert not log.known_item[late].any()
    assert not log.known_user[late].any()
    assert log.known_item[~late].all()
    assert log.known_user[~late].all()


def test_histories_can_be_frozen():
    parts = frames(samples=150)
    first, second = 1_600_000_015_000, 1_600_000_030_000
    log = packed(parts, freeze=(first, second), gap=1000)
    for s, time in enumerate(parts[0]["timestamp"]):
        border = second if time >= second else first if time >= first else None
        assert history(log, s) == filtered(parts, log, s, gap=1000, border=border)


# --------------------------------------------------------------------------------------------------------- vocabularies


@pytest.mark.parametrize("min_count", [1, 2, 5])
def test_a_shared_vocabulary_counts_both_sides(min_count):
    shown, done, kinds, towns = frames()
    vocabularies, _ = learn(from_frames(schema(), shown, done, kinds, towns), END, min_count=min_count)
    early, past = shown.filter(pl.col("timestamp") < END), done.filter(pl.col("timestamp") < END)

    def expected(*values):
        counts = Counter(value for one in values for value in one if value is not None)
        return [v for v, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])) if n >= min_count]

    kind_of, town_of = dict(kinds.iter_rows()), dict(towns.iter_rows())
    assert vocabularies["item"].values.to_list() == expected(early["item_id"], past["item_id"])
    assert vocabularies["kind"].values.to_list() == expected(
        *([kind_of.get(i) for i in f["item_id"]] for f in (early, past))
    )
    assert vocabularies["type"].values.to_list() == expected(past["type"])
    assert vocabularies["hour"].values.to_list() == expected(early["hour"])
    assert vocabularies["users.town"].values.to_list() == expected([town_of[u] for u in early["user_id"]])
    assert set(vocabularies["samples.user_id"].values) == set(early["user_id"])
    assert set(vocabularies["samples.item_id"].values) == set(early["item_id"])


def test_vocabulary_numbers():
    vocabulary = Vocabulary(pl.Series([7, 5, -1]))
    assert vocabulary.size == 6
    numbers = vocabulary.numbers(pl.Series([5, None, 7, 8, -1]))
    assert numbers.tolist() == [4, 1, 3, 1, 5]
    assert numbers.dtype == np.int32
    assert vocabulary.numbers(pl.Series(["5", "x", "-1", ""])).tolist() == [4, 1, 5, 1]
    assert Vocabulary(pl.Series(["5", "a"])).numbers(pl.Series([5, 6])).tolist() == [3, 1]
    assert Vocabulary(pl.Series([], dtype=pl.Int64)).numbers(pl.Series(["a"])).tolist() == [1]
    assert vocabulary.numbers(pl.Series([], dtype=pl.Int64)).tolist() == []


def test_ids_of_different_types_are_the_same_ids():
    shown, done, kinds, towns = frames()
    text = pl.col("item_id").cast(pl.String)
    log = packed((shown, done, kinds, towns))
    texts = packed((shown, done.with_columns(text), kinds.with_columns(text), towns))

    def words(one, numbers):
        values = ["", "?", "target", *map(str, one.vocabularies["item"].values)]
        return [values[n] for n in numbers]

    assert words(texts, texts.behaviours[0]) == words(log, log.behaviours[0])
    assert words(texts, texts.target[0]) == words(log, log.target[0])
    np.testing.assert_array_equal(texts.target[1], log.target[1])
    np.testing.assert_array_equal(texts.case, log.case)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Float64, pl.String, pl.Categorical])
def test_categories_of_any_type(dtype):
    shown, done, kinds, towns = frames()
    cast = shown["hour"].cast(pl.String).cast(dtype) if dtype == pl.Categorical else shown["hour"].cast(dtype)
    plain, log = packed((shown, done, kinds, towns)), packed((shown.with_columns(cast), done, kinds, towns))
    counts = [Counter(one.other[2].tolist()).most_common() for one in (plain, log)]
    assert sorted(n for _, n in counts[0]) == sorted(n for _, n in counts[1])


# ------------------------------------------------------------------------------------------------------------- numbers


def test_dense_columns():
    """Standardised by training's numbers; 0 and an indicator where missing; logarithms of heavy tails."""
    n = 40
    rng = np.random.default_rng(1)
    shown, done, kinds, towns = frames(samples=n)
    tail = np.where(np.arange(n) == np.argmin(shown["timestamp"]), 1e6, rng.random(n) + 1)
    shown = shown.with_columns(
        pl.Series("plain", rng.normal(3, 2, n)), pl.Series("tail", tail), pl.lit(4).alias("same"),
        pl.lit(None, dtype=pl.Float64).alias("none"),
    )  # fmt: skip
    kinds = kinds.with_columns(weight=pl.col("item_id") * 0.5)
    about = schema(dense_fields=("plain", "tail", "same", "none", "price", "items.weight"))
    raw = from_frames(about, shown, done, kinds, towns)
    vocabularies, scales = learn(raw, END)
    log = encode(raw, vocabularies, scales)
    train = (shown["timestamp"] < END).to_numpy()
    assert [(one.name, one.log1p, one.indicator) for one in scales] == [
        ("plain", False, False), ("tail", True, False), ("same", False, False), ("none", False, True),
        ("price", False, True), ("items.weight", False, True),
    ]  # fmt: skip
    assert log.numeric.shape == (n, 9)
    plain = shown["plain"].to_numpy()
    np.testing.assert_allclose(log.numeric[:, 0], (plain - plain[train].mean()) / plain[train].std(), atol=1e-5)
    logged = np.log1p(tail)
    np.testing.assert_allclose(log.numeric[:, 1], (logged - logged[train].mean()) / logged[train].std(), atol=1e-5)
    assert (log.numeric[:, 2:4] == 0).all()
    price, there = shown["price"].to_numpy(), shown["price"].is_not_null().to_numpy()
    seen = price[train & there]
    np.testing.assert_allclose(log.numeric[there, 4], (price[there] - seen.mean()) / seen.std(), atol=1e-5)
    assert (log.numeric[~there, 4] == 0).all()
    np.testing.assert_array_equal(log.numeric[:, 6:8], np.stack([np.ones(n), ~there], 1))
    np.testing.assert_array_equal(log.numeric[:, 8] == 1, shown["item_id"].to_numpy() == 0)  # the item without a row


def test_a_number_below_those_of_training_stays_finite():
    shown, done, kinds, towns = frames()
    tail = pl.when(pl.col("timestamp") < END).then(pl.col("item_id") ** 6).otherwise(-5.0)
    log = packed((shown.with_columns(price=tail), done, kinds, towns))
    assert np.isfinite(log.numeric).all()


# -------------------------------------------------------------------------------------------------- order, blocks, hash


def test_row_order_of_the_files_does_not_matter():
    """But for behaviours of one user at one time, which keep their order."""
    shown, done, kinds, towns = frames()
    done = done.unique(["user_id", "timestamp"], maintain_order=True)
    log = packed((shown, done, kinds, towns))
    rng = np.random.default_rng(0)
    mixed = packed(
        [part[rng.permutation(len(part))] if part is not shown else part for part in (shown, done, kinds, towns)]
    )
    for name in (
        "behaviours",
        "behaviour_time",
        "begin",
        "end",
        "target",
        "other",
        "numeric",
        "case",
        "user",
        "pointers",
    ):
        np.testing.assert_array_equal(getattr(mixed, name), getattr(log, name))
    moved = rng.permutation(len(shown))
    other = packed((shown[moved], done, kinds, towns))
    for name in ("begin", "end", "case", "user", "label", "group", "known_item", "numeric"):
        np.testing.assert_array_equal(getattr(other, name), getattr(log, name)[moved])
    np.testing.assert_array_equal(other.target, log.target[:, moved])
    np.testing.assert_array_equal(other.behaviours, log.behaviours)


def test_behaviours_of_one_moment_keep_the_order_of_the_file():
    shown, _, kinds, towns = frames(samples=1)
    many = pl.DataFrame({"user_id": ["u3"] * 40, "item_id": [n % 11 for n in range(40)], "type": ["buy"] * 40,
                         "timestamp": [5 - n // 20 for n in range(40)]})  # fmt: skip
    log = packed((shown, many, kinds, towns))
    items = log.vocabularies["item"].values
    assert [items[int(n) - 3] for n in log.behaviours[0]] == [n % 11 for n in [*range(20, 40), *range(20)]]


@given(st.lists(st.integers(0, 6), max_size=8), st.integers(0, 10**6), st.sampled_from([1, 10**14, 2**60]))
def test_ends_in_blocks_and_by_ranks(lengths, seed, scale):
    """The cut as a loop finds it; times of any size; blocks of users of any size."""
    rng = np.random.default_rng(seed)
    pointers = np.cumsum([0, *lengths, 0])
    times = np.concatenate([np.sort(rng.integers(-3, 4, n)) for n in [*lengths, 0]]) * scale
    user, moment = (
        rng.integers(0, len(pointers) - 1, 20),
        rng.integers(-4, 5, 20) * (scale if scale < 2**60 else scale - 1),
    )
    expected = [
        pointers[u] + sum(int(t) < int(m) for t in times[pointers[u] : pointers[u + 1]])
        for u, m in zip(user, moment, strict=True)
    ]
    for block in (1, 3, 1000):
        assert ends(pointers, times.astype(np.int64), user, moment, block).tolist() == expected


def test_ends_refuse_what_no_number_can_hold(monkeypatch):
    monkeypatch.setattr("diffacet.data.clicks.windows.fits", lambda users, span: users < 2)
    small = np.arange(3), np.array([4, 4]), np.array([1]), np.array([9])
    with pytest.raises(BadLog, match="too many pairs for 64 bits"):
        ends(*small, 100)
    assert ends(*small, 1).tolist() == [2]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=30), st.sampled_from([1, 2**60]))
def test_order_is_by_user_time_and_row(rows, scale):
    owner, times = (np.array([row[k] for row in rows], dtype=np.int64) for k in (0, 1))
    found = order(owner, times * scale, 4)
    expected = sorted(range(len(rows)), key=lambda n: rows[n])
    assert (list(range(len(rows))) if found is None else found.tolist()) == expected


def test_a_case_depends_on_user_item_and_time_only():
    shown, done, kinds, towns = parts = frames()
    log = packed(parts)
    part = packed((shown[10:20].with_columns(label=0, hour=1), done[:5], kinds, towns))
    np.testing.assert_array_equal(part.case, log.case[10:20])
    keys = list(shown.select("user_id", "item_id", "timestamp").iter_rows())
    assert len(set(log.case.tolist())) == len(set(keys)) == len(set(zip(keys, log.case.tolist(), strict=True)))
    assert (log.case < 0).any()
    assert (log.case > 0).any()


def test_hashes_are_the_same_in_every_process():
    series = pl.Series(["", "a", "b", "ab", "ba", "a\0", "größer", "12", "1" * 1000])
    found = ids(series).tolist()
    assert len(set(found)) == len(series)
    assert ids(pl.Series([12, 3]))[0] == found[7]
    assert ids(pl.Series([], dtype=pl.String)).tolist() == []
    assert len(set(ids(pl.Series(range(200_000))).tolist())) == 200_000
    program = (
        "import polars as pl; from diffacet.data.hashing import ids; "
        f"print(ids(pl.Series({series.to_list()!r})).tolist())"
    )
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == str(found)


def test_one_sample_costs_the_same_whatever_its_history():
    """The store grows by behaviours once, not by samples times length."""
    shown, done, kinds, towns = frames(samples=300, behaviours=2000, users=1)
    done = done.with_columns(user_id=pl.lit("u0"), timestamp=pl.col("timestamp") - 10**6)
    long, short = (packed((shown, part, kinds, towns)) for part in (done, done[:1]))
    assert (long.end - long.begin == 2000).all()
    per_sample = ("user", "time", "label", "group", "begin", "end", "case", "target", "other", "numeric")
    assert all(getattr(long, name).nbytes == getattr(short, name).nbytes for name in per_sample)
    assert long.behaviours.shape == (3, 2000)


# ---------------------------------------------------------------------------------------------------- inline and others

INLINE = (BehaviourField("item", "seen", "item_id"), BehaviourField("kind", "items.kind", "items.kind"))


def inline(timed=False, **changes):
    shown, _, kinds, towns = frames(samples=30)
    rng = np.random.default_rng(3)
    lists = [rng.integers(0, 12, rng.integers(0, 5)).tolist() for _ in range(30)]
    lists[4], lists[7] = None, []
    shown = shown.with_columns(pl.Series("seen", lists, dtype=pl.List(pl.Int64)))
    if timed:
        times = [[t - 100 + n for n in range(len(one or []))] for one, t in zip(lists, shown["timestamp"], strict=True)]
        shown = shown.with_columns(pl.Series("behaviour_timestamp", times, dtype=pl.List(pl.Int64)))
    about = schema(behaviour_fields=INLINE, history="inline", behaviour_times="real" if timed else "order", **changes)
    return about, (shown, None, kinds, towns), lists


@pytest.mark.parametrize("timed", [False, True])
def test_inline_histories_come_from_their_rows(timed):
    about, (shown, _, kinds, towns), lists = inline(timed)
    raw = from_frames(about, shown, None, kinds, towns)
    assert bool(raw.notes) is not timed
    log = encode(raw, *learn(raw, END))
    number = {name: dict(zip(log.vocabularies[name].values, range(3, 99), strict=False)) for name in log.names}
    kind_of = dict(kinds.iter_rows())
    for s in range(len(log)):
        seen = lists[s] or []
        assert history(log, s) == [(number["item"].get(i, 1), number["kind"].get(kind_of.get(i), 1)) for i in seen]
        if timed:
            assert log.behaviour_time[log.begin[s] : log.end[s]].tolist() == shown["behaviour_timestamp"][s].to_list()
    train = (shown["timestamp"] < END).to_numpy()
    counted = {i for s in np.flatnonzero(train) for i in [shown["item_id"][int(s)], *(lists[s] or [])]}
    assert set(log.vocabularies["item"].values) == counted
    assert log.pointers is None


def test_inline_histories_cannot_be_moved():
    about, parts, _ = inline()
    raw = from_frames(about, *parts)
    with pytest.raises(BadSetting, match="gap"):
        encode(raw, *learn(raw, END), gap=5)


def test_a_log_without_any_behaviour():
    shown, done, kinds, towns = frames()
    log = packed((shown, done[:0], kinds, towns))
    assert log.behaviours.shape == (3, 0)
    assert (log.end == 0).all()


def test_groups():
    log = packed(frames(), schema(group="hour"))
    shown = frames()[0]
    for a in range(len(log)):
        assert ((log.group == log.group[a]) == (shown["hour"] == shown["hour"][a]).to_numpy()).all()
    assert set(log.group) == set(range(shown["hour"].n_unique()))


def test_other_files_with_the_vocabularies_of_a_run():
    shown, done, kinds, towns = frames()
    raw = from_frames(schema(), shown, done, kinds, towns)
    learned = learn(raw, END)
    other = frames(seed=5, items=30)
    log = encode(from_frames(schema(), *other), *learned)
    known = set(learned[0]["item"].values)
    assert ((log.target[0] > 1) == [i in known for i in other[0]["item_id"]]).all()
    assert (log.target[0] == 1).any()
    users = set(shown.filter(pl.col("timestamp") < END)["user_id"])
    assert log.known_user.tolist() == [u in users for u in other[0]["user_id"]]


def test_what_encode_refuses():
    raw = from_frames(schema(), *frames())
    vocabularies, scales = learn(raw, END)
    with pytest.raises(BadSetting, match="gap is at least 0"):
        encode(raw, vocabularies, scales, gap=-1)
    with pytest.raises(BadSetting, match="no vocabulary of 'kind'"):
        encode(raw, {name: v for name, v in vocabularies.items() if name != "kind"}, scales)
    with pytest.raises(BadSetting, match="dense_fields"):
        encode(raw, vocabularies, ())
    with pytest.raises(BadSetting, match="min_count"):
        learn(raw, END, min_count=0)


def test_columns_that_are_no_categories():
    shown, done, kinds, towns = frames()
    for column, message in (
        (shown["price"].fill_null(0.5).alias("hour"), r"samples.parquet, column hour, row 1: 0\.\d+ is no category"),
        (pl.Series("hour", [1.0] * 59 + [math.nan]), "row 60: nan is no category"),
        (pl.Series("hour", [2**63] * 60, dtype=pl.UInt64), "row 1: 9223372036854775808 is beyond 64 bits"),
        (pl.Series("hour", [[1]] * 60), "has no categories"),
    ):
        raw = from_frames(schema(), shown.with_columns(column), done, kinds, towns)
        with pytest.raises(BadLog, match=message):
            learn(raw, END)
