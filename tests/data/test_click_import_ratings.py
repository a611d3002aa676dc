"""A rating log, or one of purchases with sampled negatives, becomes a click folder; each rule against a loop."""

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet.data import clicks
from diffacet.data.clicks.importing import folder, negatives, ratings
from diffacet.data.clicks.importing.generic import open_details
from diffacet.data.clicks.importing.wanted import Wanted, asked
from diffacet.data.interactions import Interactions
from diffacet.errors import BadLog, BadSetting

START = 1_600_000_000
SAID = Wanted(name="mine")


def log_of(seed=0, n=200, users=6, items=15, *, rated=True, described=True):
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in rng.integers(0, users, n)],
            "item_id": rng.integers(0, items, n),
            "timestamp": START + rng.integers(0, 100, n) * 40_000,
            **({"rating": rng.integers(1, 6, n).astype(float)} if rated else {}),
        }
    )
    about = pl.DataFrame(
        {"item_id": range(items), "categories": [[f"c{i % 3}", "z"] if i % 4 else [] for i in range(items)]}
    )
    return Interactions.from_frame(frame, about if described else None)


def rows_of(log):
    times = log.frame["time"].to_list()
    users, items = log.users.ids(log.column("user")).to_list(), log.items.ids(log.column("item")).to_list()
    return list(zip(users, items, times, strict=True))


def test_every_rating_is_a_sample_and_a_behaviour(tmp_path):
    log = log_of()
    made = ratings.make(log, ratings.Rule(threshold=4), SAID)
    scores = log.frame["rating"].to_list()
    expected = [(u, i, t * 1000, int(r >= 4)) for (u, i, t), r in zip(rows_of(log), scores, strict=True)]
    counted = made.samples.select("user_id", "item_id", "timestamp", "label").rows()
    assert Counter(counted) == Counter(dict.fromkeys(expected, 1))  # what is repeated whole is there once
    done = made.behaviours.select("user_id", "item_id", "timestamp", "behaviour_type").rows()
    assert Counter(done) == Counter((u, i, t, "pos" if y else "neg") for u, i, t, y in expected)
    assert made.schema.split == {"by": "quantile", "train": 0.8, "valid": 0.1}
    assert "low ratings" in made.schema.source
    assert any("low ratings" in note for note in made.notes)
    folder.write(made, tmp_path / "out", "ratings")
    packed = clicks.open(tmp_path / "out")
    assert packed.log.names == ("item", "category", "type")
    assert packed.log.other_names == ("user_id", "hour", "weekday", "gap_bucket")
    categories = dict(made.items.select("item_id", "category_id").rows())
    assert categories[4] is None
    assert categories[5] == "c2"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
def test_context_against_a_loop(zone):
    log = log_of(1)
    made = ratings.make(log, ratings.Rule(threshold=3), Wanted(name="m", timezone=zone))
    past = rows_of(log)
    clock = timezone(timedelta(hours=8)) if zone != "UTC" else UTC
    for row in made.samples.iter_rows(named=True):
        wall = datetime.fromtimestamp(row["timestamp"] / 1000, clock)
        assert (row["hour"], row["weekday"]) == (wall.hour, wall.isoweekday())
        before = [t * 1000 for u, _, t in past if u == row["user_id"] and t * 1000 < row["timestamp"]]
        days = (row["timestamp"] - max(before)) // 86_400_000 if before else None
        assert row["gap_bucket"] == (None if days is None else days.bit_length())
    shared = [sum(v == u and w == t for v, _, w in past) > 1 for u, _, t in past]
    assert f"{np.mean(shared):.1%} of the samples share their moment" in "\n".join(made.notes)


def test_positive_behaviours_alone_have_no_type():
    log = log_of(2)
    made = ratings.make(log, ratings.Rule(threshold=4, kept="positive"), SAID)
    assert made.behaviours.height == int((log.frame["rating"] >= 4).sum())
    assert made.schema.names == ("item", "category")
    assert set(made.behaviours.columns) == {"user_id", "item_id", "timestamp"}


def test_fields_of_further_tables(tmp_path):
    users, items = tmp_path / "users.csv", tmp_path / "items.csv"
    users.write_text("user_id,age\n" + "".join(f"u{n},{20 + n}\n" for n in range(6)))
    items.write_text("item_id,genre,year\n" + "".join(f"{n},g{n}|h,{1990 + n}\n" for n in range(15)))
    said = Wanted(name="m", fields=(asked("age"), asked("year:numeric")))
    made = ratings.make(log_of(described=False), ratings.Rule(threshold=4), said, details=open_details(items, users))
    assert made.schema.user_fields == ("user_id", "users.age")
    assert made.schema.dense_fields == ("items.year",)
    assert made.schema.names == ("item", "category", "type")
    known = dict(made.items.select("item_id", "genre").rows())
    assert known[3] == "g3"
    bare = ratings.make(log_of(described=False), ratings.Rule(threshold=4), SAID)
    assert bare.items is None
    assert bare.schema.names == ("item", "type")


