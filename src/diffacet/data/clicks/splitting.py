"""Splits of a click log by time: what is learned from, what chooses, and what is scored once.

A sample trains if its time lies before the first border, validates if it lies before the second, else it tests.
Behaviours are not split: a sample of the test may look at all that happened before it.

    {"by": "day", "test_days": 1, "valid_days": 1}      calendar days in the time zone of the data, the last ones
    {"by": "quantile", "train": 0.8, "valid": 0.1}      shares of the samples; equal times stay together
    {"by": "instant", "valid": ms, "test": ms}          the two borders themselves

In a command these are "day" or "day:TEST:VALID", "quantile" or "quantile:TRAIN:VALID", "instant:VALID:TEST"; "dsin" is
the border that DSIN's code has for the Alibaba data: midnight in UTC, eight hours later than in Shanghai.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from math import floor
from typing import TypeAlias

import numpy as np
import polars as pl

from diffacet.data.sequences import IntArray
from diffacet.errors import BadLog, BadSetting, nearest

Rule: TypeAlias = Mapping[str, str | int | float]

DAY_MS = 86_400_000
CALENDAR = 60_000_000_000_000
"""Milliseconds from 1970 to 3871, and back to 69; beyond them a moment is written as a number."""
DSIN_TEST = 1_494_633_600_000
"""2017-05-13 00:00 UTC, where DSIN's code cuts the Alibaba samples."""

_KEYS = {"day": ("test_days", "valid_days"), "quantile": ("train", "valid"), "instant": ("valid", "test")}
_DEFAULTS: dict[str, tuple[int | float, int | float]] = {"day": (1, 1), "quantile": (0.8, 0.1)}
_FORMS = "day, day:TEST:VALID, quantile, quantile:TRAIN:VALID, instant:VALID:TEST or dsin"


@dataclass(frozen=True, eq=False)
class ClickSplit:
    """The samples of each part.

    Attributes:
        train: (n,) int64 row numbers of samples, ascending; so are `valid` and `test`. No part is empty.
        valid: the samples from the first border on.
        test: the samples from the second border on.
        borders: the two borders, milliseconds since 1970 in UTC.
    """

    train: IntArray
    valid: IntArray
    test: IntArray
    borders: tuple[int, int]


def checked(rule: Rule, where: str) -> dict[str, str | int | float]:
    """`rule` with its defaults filled in; raises BadLog, starting with `where`, for what is no rule of a split."""
    by = rule.get("by")
    if not isinstance(by, str) or by not in _KEYS:
        raise BadLog(f"{where}: split says by {by!r}{nearest(str(by), _KEYS)}; it is one of {', '.join(_KEYS)}")
    first, second = _KEYS[by]
    for key in rule:
        if key not in ("by", first, second):
            raise BadLog(
                f"{where}: unknown key {key!r}{nearest(key, (first, second))} of split; "
                f"split by {by} knows {first} and {second}"
            )
    values: dict[str, str | int | float] = {"by": by}
    for place, key in enumerate((first, second)):
        value = rule.get(key, _DEFAULTS[by][place] if by in _DEFAULTS else None)
        allowed = (int, float) if by == "quantile" else int
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise BadLog(
                f"{where}: {key} of split by {by} is a {'share' if by == 'quantile' else 'whole number'}; got {value!r}"
            )
        values[key] = value
    a, b = float(values[first]), float(values[second])
    if by == "day" and not (a >= 1 and b >= 1):
        raise BadLog(
            f"{where}: test_days and valid_days of split are at least 1; got {values[first]} and {values[second]}"
        )
    if by == "quantile" and not (a > 0 and b > 0 and a + b < 1):
        raise BadLog(f"{where}: train and valid of split are positive shares that leave a test; got {a} and {b}")
    if by == "instant" and not a < b:
        raise BadLog(f"{where}: valid of split lies before test; got {values[first]} and {values[second]}")
    return values


def rule_of(text: str) -> dict[str, str | int | float]:
    """The rule that a command's text stands for; raises BadSetting for what is none."""
    by, *numbers = text.strip().split(":")
    if by == "dsin" and not numbers:
        return {"by": "instant", "valid": DSIN_TEST - DAY_MS, "test": DSIN_TEST}
    if by not in _KEYS:
        raise BadSetting(f"unknown split {text!r}{nearest(by, [*_KEYS, 'dsin'])}; a click log is split by {_FORMS}")
    if len(numbers) not in (0, 2) or (by == "instant" and not numbers):
        raise BadSetting(f"split {text!r} has {len(numbers)} numbers; write {_FORMS}")
    rule: dict[str, str | int | float] = {"by": by}
    try:
        for key, number in zip(_KEYS[by], numbers, strict=bool(numbers)):
            rule[key] = float(number) if by == "quantile" else int(number)
        return checked(rule, f"split {text!r}")
    except (ValueError, BadLog) as error:
        raise BadSetting(f"{error}; write {_FORMS}") from None


