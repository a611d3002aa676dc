import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.data.ids import Ids
from diffacet.data.interactions import Interactions
from diffacet.errors import BadLog, UnknownItem

LIST = pl.List(pl.Utf8)


def raw(rows, **columns):
    names = ["user_id", "item_id", "timestamp", "rating"][: len(rows[0])]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(**columns)


SMALL = raw([("b", "x", 5), ("a", "y", 1), ("b", "y", 2), ("b", "z", 2), ("a", "y", 0)])


def test_users_by_first_appearance_items_by_count_then_first_appearance():
    log = Interactions.from_frame(SMALL)
    assert log.users.values.to_list() == ["b", "a"]
    assert log.items.values.to_list() == ["y", "x", "z"]  # 3, 1, 1; x was read before z
    assert log.frame.rows() == [(0, 1, 2), (0, 3, 2), (0, 2, 5), (1, 1, 0), (1, 1, 1)]
    assert log.frame.schema == {"user": pl.Int64, "item": pl.Int64, "time": pl.Int64}
    assert (log.n_users, log.n_items, len(log)) == (2, 3, 5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40))
def test_numbers_and_order_equal_the_written_out_definition(rows):
    log = Interactions.from_frame(raw(rows))
    users = list(dict.fromkeys(user for user, _, _ in rows))
    seen = list(dict.fromkeys(item for _, item, _ in rows))
    items = sorted(seen, key=lambda item: -sum(row[1] == item for row in rows))  # Python's sort is stable
    ordered = sorted(rows, key=lambda row: (users.index(row[0]), row[2]))
    assert log.users.values.to_list() == users
    assert log.items.values.to_list() == items
    assert log.frame.rows() == [(users.index(u), items.index(i) + 1, t) for u, i, t in ordered]


def test_ties_in_time_keep_the_order_of_the_input_in_a_long_log():
    n = 30_000
    frame = pl.DataFrame({"user_id": np.arange(n) % 7, "item_id": np.arange(n), "timestamp": np.zeros(n, dtype=int)})
    log = Interactions.from_frame(frame)
    ids = log.items.ids(log.column("item")).to_numpy()
    assert np.array_equal(ids, np.concatenate([np.arange(u, n, 7) for u in range(7)]))
    assert log.items.values.to_list() == list(range(n))


def test_sequences_of_a_log():
    sequences = Interactions.from_frame(SMALL).sequences()
    assert [sequences.row(u).tolist() for u in range(2)] == [[1, 3, 2], [1, 1]]
    assert sequences.times.tolist() == [2, 2, 5, 0, 1]


def test_ratings_become_floats_and_nan_becomes_missing():
    log = Interactions.from_frame(raw([(1, 1, 0, 4.0), (1, 2, 1, float("nan"))]))
    assert log.frame["rating"].to_list() == [4.0, None]
    whole = Interactions.from_frame(raw([(1, 1, 0, 4)]))
    assert whole.frame["rating"].dtype == pl.Float64


def test_titles_and_categories_follow_the_item_numbers():
    items = pl.DataFrame(
        {
            "item_id": ["z", "unused", "y", "z"],
            "title": ["Z", "U", None, "late"],
            "categories": [[3, 1], [9], None, [7]],
        }
    )
    log = Interactions.from_frame(SMALL, items)
    assert log.items.values.to_list() == ["y", "x", "z"]
    assert log.titles.to_list() == [None, None, "Z"]
    assert log.categories.dtype == LIST
    assert log.categories.to_list() == [[], [], ["3", "1"]]
    bare = Interactions.from_frame(SMALL, items.select("item_id"))
    assert bare.titles is None
    assert bare.categories is None


def test_items_are_matched_as_text_when_types_differ():
    items = pl.DataFrame({"item_id": ["10", "20"], "title": ["ten", "twenty"]})
    log = Interactions.from_frame(raw([(1, 20, 0), (1, 10, 1)]), items)
    assert log.titles.to_list() == ["twenty", "ten"]
    assert log.items.values.dtype == pl.Int64


