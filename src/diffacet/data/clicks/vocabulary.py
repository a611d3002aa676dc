"""Vocabularies: which number stands for which value of a field."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data.sequences import IntArray
from diffacet.errors import BadLog

FIRST = 3
"""The number of the first value; 0 is padding, 1 unknown, 2 the target's mark."""

Counts: TypeAlias = pl.DataFrame
"""Values with how often each occurs: columns `value` and `count`, no null."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The values of a field that training knows; values[i] has the number 3 + i.

    Attributes:
        values: (n,) distinct integers or strings, no null.
    """

    values: pl.Series

    @property
    def size(self) -> int:
        """3 + n: one more than the largest number."""
        return FIRST + len(self.values)

    def numbers(self, series: pl.Series) -> NDArray[np.int32]:
        """(n,) int32 numbers of the values in `series`; 1 for a null and for what the vocabulary lacks."""
        found = places(series, self.values)
        return np.where(found < 0, FIRST - 2, found + FIRST).astype(np.int32)

    @classmethod
    def of(cls, counts: Sequence[Counts], min_count: int = 1) -> "Vocabulary":
        """The values that occur `min_count` times in all of `counts` together: most frequent first, ties by value."""
        parts = [part for part in counts if part.height]
        if not parts:
            return cls(pl.Series([], dtype=pl.Int64))
        dtype = together([part["value"] for part in parts])
        total = (
            pl.concat([part.select(pl.col("value").cast(dtype), pl.col("count").cast(pl.Int64)) for part in parts])
            .group_by("value")
            .agg(pl.col("count").sum())
            .filter(pl.col("count") >= min_count)
            .sort(["count", "value"], descending=[True, False])
        )
        return cls(total["value"])


def together(parts: Sequence[pl.Series]) -> type[pl.DataType]:
    """The dtype in which the values of all `parts` compare: Int64 if all are integers, else String."""
    return pl.Int64 if all(part.dtype == pl.Int64 for part in parts) else pl.String


def union(parts: Sequence[pl.Series]) -> pl.Series:
    """The distinct values of all `parts`, ascending, as Int64 or String; no null."""
    dtype = together(parts)
    return pl.concat([part.cast(dtype).unique().drop_nulls() for part in parts]).unique().sort()


def places(series: pl.Series, values: pl.Series) -> IntArray:
    """(n,) int64, where each of `series` stands among the distinct `values`; -1 for a null and for what is not there.

    The number 12 and the text "12" are the same value.
    """
    if not len(values) or not len(series):
        return np.full(len(series), -1, dtype=np.int64)
    asked = series.cast(values.dtype, strict=False)
    there = pl.Series(np.arange(len(values), dtype=np.int64))
    return asked.replace_strict(values, there, default=-1, return_dtype=pl.Int64).to_numpy()


def categories(series: pl.Series, where: str) -> pl.Series:
    """`series` as Int64 or String, in which ids and categories are compared.

    Raises BadLog, which starts with `where` and names the row, for floats that are no whole numbers, for numbers
    beyond 64 bits, and for what is no category at all.
    """
    dtype = series.dtype
    if dtype == pl.Int64 or dtype == pl.String:
        return series
    if dtype.is_float():
        wrong = first_row(series.is_not_null() & ~(series.is_finite() & (series == series.floor())))
        if wrong is not None:
            raise BadLog(
                f"{where}, row {wrong + 1}: {series[wrong]} is no category; write whole numbers or texts, and null for "
                "what is missing (a number belongs to dense_fields, or into buckets)"
            )
        return series.cast(pl.Int64)
    if dtype.is_integer():
        wrong = first_row(series > 2**63 - 1) if dtype == pl.UInt64 else None
        if wrong is not None:
            raise BadLog(f"{where}, row {wrong + 1}: {series[wrong]} is beyond 64 bits with a sign; write it as text")
        return series.cast(pl.Int64)
    if dtype in (pl.Boolean, pl.Categorical, pl.Enum, pl.Date, pl.Null):
        return series.cast(pl.String)
    raise BadLog(f"{where}: a column of {dtype} has no categories; write whole numbers or texts")


def first_row(wrong: pl.Series) -> int | None:
    """The 0-based row of the first true value, or None; null counts as false."""
    place = wrong.fill_null(False).arg_max() if len(wrong) else None
    return place if place is not None and wrong[place] else None
