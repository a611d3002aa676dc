"""Columns as the schema names them: x of a frame, or items.x and users.x, which are joined and never copied."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from diffacet.data.clicks.schema import source_of
from diffacet.data.clicks.vocabulary import Counts, Vocabulary, categories, places
from diffacet.data.sequences import BoolArray, IntArray


@dataclass(frozen=True, eq=False)
class Column:
    """The values of a column for n rows: `values` itself, or values[rows] with -1 for none.

    Attributes:
        values: the values, one a row of `rows`'s file.
        rows: (n,) int64; None where `values` has the n rows.
    """

    values: pl.Series
    rows: IntArray | None = None

    def numbers(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """(n,) int32 numbers of the values; 1 for null, unknown, and where there is nothing to join."""
        found = vocabulary.numbers(self.values)
        if self.rows is None:
            return found
        return np.append(found, np.int32(1))[self.rows]  # row -1 is the last

    def counts(self, kept: BoolArray) -> Counts:
        """How often each value occurs in the rows where `kept` (n,) is true."""
        if self.rows is None:
            return self.values.alias("value").filter(pl.Series(kept)).drop_nulls().value_counts(name="count")
        times = np.bincount(self.rows[kept & (self.rows >= 0)], minlength=len(self.values))
        frame = pl.DataFrame({"value": self.values, "count": times})
        return (
            frame.filter((pl.col("count") > 0) & pl.col("value").is_not_null())
            .group_by("value")
            .agg(pl.col("count").sum())
        )

    def floats(self) -> NDArray[np.float64]:
        """(n,) float64 values of a numeric column; NaN for null and where there is nothing to join."""
        found = self.values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return found if self.rows is None else np.append(found, np.nan)[self.rows]


class Joined:
    """A frame of samples or behaviours with the files that its columns may be joined from."""

    def __init__(
        self, frame: pl.DataFrame, items: pl.DataFrame | None, users: pl.DataFrame | None, where: dict[str, str]
    ) -> None:
        self.frame, self.tables, self.where = frame, {"items": items, "users": users}, where
        self.rows: dict[str, IntArray] = {}

    def raw(self, column: str) -> Column:
        """The column that the schema calls `column`, as it is in the file."""
        table, name = source_of(column)
        if table is None:
            return Column(self.frame[name])
        source = self.tables[table]
        assert source is not None, "checked when read"
        if table not in self.rows:
            key = "item_id" if table == "items" else "user_id"
            asked, there = (categories(one[key], self.where[table]) for one in (self.frame, source))
            self.rows[table] = places(asked, there)
        return Column(source[name], self.rows[table])

    def column(self, column: str) -> Column:
        """The categorical column that the schema calls `column`, as Int64 or String; raises BadLog for what is none."""
        table, name = source_of(column)
        found = self.raw(column)
        return Column(categories(found.values, f"{self.where[table or 'frame']}, column {name}"), found.rows)
