"""Splits of click logs by time: borders, time zones, ties, and the short texts of commands."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffacet.data.clicks import splitting
from diffacet.errors import BadLog, BadSetting

DAY = 86_400_000


def at(*when):
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)


def parts(times, rule, zone="UTC"):
    found = splitting.split(np.array(times, dtype=np.int64), rule, zone)
    return [part.tolist() for part in (found.train, found.valid, found.test)]


def test_days_are_those_of_the_time_zone():
    """00:30 and 23:30 of one day in Shanghai are of two days in UTC."""
    moments = [1494001800000, 1494084600000, 1494088200000]
    assert [str(splitting.local_day(t, "Asia/Shanghai")) for t in moments] == ["2017-05-06", "2017-05-06", "2017-05-07"]
    assert [str(splitting.local_day(t, "UTC")) for t in moments] == ["2017-05-05", "2017-05-06", "2017-05-06"]
    times = [moments[0] - DAY, *moments]
    assert parts(times, {"by": "day"}, "Asia/Shanghai") == [[0], [1, 2], [3]]
    assert parts(times, {"by": "day"}, "UTC") == [[0], [1], [2, 3]]


def test_borders_of_the_alibaba_days():
    """2017-05-13 starts at 1494604800 s in Shanghai, eight hours before it does in UTC."""
    times = np.array([at(2017, 5, 6), at(2017, 5, 13, 12)])
    assert splitting.borders(times, {"by": "day"}, "Asia/Shanghai") == (1494604800000 - DAY, 1494604800000)
    assert splitting.borders(times, splitting.rule_of("dsin"), "Asia/Shanghai") == (1494547200000, 1494633600000)


def test_days_are_calendar_days():
    """Days without samples count, and so does the hour that summer time takes."""
    times = np.array([at(2023, 3, 20), at(2023, 3, 26, 12)])
    first, second = splitting.borders(times, {"by": "day", "test_days": 1, "valid_days": 3}, "Europe/Berlin")
    assert second == at(2023, 3, 25, 23)
    assert second - first == 3 * DAY
    after = splitting.borders(times + DAY, {"by": "day"}, "Europe/Berlin")
    assert after[1] - after[0] == 23 * 3_600_000


@pytest.mark.parametrize(
    ("day", "zone", "start"),
    [
        ((2018, 11, 4), "America/Sao_Paulo", at(2018, 11, 4, 3)),  # no midnight: 00:00 became 01:00
        ((2011, 12, 30), "Pacific/Apia", at(2011, 12, 30, 10)),  # no such day: the 31st follows the 29th
        ((2023, 11, 5), "America/Havana", at(2023, 11, 5, 4)),  # two midnights: the first
    ],
)
def test_days_without_or_with_two_midnights(day, zone, start):
    found = splitting.midnight(datetime(*day).date(), zone)
    assert found == start
    assert splitting.local_day(found - 1, zone) < datetime(*day).date()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.sampled_from([(0.8, 0.1), (0.5, 0.3), (0.1, 0.1)]))
def test_quantiles_keep_equal_times_together(times, shares):
    rule = {"by": "quantile", "train": shares[0], "valid": shares[1]}
    ordered = sorted(times)
    try:
        found = parts(times, rule)
    except BadLog:
        found = None
    train = [t for t in times if t <= ordered[max(int(shares[0] * len(times) + 1e-9), 1) - 1]]
    both = [t for t in times if t <= ordered[max(int(sum(shares) * len(times) + 1e-9), 1) - 1]]
    if len(train) == len(both) or len(both) == len(times):
        assert found is None
        return
    assert sorted(row for part in found for row in part) == list(range(len(times)))
    assert [times[row] for row in found[0]] == train
    assert len(found[0]) + len(found[1]) == len(both)


def test_quantiles_of_distinct_times():
    order = np.random.default_rng(0).permutation(10)
    found = parts(order, {"by": "quantile", "train": 0.7, "valid": 0.2})  # 0.7 + 0.2 is below 0.9 in binary
    assert [sorted(order[part]) for part in found] == [list(range(7)), [7, 8], [9]]


def test_instants():
    assert parts([5, 4, 9, 10, 11], {"by": "instant", "valid": 5, "test": 10}) == [[1], [0, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("day", {"by": "day", "test_days": 1, "valid_days": 1}),
        ("day:2:1", {"by": "day", "test_days": 2, "valid_days": 1}),
        ("quantile", {"by": "quantile", "train": 0.8, "valid": 0.1}),
        ("quantile:0.7:0.2", {"by": "quantile", "train": 0.7, "valid": 0.2}),
        ("instant:5:9", {"by": "instant", "valid": 5, "test": 9}),
        ("dsin", {"by": "instant", "valid": 1494547200000, "test": 1494633600000}),
    ],
)
def test_short_texts(text, rule):
    assert splitting.rule_of(text) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("days", r"unknown split 'days' \(did you mean 'day'\?\)"),
        ("day:2", "has 1 numbers"),
        ("day:0:1", "at least 1"),
        ("day:x:1", "invalid literal"),
        ("day:1.5:1", "invalid literal"),
        ("quantile:0.9:0.1", "leave a test"),
        ("quantile:nan:0.1", "leave a test"),
        ("instant", "has 0 numbers"),
        ("instant:9:5", "before test"),
        ("dsin:1:2", "unknown split"),
        ("", "unknown split"),
    ],
)
def test_short_texts_that_are_none(text, message):
    with pytest.raises(BadSetting, match=message):
        splitting.rule_of(text)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "by None"),
        ({"by": "dya"}, "did you mean 'day'"),
        (
            {"by": "day", "test_day": 1},
            r"unknown key 'test_day' \(did you mean 'test_days'\?\) of split; split by day knows",
        ),
        ({"by": "day", "test_days": 1.5}, "whole number"),
        ({"by": "day", "test_days": True}, "whole number"),
        ({"by": "instant", "valid": 3}, "test of split by instant is a whole number; got None"),
        ({"by": "quantile", "train": "0.5"}, "share"),
    ],
)
def test_rules_that_are_none(rule, message):
    with pytest.raises(BadLog, match=f"^here: .*{message}"):
        splitting.checked(rule, "here")


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        ({"by": "instant", "valid": 0, "test": 5}, "train"),
        ({"by": "instant", "valid": 3, "test": 4}, "valid"),
        ({"by": "instant", "valid": 3, "test": 11}, "test"),
        ({"by": "day"}, "train"),
        ({"by": "quantile", "train": 0.8, "valid": 0.1}, "valid"),
    ],
)
def test_an_empty_part_is_refused(rule, part):
    with pytest.raises(BadLog, match=f"leaves no sample to {part}.*1970-01-01 00:00:00"):
        parts([1, 2, 5, 10], rule)


def test_times_beyond_all_calendars_are_refused():
    for moment in (2**62, -(10**14)):
        with pytest.raises(BadLog, match="milliseconds"):
            splitting.borders(np.array([moment]), {"by": "day"}, "UTC")
    with pytest.raises(BadLog, match=r"samples lie from 1970-01-01 00:00:00 to 4611686018427387904"):
        parts([0, 2**62], {"by": "instant", "valid": 5, "test": 9})
    with pytest.raises(BadLog, match="take fewer days"):
        splitting.borders(np.array([0]), {"by": "day", "test_days": 10**6}, "UTC")


def test_time_zones():
    assert splitting.known_zone("Asia/Shanghai")
    assert not splitting.known_zone("Asia/Shanghigh")
