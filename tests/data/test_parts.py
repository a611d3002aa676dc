import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet.data import parts, splits, store
from diffacet.data.filters import k_core, min_rating
from diffacet.data.interactions import PARTS, Interactions
from diffacet.errors import BadLog, BadSetting
from released import ML_1M, needs_released


def log_of(rows, **settings):
    """A log of (user, item, time) or (user, item, time, part)."""
    names = ["user_id", "item_id", "timestamp", "part"][: len(rows[0])]
    return Interactions.from_frame(pl.DataFrame(rows, schema=names, orient="row"), parts=len(names) > 3, **settings)


def counts(n, shares=(0.7, 0.2, 0.1)):
    """One user's counts, the rule written out."""
    if n < 3:
        return (n, 0, 0)
    train, valid = int(shares[0] * n) + 1, math.ceil(shares[1] * n) - 1
    test = n - train - valid
    if not valid:
        train, valid = train - 1, 1
    if not test:
        train, test = train - 1, 1
    return train, valid, test


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        *((10, (8, 1, 1)), (20, (15, 3, 2)), (26, (19, 5, 2)), (45, (32, 8, 5)), (50, (36, 9, 5)), (90, (63, 17, 10))),
        *((100, (71, 19, 10)), (170, (119, 33, 18)), (3, (1, 1, 1)), (2, (2, 0, 0)), (1, (1, 0, 0)), (0, (0, 0, 0))),
    ],
)
def test_counts_of_the_released_files(n, expected):
    assert tuple(parts.counts(np.array([n]))[0].tolist()) == expected == counts(n)


def test_another_ratio_gives_a_row_of_training_to_an_empty_part():
    assert parts.counts(np.array([10]), (0.7, 0.1, 0.2)).tolist() == [[7, 1, 2]]
    # With little training its only row would be gone; it comes back from the largest part.
    assert parts.counts(np.array([3]), (0.1, 0.1, 0.8)).tolist() == [[1, 1, 1]]


@given(st.integers(3, 3000), st.sampled_from([(0.7, 0.2, 0.1), (0.7, 0.1, 0.2), (0.5, 0.25, 0.25), (0.8, 0.1, 0.1)]))
def test_counts_are_the_rule_and_leave_no_part_empty(n, shares):
    found = parts.counts(np.array([n]), shares)[0]
    assert tuple(found.tolist()) == counts(n, shares)
    assert found.min() >= 1
    assert found.sum() == n


@pytest.mark.parametrize("shares", [(0.7, 0.2), (0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(BadSetting, match=r"three positive numbers that sum to 1; got (0.7|1.2)"):
        parts.counts(np.array([10]), shares)


def test_users_are_cut_in_time_order():
    rng = np.random.default_rng(0)
    rows = [(user, item, int(rng.integers(50))) for user in range(20) for item in rng.permutation(40)[: 3 + 2 * user]]
    log = log_of([rows[i] for i in rng.permutation(len(rows))])
    part = parts.assign(log)
    for user in range(log.n_users):
        mine = log.column("user") == user
        times = [log.column("time")[mine & (part == place)] for place in range(3)]
        assert tuple(map(len, times)) == counts(int(mine.sum()))
        assert times[0].max() <= times[1].min() <= times[1].max() <= times[2].min()


def test_items_are_numbered_by_first_appearance_in_training():
    rows = [("u", "b", 0, "train"), ("u", "a", 1, "train"), ("u", "z", 2, "valid"), ("v", "c", 0, "train")]
    rows += [("v", "a", 1, "train"), ("v", "y", 2, "test"), ("v", "b", 3, "valid")]
    items = pl.DataFrame({"item_id": ["q", "z", "y", "a", "b", "c"], "title": list("QZYABC")})
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "part"], orient="row")
    log = Interactions.from_frame(frame, items, catalogue=True, parts=True)
    new = parts.renumbered(log)
    assert new.items.values.to_list() == ["b", "a", "c", "z", "y", "q"]
    assert new.titles.to_list() == list("BACZYQ")
    assert new.items.ids(new.column("item")).to_list() == log.items.ids(log.column("item")).to_list()
    assert new.column("part").tolist() == log.column("part").tolist()


def test_parts_are_ignored_unless_asked_for():
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [0, 1], "part": ["train", "dev"]})
    log = Interactions.from_frame(frame)
    assert not log.has_parts
    assert "parts" not in log.statistics()
    with pytest.raises(BadLog, match="part is train, valid, test; got 'dev'"):
        Interactions.from_frame(frame, parts=True)
    with pytest.raises(BadLog, match="column 'part' is missing"):
        Interactions.from_frame(frame.drop("part"), parts=True)


def test_parts_survive_the_disk_and_count_in_the_fingerprint(tmp_path):
    plain = log_of([("a", "x", 0), ("a", "y", 1), ("a", "z", 2), ("b", "x", 5)])
    log = plain.with_parts(np.array([0, 1, 2, 0]))
    store.write(log, tmp_path / "set", {})
    opened = store.open(tmp_path / "set")
    assert opened.log.frame.equals(log.frame)
    assert opened.log.statistics()["parts"] == {"train": 2, "valid": 1, "test": 1}
    assert pl.read_parquet(tmp_path / "set" / "interactions.parquet")["part"].to_list() == [
        PARTS[i] for i in (0, 1, 2, 0)
    ]
    others = [plain, plain.with_parts(np.array([0, 1, 1, 0])), plain.with_parts(np.array([0, 2, 1, 0]))]
    assert len({store.fingerprint(one) for one in (log, *others)}) == 4
    (tmp_path / "set" / "dataset.json").unlink()  # then it is the directory of others, whose parts do not count
    assert not store.open(tmp_path / "set").log.has_parts


def test_filters_keep_parts_beside_their_rows():
    rng = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "user_id": rng.integers(0, 12, 300),
            "item_id": rng.integers(0, 15, 300),
            "timestamp": np.arange(300),
            "rating": rng.integers(1, 6, 300),
        }
    ).with_columns(part=pl.col("timestamp").mod(3).replace_strict({0: "train", 1: "valid", 2: "test"}))
    log = k_core(min_rating(Interactions.from_frame(frame, parts=True), 3), 9)
    assert 0 < len(log) < 300
    assert (log.column("part") == log.column("time") % 3).all()


@needs_released
def test_ml_1m_has_the_papers_counts():
    log = k_core(min_rating(store.open(ML_1M).log, 4), 10)
    assert (log.n_users, log.n_items) == (5949, 2810)
    split = splits.collaborative(log)
    rows = [int(part.lengths().sum()) for part in (split.train, split.valid.target, split.test.target)]
    assert rows == [403_277, 110_722, 57_532]
