"""Columns of raw tables as a click folder has them: times in milliseconds, labels, categories, numbers."""

from collections.abc import Callable

import polars as pl

from diffacet.data.formats import times, values
from diffacet.data.formats.delimited import shorten
from diffacet.data.formats.items import categories as lists
from diffacet.errors import BadLog

Where = Callable[[int], str]
UNITS = {"auto": 0, "s": 1, "ms": 1000}
_TIME_REMEDY = "pass --time COL if it is another column, or drop the row"
_ANSWERS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


def milliseconds(column: pl.Series, where: Where, unit: str = "auto") -> pl.Series:
    """Int64 milliseconds since 1970 in UTC; raises BadLog naming the first row without a time.

    `unit`: what numbers are, "s" or "ms"; "auto" tells by their size. Dates need none; without a zone they are UTC.
    """
    name = column.name
    if unit != "auto":
        number = column.cast(pl.Float64, strict=False)
        if column.dtype.is_numeric() or (column.dtype == pl.String and number.null_count() < len(column)):
            bad = number.is_null() | ~number.is_finite().fill_null(False) | (number.abs() > 9e15)
            refuse(column, bad, where, f"is no number of {'seconds' if unit == 's' else 'milliseconds'}", _TIME_REMEDY)
            whole = column.cast(pl.Int64, strict=False)
            scale = 1000 // UNITS[unit]
            found = whole * scale if whole.null_count() == 0 and not column.dtype.is_float() else number * scale
            return found.round().cast(pl.Int64).alias("timestamp")
    parsed = times.parse(column, where, name, _TIME_REMEDY)
    if parsed.unit <= 1000:
        return parsed.at(1000).alias("timestamp")
    return (parsed.values // (parsed.unit // 1000)).alias("timestamp")


def answers(column: pl.Series, where: Where, remedy: str) -> pl.Series:
    """Int8 of 0 and 1 out of numbers, truth values or text; raises BadLog naming the first row with anything else."""
    text = column.cast(pl.String, strict=False) if column.dtype != pl.Boolean else column.cast(pl.Int8).cast(pl.String)
    found = text.str.strip_chars().str.to_lowercase().replace_strict(_ANSWERS, default=None, return_dtype=pl.Int8)
    refuse(column, found.is_null(), where, "is no answer: a label is 0 or 1", remedy)
    return found


def categories(column: pl.Series, where: Where) -> pl.Series:
    """Int64 or String, null for an empty value; raises BadLog for a column of lists."""
    kind = column.dtype
    if kind == pl.UInt64 and (column > 2**63 - 1).any():
        return column.cast(pl.String)
    if kind == pl.Boolean or kind.is_integer():
        return column.cast(pl.Int64)
    if kind.is_float() or kind.is_decimal():
        number = column.cast(pl.Float64).fill_nan(None)
        if bool((number == number.floor()).all()):
            return number.cast(pl.Int64)
        return number.cast(pl.String)
    if kind in (pl.List, pl.Struct, pl.Object) or isinstance(kind, pl.Array):
        raise BadLog(
            f"{where(0)}: column '{column.name}' holds {kind}; a field has one value a row: choose one of them, "
            "or make a column of each"
        )
    text = column.cast(pl.String)
    return pl.select(pl.when(text != "").then(text)).to_series().alias(column.name)


def first(column: pl.Series, where: Where) -> pl.Series:
    """As `categories`, and of lists, or of parts between "|", the first part."""
    if not isinstance(column.dtype, pl.List) and not (
        column.dtype == pl.String and column.str.contains(r"^[\[({]|\|").any()
    ):
        return categories(column, where)
    return categories(lists(column).list.first().alias(column.name), where)


def ids(column: pl.Series, where: Where) -> pl.Series:
    """Int64 or String, none missing; raises BadLog."""
    found = categories(column, where)
    refuse(column, found.is_null(), where, "is no id", "every row needs one: fill it in, or drop the row")
    return found


def alike(*columns: pl.Series) -> list[pl.Series]:
    """The columns as Int64 where all values of all of them are whole numbers in plain form, else as String."""
    made = values.numbered(*columns)
    return [one.alias(column.name) for one, column in zip(made, columns, strict=True)]


def numbers(column: pl.Series, where: Where) -> pl.Series:
    """Float64, null for an empty value; raises BadLog naming the first row that is no finite number."""
    text = column.str.strip_chars() if column.dtype == pl.String else column
    empty = column.is_null() | (text == "" if column.dtype == pl.String else False)
    found = text.cast(pl.Float64, strict=False)
    bad = ~empty & (found.is_null() | ~found.is_finite().fill_null(False))
    remedy = "leave the value empty where it is not known, or pass the field as categorical"
    refuse(column, bad, where, "is no finite number", remedy)
    return found


def refuse(column: pl.Series, bad: pl.Series, where: Where, what: str, remedy: str) -> None:
    """Raise BadLog about the first row that is `bad`, with its value."""
    if bad.any():
        index = bad.arg_max() or 0
        value = column[index]
        got = "an empty value" if value is None or value == "" else shorten(value)
        raise BadLog(f"{where(index)}: column '{column.name}': {got} {what}; {remedy}")
