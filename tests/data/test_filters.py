from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffacet.data import filters
from diffacet.data.interactions import Interactions
from diffacet.errors import BadLog, BadSetting

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=60)


def log_of(rows):
    names = ["user_id", "item_id", "timestamp", "rating"][: len(rows[0])]
    return Interactions.from_frame(pl.DataFrame(rows, schema=names, orient="row"))


def in_order(log):
    """The rows (user id, item id, time) of a log, in its order."""
    users, items = log.users.ids(log.column("user")), log.items.ids(log.column("item"))
    return list(zip(users.to_list(), items.to_list(), log.frame["time"].to_list(), strict=True))


def check(filtered, log, rows, catalogue):
    """`filtered` holds `rows` and `catalogue`, each in the order that `log` has them in."""
    users = {row[0] for row in rows}
    assert in_order(filtered) == rows
    assert filtered.users.values.to_list() == [user for user in log.users.values if user in users]
    assert filtered.items.values.to_list() == [item for item in log.items.values if item in catalogue]


def one_pass(rows, n):
    """The published filter as a literal loop: the rows and the items that stay."""
    of_item = Counter(item for _, item, _ in rows)
    items = {item for item, count in of_item.items() if count >= n}
    of_user = Counter(user for user, item, _ in rows if item in items)
    return [row for row in rows if row[1] in items and of_user[row[0]] >= n], items


def fixed_point(rows, n):
    """Drop one user or item with too few interactions at a time, until there is none."""
    while True:
        counts = Counter(("user", row[0]) for row in rows) + Counter(("item", row[1]) for row in rows)
        few = next((key for key, count in counts.items() if count < n), None)
        if few is None:
            return rows
        rows = [row for row in rows if row[("user", "item").index(few[0])] != few[1]]


@settings(deadline=None, max_examples=80)
@given(ROWS, st.integers(1, 4))
def test_one_pass_equals_the_literal_loop(rows, n):
    log = log_of(rows)
    kept, items = one_pass(in_order(log), n)
    if kept:
        check(filters.min_count_once(log, n), log, kept, items)
    else:
        with pytest.raises(BadLog, match="leaves nobody"):
            filters.min_count_once(log, n)


@settings(deadline=None, max_examples=80)
@given(ROWS, st.integers(1, 4))
def test_the_core_equals_the_literal_loop(rows, n):
    log = log_of(rows)
    kept = fixed_point(in_order(log), n)
    if kept:
        check(filters.k_core(log, n), log, kept, {item for _, item, _ in kept})
    else:
        with pytest.raises(BadLog, match="core is empty"):
            filters.k_core(log, n)


# Users a and b have two interactions each on p and q; c has one, on r, and d has one, on r.
LEFT_OUT = [("a", "p", 0), ("a", "q", 1), ("b", "p", 0), ("b", "q", 1), ("c", "r", 0), ("d", "r", 0)]


def test_an_item_that_stays_may_end_without_an_interaction():
    once = filters.min_count_once(log_of(LEFT_OUT), 2)
    assert once.items.values.to_list() == ["p", "q", "r"]
    assert np.bincount(once.column("item"), minlength=4).tolist() == [0, 2, 2, 0]
    assert once.users.values.to_list() == ["a", "b"]
    assert filters.k_core(log_of(LEFT_OUT), 2).items.values.to_list() == ["p", "q"]


def test_one_pass_and_the_core_differ_where_dropping_a_user_leaves_an_item_with_too_few():
    # d leaves, so r has one interaction left; the core drops r, then c, who has only p besides.
    rows = [*LEFT_OUT, ("c", "p", 1)]
    once = filters.min_count_once(log_of(rows), 2)
    assert once.users.values.to_list() == ["a", "b", "c"]
    assert np.bincount(once.column("item"), minlength=4).tolist() == [0, 3, 2, 1]
    core = filters.k_core(log_of(rows), 2)
    assert core.users.values.to_list() == ["a", "b"]
    assert core.n_items == 2


@settings(deadline=None, max_examples=40)
@given(ROWS, st.integers(1, 3))
def test_the_core_is_a_fixed_point_of_both_filters(rows, n):
    try:
        core = filters.k_core(log_of(rows), n)
    except BadLog:
        return
    for again in (filters.k_core(core, n), filters.min_count_once(core, n)):
        assert again.frame.equals(core.frame)
        assert again.items.values.to_list() == core.items.values.to_list()


def test_the_refusals_say_what_was_left():
    log = log_of(LEFT_OUT)
    with pytest.raises(BadLog, match=r"4 users, 3 items and 6 .* 0 items have 3 or more, .* \(at most 0\)"):
        filters.min_count_once(log, 3)
    chain = log_of([(0, 0, 0), (0, 1, 1), (1, 1, 0), (1, 2, 1), (2, 2, 0)])
    with pytest.raises(BadLog, match="3 users, 3 items, 5 interactions; 1 users, 2 items, 2 interactions; nobody"):
        filters.k_core(chain, 2)


@pytest.mark.parametrize("filtered", [filters.min_count_once, filters.k_core])
def test_a_minimum_below_one_is_refused(filtered):
    with pytest.raises(BadSetting, match="1 or more; got 0"):
        filtered(log_of(LEFT_OUT), 0)


RATED = [(1, "x", 0, 5.0), (1, "y", 1, 3.0), (2, "y", 0, 4.0), (3, "z", 0, None), (3, "w", 1, float("nan"))]


def test_a_minimum_rating_counts_a_missing_one_as_less():
    log = filters.min_rating(log_of(RATED), 4)
    assert in_order(log) == [(1, "x", 0), (2, "y", 0)]
    assert log.items.values.to_list() == ["y", "x"]  # the order of the raw counts, two and one


def test_a_minimum_rating_without_ratings_or_above_them_is_refused():
    with pytest.raises(BadLog, match="no ratings"):
        filters.min_rating(log_of(LEFT_OUT), 4)
    with pytest.raises(BadLog, match=r"rated 6 or more; the ratings of the 5 interactions lie in 3.0\.\.5.0"):
        filters.min_rating(log_of(RATED), 6)


def test_repeated_rows_go_and_repeated_pairs_stay():
    rows = [(1, "x", 5, 1.0), (1, "x", 5, 2.0), (1, "x", 3, 3.0), (1, "y", 5, 4.0), (2, "x", 5, 5.0)]
    log, dropped = filters.drop_repeated_rows(log_of(rows))
    assert dropped == 1
    assert log.frame["rating"].to_list() == [3.0, 1.0, 4.0, 5.0]  # of the two, the first read
    again, none = filters.drop_repeated_rows(log)
    assert none == 0
    assert again is log


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_distinct_pairs_keep_the_earliest(rows):
    log = log_of(rows)
    seen, kept = set(), []
    for row in in_order(log):
        if row[:2] not in seen:
            kept.append(row)
            seen.add(row[:2])
    check(filters.distinct_pairs(log), log, kept, {item for _, item, _ in rows})


def test_filters_keep_what_times_are_though_ranks_have_gaps_afterwards():
    log = log_of([("a", "x", 0), ("a", "y", 1), ("a", "x", 2), ("b", "x", 0)])
    assert log.times == "rank"
    kept = filters.min_count_once(log, 2)
    assert kept.frame["time"].to_list() == [0, 2]
    assert kept.times == "rank"
