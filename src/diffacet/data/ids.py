"""Ids: what a log calls its users and items, and the numbers that stand for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from diffacet.data.sequences import IntArray
from diffacet.errors import UnknownItem


@dataclass(frozen=True, eq=False)
class Ids:
    """Distinct ids (integers or strings) in the order of their numbers.

    Attributes:
        values: (n,) the ids; values[0] has the number `first`.
        first: 0 for users, 1 for items (0 is padding).
    """

    values: pl.Series
    first: int

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _sorted(self) -> tuple[pl.Series, IntArray]:
        """The ids as sorted strings, and the number of each."""
        texts = self.values.cast(pl.Utf8)
        order = texts.arg_sort()
        return texts.gather(order), order.to_numpy().astype(np.int64) + self.first

    def find(self, ids: Sequence[Any] | pl.Series) -> IntArray:
        """The numbers (B,) int64 of `ids`, -1 for an unknown one; '12' and 12 are the same id. Never raises."""
        texts = _as_texts(ids)
        values, numbers = self._sorted
        if not len(values) or not len(texts):
            return np.full(len(texts), -1, dtype=np.int64)
        place = values.search_sorted(texts.fill_null("")).to_numpy()
        place = np.minimum(place, len(values) - 1)
        same = (values.gather(place) == texts).fill_null(False).to_numpy()
        return np.where(same, numbers[place], -1)

    def numbers(self, ids: Sequence[Any] | pl.Series) -> IntArray:
        """The numbers (B,) int64 of `ids`; raises UnknownItem naming up to five unknown ones."""
        found = self.find(ids)
        if (found < 0).any():
            unknown = list(dict.fromkeys(str(ids[int(i)]) for i in np.flatnonzero(found < 0)[:1000]))
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UnknownItem(
                f"unknown id{'s' if len(unknown) > 1 else ''} {', '.join(unknown[:5])}{more}; "
                f"{len(self)} ids are known, such as {', '.join(self.values.head(3).cast(pl.Utf8))}"
            )
        return found

    def ids(self, numbers: IntArray | Sequence[int]) -> pl.Series:
        """The ids (B,) of `numbers`; raises UnknownItem when a number (such as padding) has none."""
        rows = np.asarray(numbers, dtype=np.int64) - self.first
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise UnknownItem(f"numbers lie in {self.first}..{self.first + len(self) - 1}; got {list(numbers)[:5]}")
        return self.values.gather(rows)


def _as_texts(ids: Sequence[Any] | pl.Series) -> pl.Series:
    series = ids if isinstance(ids, pl.Series) else pl.Series(values=list(ids), strict=False)
    if series.dtype.is_nested() or series.dtype == pl.Object:
        series = pl.Series([str(value) for value in series], dtype=pl.Utf8)
    return series.cast(pl.Utf8, strict=False)
