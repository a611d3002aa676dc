"""What must hold in the files of a click data set; each refusal names file, column and row, and the way out."""

from collections.abc import Iterable

import numpy as np
import polars as pl

from diffacet.data.clicks.vocabulary import categories, first_row
from diffacet.errors import BadLog, nearest

UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6}
YEARS = (3e8, 4e9)
"""Seconds since 1970 in which logs lie: of 1979 to 2096. In other units the same years lie elsewhere."""


def columns_there(frame: pl.DataFrame, wanted: Iterable[tuple[str, str]], where: str) -> None:
    """Raise BadLog for the first of `wanted` (column, what needs it) that `frame` lacks."""
    for column, need in wanted:
        if column not in frame.columns:
            raise BadLog(
                f"{where} has no column {column!r}{nearest(column, frame.columns)}, which is needed ({need}); "
                f"it has {', '.join(frame.columns) or 'none'}"
            )


def nothing_missing(frame: pl.DataFrame, columns: Iterable[str], where: str) -> None:
    """Raise BadLog for the first null in `columns`."""
    for column in columns:
        row = first_row(frame[column].is_null())
        if row is not None:
            raise BadLog(
                f"{where}, row {row + 1}: {column} is missing; every row has one, so fill it in or drop the row"
            )


def whole_times(series: pl.Series, where: str) -> pl.Series:
    """The timestamps `series` as Int64; raises BadLog for what is no whole number of milliseconds."""
    if series.dtype.is_integer():
        return categories(series, f"{where}, column {series.name}")
    if series.dtype.is_float():
        row = first_row(~(series.is_finite() & (series == series.floor())))
        got = f"row {(row or 0) + 1}: {series.name} is {series[row or 0]}, in a column of {series.dtype}"
    else:
        got = f"column {series.name} is of {series.dtype}, such as {series[0] if len(series) else None!r} in row 1"
    raise BadLog(f"{where}, {got}; timestamps are whole numbers of milliseconds since 1970 in UTC (Int64)")


def binary_labels(series: pl.Series, where: str) -> pl.Series:
    """The labels `series` as UInt8; raises BadLog for one that is not 0 or 1."""
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        raise BadLog(f"{where}: label is of {series.dtype}, such as {series[0]!r} in row 1; write 0 or 1")
    numbers = series.cast(pl.Float64)
    row = first_row(~numbers.is_in([0.0, 1.0]))
    if row is not None:
        raise BadLog(f"{where}, row {row + 1}: label is {series[row]}; write 1 for a click and 0 for none")
    return numbers.cast(pl.UInt8)


def unique_ids(series: pl.Series, where: str) -> None:
    """Raise BadLog for the first row of an id that an earlier row has."""
    ids = categories(series, f"{where}, column {series.name}")
    if ids.n_unique() < len(ids):
        row = first_row(~ids.is_first_distinct()) or 0
        first = int((ids == ids[row]).arg_max() or 0)
        raise BadLog(
            f"{where}, row {row + 1}: {series.name} {ids[row]!r} is already in row {first + 1}; "
            f"keep one row for each {series.name}"
        )


def finite_numbers(series: pl.Series, where: str) -> None:
    """Raise BadLog when the dense column `series` is not numeric, or for its first NaN or infinite value."""
    if not (series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null)):
        raise BadLog(f"{where}: column {series.name!r} of {series.dtype} is named in dense_fields; only numbers can be")
    row = first_row(series.is_not_null() & ~series.is_finite()) if series.dtype.is_float() else None
    if row is not None:
        raise BadLog(
            f"{where}, row {row + 1}: {series.name} is {series[row]}; write null for a missing number, or a finite one"
        )


def units_agree(samples: pl.Series, behaviours: pl.Series, where: str) -> tuple[str, ...]:
    """Notes on times that look like another unit than milliseconds; raises BadLog when only one file's do."""
    first, second = _unit(samples), _unit(behaviours)
    if first and second and first != second:
        raise BadLog(
            f"{where}: the timestamps of samples look like {first}, those of behaviours like {second}, so the cut in "
            "time would be wrong; write milliseconds since 1970 in both"
        )
    if first in (None, "milliseconds"):
        return ()
    return (f"timestamps such as {samples[0]} look like {first}, and they are read as milliseconds since 1970",)


def _unit(series: pl.Series) -> str | None:
    """The unit in which the median time is of our years; None where it is so in none."""
    middle = float(np.median(series.to_numpy())) if len(series) else 0.0
    return next((unit for unit, size in UNITS.items() if YEARS[0] <= middle / size <= YEARS[1]), None)
