"""The items of a log that is read piece by piece: counted, numbered, found again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from diffacet.data.sequences import IntArray

ITEM, CODE = "item", "code"


def counted(paths: Sequence[Path], dtype: pl.DataType) -> pl.DataFrame:
    """The items (`dtype`) and len (Int64), how often each occurs by the counts in `paths`; in canonical order."""
    scans = [pl.scan_ipc(path).with_columns(pl.col(ITEM).cast(dtype)) for path in paths]
    return ordered(pl.concat(scans).group_by(ITEM).agg(pl.col("len").sum().cast(pl.Int64)).collect(engine="streaming"))


def ordered(items: pl.DataFrame) -> pl.DataFrame:
    """`items` (item, len) by descending count, ties by ascending id as text."""
    if items[ITEM].dtype == pl.Int64:
        # Numbers as texts are long to sort, and few of them tie where it is many: those with one count only.
        return items.sort(pl.col("len"), pl.col(ITEM).cast(pl.String), descending=[True, False])
    return items.sort("len", ITEM, descending=[True, False])


def write(items: pl.Series, path: Path) -> None:
    """Write the file by which `numbers` finds items: each with its place in `items`, numbers ascending."""
    frame = pl.DataFrame({ITEM: items}).with_row_index(CODE).select(ITEM, pl.col(CODE).cast(pl.Int64))
    (frame.sort(ITEM) if items.dtype == pl.Int64 else frame).write_ipc(path)


def numbers(items: pl.Series, path: Path) -> IntArray:
    """(m,) the places of distinct `items`, all of which are in the file `path`."""
    frame = pl.read_ipc(path)
    if items.dtype == pl.Int64:
        place = np.searchsorted(frame[ITEM].to_numpy(), items.to_numpy())
        return frame[CODE].to_numpy()[place]
    found = pl.DataFrame({ITEM: items}).join(frame, on=ITEM, how="left", maintain_order="left")
    return found[CODE].to_numpy()


def described(items: pl.Series, details: pl.DataFrame | None) -> tuple[pl.Series | None, pl.Series | None]:
    """Titles and categories of `items` in their order (null, an empty list for one without), as `details` knows them.

    `details` has item_id, of the same type and without repeats, maybe title and categories; None where it has none.
    """
    if details is None:
        return None, None
    found = items.to_frame("item_id").join(details, on="item_id", how="left", maintain_order="left")
    titles = found["title"].cast(pl.String) if "title" in found.columns else None
    if "categories" not in found.columns:
        return titles, None
    lists = found["categories"].cast(pl.List(pl.String)).list.drop_nulls()
    return titles, lists.fill_null(pl.Series([[]], dtype=pl.List(pl.String)))