def borders(times: IntArray, rule: Rule, timezone: str) -> tuple[int, int]:
    """The two borders in milliseconds that `rule` gives the samples' `times` (S,); by day in `timezone`.

    Raises BadLog when a border would lie before the year 1, or on a day that the zone has not.
    """
    full = checked(rule, "the split")
    if full["by"] == "instant":
        return int(full["valid"]), int(full["test"])
    if full["by"] == "day":
        last = local_day(int(times.max()), timezone)
        try:
            second = last - timedelta(days=int(full["test_days"]) - 1)
            first = second - timedelta(days=int(full["valid_days"]))
        except OverflowError as error:
            raise BadLog(f"the split {_told(rule)} begins before the year 1; take fewer days") from error
        return midnight(first, timezone), midnight(second, timezone)
    ordered = np.sort(times)
    train, valid = float(full["train"]), float(full["valid"])
    return _after(ordered, train), _after(ordered, train + valid)


def _after(ordered: IntArray, share: float) -> int:
    """The first time after those of the first `share` of the ordered times; equal times are never parted."""
    kept = max(floor(share * len(ordered) + 1e-9), 1)  # 0.8 + 0.1 is 0.9000000000000000222 and 0.7 + 0.2 is 0.8999...
    place = int(np.searchsorted(ordered, ordered[kept - 1], side="right"))
    return int(ordered[place]) if place < len(ordered) else int(ordered[-1]) + 1


def split(times: IntArray, rule: Rule, timezone: str) -> ClickSplit:
    """The parts of the samples of `times` (S,) under `rule`; raises BadLog when a part would be empty."""
    first, second = borders(times, rule, timezone)
    parts = {
        "train": np.flatnonzero(times < first),
        "valid": np.flatnonzero((times >= first) & (times < second)),
        "test": np.flatnonzero(times >= second),
    }
    for name, rows in parts.items():
        if not len(rows):
            raise BadLog(
                f"the split {_told(rule)} leaves no sample to {name}: the borders are {instant(first, timezone)} and "
                f"{instant(second, timezone)}, and the samples lie from {instant(int(times.min()), timezone)} to "
                f"{instant(int(times.max()), timezone)} ({timezone}); choose another split, such as quantile:0.8:0.1"
            )
    return ClickSplit(parts["train"], parts["valid"], parts["test"], (first, second))


def _told(rule: Rule) -> str:
    return ", ".join(f"{key} {value}" for key, value in rule.items())


def known_zone(timezone: str) -> bool:
    """Whether `timezone` is an IANA name, such as Asia/Shanghai."""
    try:
        pl.Series([0]).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").dt.convert_time_zone(timezone)
    except pl.exceptions.PolarsError:
        return False
    return True


def local_day(moment: int, timezone: str) -> date:
    """The calendar day in `timezone` of `moment`, ms since 1970 in UTC; raises BadLog beyond all calendars."""
    if abs(moment) > CALENDAR:
        raise BadLog(f"the time {moment} is of no calendar day; times are milliseconds since 1970 in UTC")
    return _local(moment, timezone).date()


def instant(moment: int, timezone: str) -> str:
    """`moment` (ms since 1970 in UTC) as a person in `timezone` writes it; the number if no calendar has it."""
    return str(moment) if abs(moment) > CALENDAR else _local(moment, timezone).isoformat(" ", "seconds")


def _local(moment: int, timezone: str) -> datetime:
    """The wall clock without zone. Polars brings the zones along; the system may have none."""
    utc = pl.Series([moment], dtype=pl.Int64).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    wall: datetime = utc.dt.convert_time_zone(timezone).dt.replace_time_zone(None).item()
    return wall


def midnight(day: date, timezone: str) -> int:
    """The first moment of `day` in `timezone`, milliseconds since 1970 in UTC; raises BadLog when it has none."""
    start = datetime(day.year, day.month, day.day)
    for hour in range(49):  # where the clock jumps over midnight, or over a whole day, the next that exists
        wall = pl.Series([start + timedelta(hours=hour)]).cast(pl.Datetime("ms"))
        found = wall.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null").cast(pl.Int64).item()
        if found is not None:
            return int(found)
    raise BadLog(f"{timezone} has no {day}; name another time zone in dataset.json")