def test_a_catalogue_numbers_the_items_by_its_rows_and_keeps_items_without_an_interaction():
    items = pl.DataFrame({"item_id": ["x", "never", "z", "y"], "title": list("abcd")})
    log = Interactions.from_frame(SMALL, items, catalogue=True)
    assert log.items.values.to_list() == ["x", "never", "z", "y"]
    assert log.titles.to_list() == list("abcd")
    assert log.frame["item"].to_list() == [4, 3, 1, 4, 4]
    assert log.statistics()["per_item"]["min"] == 0


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (None, "without a table of items"),
        (pl.DataFrame({"item_id": ["x", "y"]}), "1 items of the log are not in the catalogue, such as z"),
        (pl.DataFrame({"item_id": ["x", "y", "z", "y"]}), "item_id y occurs more than once"),
    ],
)
def test_a_catalogue_that_does_not_fit_is_refused(items, message):
    with pytest.raises(BadLog, match=message):
        Interactions.from_frame(SMALL, items, catalogue=True)


def test_a_catalogue_of_texts_does_not_fit_a_log_of_integers():
    with pytest.raises(BadLog, match="make them alike"):
        Interactions.from_frame(raw([(1, 1, 0)]), pl.DataFrame({"item_id": ["one"]}), catalogue=True)


@pytest.mark.parametrize(
    ("times", "kind"),
    [([0, 1, 2, 0, 1], "rank"), ([0, 1, 3, 0, 1], "real"), ([1, 2, 3, 1, 2], "real"), ([0] * 5, "real")],
)
def test_times_are_ranks_only_if_each_user_counts_from_zero_without_a_gap(times, kind):
    frame = pl.DataFrame({"user_id": [1, 1, 1, 2, 2], "item_id": [1, 2, 3, 1, 2], "timestamp": times})
    assert Interactions.from_frame(frame.reverse()).times == kind
    assert Interactions.from_frame(frame, times="rank").times == "rank"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (SMALL.drop("item_id"), "column 'item_id' is missing; the columns are user_id, timestamp"),
        (SMALL.clear(), "no interaction"),
        (
            SMALL.with_columns(timestamp=pl.Series([1, None, 2, None, 3])),
            "timestamp is missing in 2 rows, first in row 2",
        ),
        (
            SMALL.with_columns(user_id=pl.Series(["a", "a", None, "b", "b"])),
            "user_id is missing in 1 rows, first in row 3",
        ),
        (
            SMALL.with_columns(item_id=pl.Series([None] * 5, dtype=pl.Utf8)),
            "item_id is missing in 5 rows, first in row 1",
        ),
        (SMALL.with_columns(timestamp=pl.col("timestamp") + 0.5), "timestamp must hold integers.*Float64"),
        (SMALL.with_columns(timestamp=pl.col("timestamp").cast(pl.Utf8)), "timestamp must hold integers"),
        (SMALL.with_columns(timestamp=pl.lit(2**63, dtype=pl.UInt64)), "9223372036854775808 does not fit"),
        (SMALL.with_columns(user_id=pl.lit(1.5)), "user_id must hold integers or strings, not Float64"),
        (SMALL.with_columns(rating=pl.lit("good")), "rating must hold numbers"),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_with_the_place(frame, message):
    with pytest.raises(BadLog, match=message):
        Interactions.from_frame(frame)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (pl.DataFrame({"title": ["a"]}), "column 'item_id' is missing"),
        (pl.DataFrame({"item_id": ["x", None]}), "item_id is missing in 1 rows, first in row 2"),
        (pl.DataFrame({"item_id": ["x"], "categories": ["a|b"]}), "categories must hold a list"),
        (pl.DataFrame({"item_id": ["x"], "categories": [[["a"]]]}), "categories must hold a list"),
        (pl.DataFrame({"item_id": ["x"], "title": [["a"]]}), "title must hold strings"),
    ],
)
def test_items_that_cannot_be_used_are_refused(items, message):
    with pytest.raises(BadLog, match=message):
        Interactions.from_frame(SMALL, items)