@pytest.mark.parametrize(
    ("log", "rule", "words"),
    [
        (log_of(rated=False), ratings.Rule(threshold=4), ["no ratings", "--sampled-negatives N"]),
        (log_of(), ratings.Rule(threshold=6), ["--from-ratings 6", "same answer", "from 1 to 5"]),
        (log_of(), ratings.Rule(threshold=1), ["--from-ratings 1", "choose a threshold"]),
        (
            Interactions.from_frame(pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 1], "timestamp": [0, 1, 0]})),
            ratings.Rule(negatives=1),
            ["only count each user's rows", "real times"],
        ),
        (
            Interactions.from_frame(pl.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "timestamp": [START, START]})),
            ratings.Rule(negatives=1),
            ["no user of this log has a second row"],
        ),
    ],
)
def test_refusals(log, rule, words):
    with pytest.raises(BadLog) as caught:
        ratings.make(log, rule, SAID)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "--from-ratings X"),
        ({"threshold": 4, "negatives": 1}, "--sampled-negatives N"),
        ({"negatives": 0}, "at least 1"),
    ],
)
def test_rules_that_contradict_themselves(said, words):
    with pytest.raises(BadSetting, match=words):
        ratings.Rule(**said)
    with pytest.raises(BadSetting, match="did you mean 'positive'"):
        ratings.Rule(threshold=4, kept="positives")


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=30)


@given(ROWS, st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_negatives_are_items_seen_before_that_the_user_has_not_met(rows, n, exhaustive, seed):
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    positives = negatives.from_second_on(log)
    assert positives.tolist() == [i for i in range(1, len(rows)) if rows[i][0] == rows[i - 1][0]]
    with pytest.MonkeyPatch.context() as patch:
        if exhaustive:
            patch.setattr(negatives, "_ROUNDS", 0)  # all draws from the table of what is left
            patch.setattr(negatives, "_CELLS", 16)
        drawn, missing = negatives.sampled(log, positives, n, seed)
    assert drawn.equals(negatives.sampled(log, positives, n, seed)[0]) or exhaustive
    lacking = 0
    for place in positives.tolist():
        user, _, time = rows[place]
        seen = {item for _, item, moment in rows if moment < time}
        met = {item for who, item, moment in rows if who == user and moment <= time}
        own = drawn.filter(pl.col("row") == place)
        assert set(own["item_id"]) <= seen - met
        assert own["item_id"].n_unique() == own.height == min(n, len(seen - met))
        assert set(own["user_id"]) <= {user}
        assert set(own["timestamp"]) <= {time}
        lacking += n - own.height
    assert missing == lacking


@pytest.mark.parametrize("rounds", [0, 30])
def test_negatives_are_uniform(rounds, monkeypatch):
    monkeypatch.setattr(negatives, "_ROUNDS", rounds)
    log = pl.DataFrame(
        {"user_id": [0] * 8 + [1] * 2000, "item_id": [*range(8), *[9] * 2000], "timestamp": [0] * 8 + [5] * 2000}
    )
    drawn, missing = negatives.sampled(log, np.arange(8, 2008), 2, 3)
    counts = np.bincount(drawn["item_id"], minlength=8)
    assert missing == 0
    assert counts.sum() == 4000
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


def test_a_log_of_purchases(tmp_path):
    log = log_of(4, rated=False, n=300, items=40)
    made = ratings.make(log, ratings.Rule(negatives=3, seed=1), SAID)
    again = ratings.make(log, ratings.Rule(negatives=3, seed=1), SAID)
    other = ratings.make(log, ratings.Rule(negatives=3, seed=2), SAID)
    assert made.samples.equals(again.samples)
    assert not made.samples.equals(other.samples)
    assert made.behaviours.height == len(log)
    assert "sampled negatives" in made.schema.source
    assert made.schema.names == ("item", "category")
    rows = rows_of(log)
    firsts = {user: next(row for row in rows if row[0] == user) for user, _, _ in rows}
    positives = made.samples.filter(pl.col("label") == 1)
    rest = list(rows)
    for row in firsts.values():
        rest.remove(row)
    assert set(positives.select("user_id", "item_id", "timestamp").rows()) == {(u, i, t * 1000) for u, i, t in rest}
    folder.write(made, tmp_path / "out", "ratings")
    assert len(clicks.open(tmp_path / "out").log) == made.samples.height
