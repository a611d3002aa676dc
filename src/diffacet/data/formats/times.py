"""Time stamps into whole seconds (or milliseconds where seconds would lose the order); exact integers throughout.

Numbers are seconds since 1970 up to 10^11 (the year 5138), milliseconds up to 10^14, microseconds up to 10^17 and
nanoseconds above. Text is ISO 8601: "2014-07-23", "2014-07-23 10:05", "2014-07-23T10:05:33.120Z", "...+02:00", or what
a form such as "%d.%m.%Y %H:%M" says; a time without a zone is UTC.
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from diffacet.data.formats.delimited import shorten
from diffacet.errors import BadLog

Where = Callable[[int], str]
_LIMITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
REMEDY = (
    "pass --time COL, or --time-format such as '%d.%m.%Y %H:%M' for other dates, or --time none for file order, or drop"
    " the row"
)
_CODES = "%d day, %m month, %Y year, %H:%M:%S clock"
UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}
_ISO = (
    r"^\s*(?<day>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?<clock>\d{2}:\d{2})(?<second>:\d{2})?(?:[.,](?<part>\d{1,9}))?)?"
    r"\s*(?<zone>Z|UTC|[+-]\d{2}:?\d{2})?\s*$"
)


@dataclass(frozen=True)
class Times:
    """Int64 times with `unit` ticks a second."""

    values: pl.Series
    unit: int

    def at(self, unit: int) -> pl.Series:
        """The times in a finer or equal unit."""
        return self.values * (unit // self.unit)


def parse(column: pl.Series, where: Where, name: str, remedy: str = REMEDY, form: str | None = None) -> Times:
    """The times of one file; raises BadLog naming the first row whose time is missing or cannot be read.

    `remedy`: what the message says may be done. `form`: how dates are written, in strftime's codes; None: ISO 8601.
    """
    kind = column.dtype
    if form is not None and (kind == pl.String or kind.is_integer()):
        return _formed(column, where, name, form)
    if kind.is_temporal() and kind in (pl.Datetime, pl.Date):
        micros = column.cast(pl.Datetime("us")).dt.epoch("us")
        _refuse(column, micros.is_null(), where, name, remedy)
        return Times(micros, 10**6)
    if kind.is_integer():
        return _whole(column, column.cast(pl.Int64, strict=False), where, name, remedy)
    if kind.is_float() or kind.is_decimal():
        return _fractions(column, column.cast(pl.Float64), where, name, remedy)
    if kind != pl.String:
        raise BadLog(f"{where(0)}: column '{name}' holds {kind}, not times; {remedy}")
    text = column.str.strip_chars()
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == 0:
        return _whole(column, whole, where, name, remedy)
    start = text.drop_nulls().head(1).cast(pl.Float64, strict=False)
    if start.null_count() == 0 and len(start):
        return _fractions(column, text.cast(pl.Float64, strict=False), where, name, remedy)
    return _dates(column, where, name, remedy)


def _whole(column: pl.Series, found: pl.Series, where: Where, name: str, remedy: str) -> Times:
    _refuse(column, found.is_null(), where, name, remedy)
    return Times(found, _unit(column, found, where, name))


def _fractions(column: pl.Series, found: pl.Series, where: Where, name: str, remedy: str) -> Times:
    bad = found.is_null() | ~found.is_finite().fill_null(False) | (found.abs() > 9e18)
    _refuse(column, bad, where, name, remedy)
    unit = _unit(column, found, where, name)
    if bool((found == found.floor()).all()):
        return Times(found.cast(pl.Int64), unit)
    scale = max(unit, 10**6)
    return Times((found * (scale // unit)).round().cast(pl.Int64), scale)


def _unit(column: pl.Series, found: pl.Series, where: Where, name: str) -> int:
    """Ticks a second, by size; raises BadLog when one file mixes seconds with finer units."""
    size = found.abs()
    top = float(size.max() or 0)  # type: ignore[arg-type]
    unit = next((unit for limit, unit in _LIMITS if top > limit), 1)
    if unit > 1:
        coarse = size <= 10**11
        if coarse.any():
            index = coarse.arg_max() or 0
            raise BadLog(
                f"{where(index)}: column '{name}': {shorten(column[index])} is in seconds (or missing) "
                f"while others are in {UNITS[unit]}; give all in one unit, or drop the row"
            )
    return unit


def _dates(column: pl.Series, where: Where, name: str, remedy: str) -> Times:
    part = pl.col("part").fill_null("").str.pad_end(9, "0").cast(pl.Int64)
    zone = pl.col("zone").str.replace(":", "")
    sign = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    shift = sign * (
        zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + zone.str.slice(3, 2).cast(pl.Int64, strict=False)
    )
    clock = pl.col("clock").fill_null("00:00") + pl.col("second").fill_null(":00")
    stamp = (pl.col("day") + " " + clock).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    found = (
        column.str.extract_groups(_ISO)
        .struct.unnest()
        .select(
            seconds=stamp.dt.epoch("s") - shift.fill_null(0) * 60,
            nanos=part,
        )
    )
    _refuse(column, found["seconds"].is_null(), where, name, remedy)
    if bool((found["nanos"] == 0).all()):
        return Times(found["seconds"], 1)
    return Times(found["seconds"] * 10**6 + found["nanos"] // 1000, 10**6)


def _formed(column: pl.Series, where: Where, name: str, form: str) -> Times:
    stamp = column.cast(pl.String).str.strip_chars().str.to_datetime(form, time_unit="us", strict=False)
    bad = stamp.is_null()
    if bad.any():
        index = bad.arg_max() or 0
        raise BadLog(
            f"{where(index)}: column '{name}': {shorten(column[index])} is not written as --time-format '{form}' says"
            f" ({_CODES}); change it, or drop the row"
        )
    micros = stamp.dt.epoch("us")
    if bool((micros % 10**6 == 0).all()):
        return Times(micros // 10**6, 1)
    return Times(micros, 10**6)


def _refuse(column: pl.Series, bad: pl.Series, where: Where, name: str, remedy: str) -> None:
    if bad.any():
        index = bad.arg_max() or 0
        value = column[index]
        got = "the time is missing" if value is None or value == "" else f"{shorten(value)} is no time"
        raise BadLog(f"{where(index)}: column '{name}': {got} (seconds since 1970, or YYYY-MM-DD HH:MM:SS); {remedy}")


def settle(user: pl.Series, times: Times) -> tuple[pl.Series, str | None]:
    """The times in seconds when that keeps the order of every user's rows, else the coarsest unit that does; a note."""
    if times.unit == 1:
        return times.values, None
    for unit in (1, 10**3):
        if unit < times.unit:
            coarse = times.values // (times.unit // unit)
            lost = _lost(user, times.values, coarse)
            if lost == 0:
                return coarse, f"timestamp: {UNITS[times.unit]} to {UNITS[unit]}; the order of no user's rows is lost"
    return times.values, f"timestamp: kept in {UNITS[times.unit]}; a coarser unit would lose the order of {lost} rows"


def _lost(user: pl.Series, fine: pl.Series, coarse: pl.Series) -> int:
    """Rows that a stable sort by (user, coarse) would put before a row that is earlier by `fine`."""
    order = pl.DataFrame({"user": user, "fine": fine, "coarse": coarse}).with_row_index("row")
    order = order.sort("user", "fine", "row")
    same = (pl.col("user") == pl.col("user").shift()) & (pl.col("coarse") == pl.col("coarse").shift())
    return int(order.select((same & (pl.col("row") < pl.col("row").shift())).sum()).item())