def test_categorical_ids_are_strings():
    log = Interactions.from_frame(SMALL.with_columns(pl.col("item_id").cast(pl.Categorical)))
    assert log.items.values.dtype == pl.Utf8


def test_statistics_of_a_small_log():
    items = pl.DataFrame({"item_id": ["x", "y"], "categories": [["c", "d"], ["c"]]})
    statistics = Interactions.from_frame(SMALL, items).statistics()
    assert statistics == {
        "users": 2,
        "items": 3,
        "interactions": 5,
        "pairs": 4,
        "repeated_pairs": 1,
        "density": 4 / 6,
        "per_user": {"min": 2, "median": 2.5, "mean": 2.5, "max": 3},
        "per_item": {"min": 1, "median": 1.0, "mean": 5 / 3, "max": 3},
        "first_time": 0,
        "last_time": 5,
        "times": "real",
        "with_categories": 2 / 3,
        "categories": 2,
    }
    assert json.loads(json.dumps(statistics)) == statistics
    assert Interactions.from_frame(SMALL).statistics()["categories"] == 0


def test_restricting_a_log_moves_users_and_items_up():
    items = pl.DataFrame({"item_id": ["x", "y", "z"], "title": ["X", "Y", "Z"], "categories": [["x"], ["y"], ["z"]]})
    log = Interactions.from_frame(SMALL, items)
    kept = log.restrict(log.column("user") == 1, np.array([True, False, True]))
    assert kept.users.values.to_list() == ["a"]
    assert kept.items.values.to_list() == ["y", "z"]
    assert kept.titles.to_list() == ["Y", "Z"]
    assert kept.categories.to_list() == [["y"], ["z"]]
    assert kept.frame.rows() == [(0, 1, 0), (0, 1, 1)]
    assert kept.times == log.times


TEXTS = Ids(pl.Series(["b", "12", "", "a"]), 1)
WHOLE = Ids(pl.Series([30, 4, 100]), 0)


def test_ids_are_found_as_text_and_as_number():
    assert TEXTS.find(["a", "b", "q", ""]).tolist() == [4, 1, -1, 3]
    assert TEXTS.find([12]).tolist() == [2]
    assert WHOLE.find(["4", "100", "04", "x"]).tolist() == [1, 2, -1, -1]
    assert WHOLE.find(pl.Series([100, 5, 30])).tolist() == [2, -1, 0]


@pytest.mark.parametrize("ids", [[None], ["a", None], [3.5], [["a"]], [{"a": 1}], [object()], ["a", 12, None, 2.5]])
def test_finding_never_raises(ids):
    found = TEXTS.find(ids)
    assert found.dtype == np.int64
    assert found.tolist() == [{"a": 4, 12: 2}.get(value, -1) if isinstance(value, str | int) else -1 for value in ids]


def test_nothing_is_found_among_nothing():
    assert TEXTS.find([]).tolist() == []
    assert Ids(pl.Series([], dtype=pl.Utf8), 1).find(["a"]).tolist() == [-1]


def test_unknown_ids_are_named_five_at_most():
    with pytest.raises(UnknownItem, match=r"unknown id q; 4 ids are known, such as b, 12"):
        TEXTS.numbers(["a", "q"])
    with pytest.raises(UnknownItem, match=r"unknown ids 0, 1, 2, 3, 5 and 2 more;"):
        WHOLE.numbers([0, 1, 2, 3, 4, 5, 6, 7])
    assert WHOLE.numbers([4, 30]).tolist() == [1, 0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=4), min_size=1, unique=True))
def test_numbers_and_ids_are_inverse(values):
    ids = Ids(pl.Series(values, dtype=pl.Utf8), 1)
    assert ids.numbers(values).tolist() == list(range(1, len(values) + 1))
    assert ids.ids(ids.numbers(values)).to_list() == values


@pytest.mark.parametrize("numbers", [[0], [5], [-1, 1]])
def test_a_number_without_an_id_is_refused_so_that_padding_names_no_item(numbers):
    with pytest.raises(UnknownItem, match=r"1\.\.4"):
        TEXTS.ids(numbers)
