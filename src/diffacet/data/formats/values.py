"""Columns into ids and ratings: cast strictly, the first bad value named by file and row."""

from collections.abc import Callable

import polars as pl

from diffacet.data.formats.delimited import shorten
from diffacet.errors import BadLog

Where = Callable[[int], str]  # index of a row -> "log.csv, row 1042"
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"


def ids(column: pl.Series, where: Where, name: str) -> pl.Series:
    """The ids as Int64 or String, none missing; raises BadLog. `name`: the column, for the message."""
    if column.dtype.is_integer():
        found = column.cast(pl.Int64, strict=False)
    elif column.dtype.is_float():
        found = column.cast(pl.Int64, strict=False)
        odd = (found.cast(pl.Float64) != column.cast(pl.Float64)).fill_null(False) | column.is_nan()
        _refuse_first(column, odd, where, name, "is no whole number; ids are whole numbers or text")
    elif column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Binary):
        found = column.cast(pl.String, strict=False)
    else:
        raise BadLog(f"{where(0)}: column '{name}' holds {column.dtype}; ids are whole numbers or text")
    missing = found.is_null() if found.dtype.is_integer() else found.is_null() | (found == "")
    _refuse_first(found, missing, where, name, "is no id (empty); every row needs one: fill in or drop the row")
    return found


def numbered(*columns: pl.Series) -> list[pl.Series]:
    """The columns as Int64 when every value of all of them is a whole number in plain form, else as String.

    "007", "+7" and "7.0" are not plain: they stay text, so that no two ids become one.
    """
    if all(_whole(column) for column in columns):
        return [column.cast(pl.Int64) for column in columns]
    return [column.cast(pl.String) for column in columns]


def _whole(column: pl.Series) -> bool:
    return column.dtype.is_integer() or bool(column.str.contains(_WHOLE).all())


def ratings(column: pl.Series, where: Where, name: str) -> pl.Series:
    """The ratings as finite Float64; raises BadLog."""
    if not (column.dtype.is_numeric() or column.dtype == pl.String):
        raise BadLog(f"{where(0)}: column '{name}' holds {column.dtype}; ratings are numbers; pass --rating none")
    text = column.str.strip_chars() if column.dtype == pl.String else column
    found = text.cast(pl.Float64, strict=False)
    bad = found.is_null() | ~found.is_finite().fill_null(False)
    words = "is no rating (a finite number); correct or drop the row, or pass --rating none"
    _refuse_first(column, bad, where, name, words)
    return found


def _refuse_first(column: pl.Series, bad: pl.Series, where: Where, name: str, words: str) -> None:
    if bad.any():
        index = bad.arg_max() or 0
        value = column[index]
        got = "a missing value" if value is None or value == "" else shorten(value)
        raise BadLog(f"{where(index)}: column '{name}': {got} {words}")
