"""Logs of any origin: CSV, TSV, JSON lines, Parquet and the published raw forms, plain or gzip, one file or many."""

from collections.abc import Sequence
from pathlib import Path

from diffacet.data.formats import read_raw
from diffacet.data.formats.source import Names, RawLog

__all__ = ["RawLog", "read_log"]


def read_log(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",  # noqa: A002
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    items: str | Path | None = None,
    time_format: str | None = None,
) -> RawLog:
    """The log in `paths`, every row in input order, nothing filtered.

    Args:
        paths: files, or directories that stand for their files sorted by name; `.gz` is unpacked. Several files are
            read as one log, in the order given.
        format: "auto", "csv" (any of , tab ; | as separator, read off the header), "jsonl", "parquet", "amazon",
            "gowalla", "movielens", "yelp", "yoochoose", "kuairec", "dreamrec".
        user: the column of the users; None: the first that has one of the common names (`formats.columns.USER`).
        item: the column of the items; None: likewise.
        time: the column of the times (seconds, milliseconds, or dates in ISO 8601, UTC unless they say otherwise);
            None: likewise; "none": there are none, and the rows of a user are in order.
        rating: the column of the ratings; None: likewise, or no ratings; "none": do not read them.
        items: a file of item descriptions: ids, where known titles and categories, found by common names.
        time_format: how the times are written, in the codes of strftime ("%d.%m.%Y %H:%M"); None: as above.

    Raises:
        BadLog: a file is missing, empty, damaged or in another encoding; a column is not found; a row has too few or
            too many fields, no id, no time, or a value that cannot be read. The message names file and row (from 1,
            the header counted), the value and what to do.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    described = None if items is None else Path(items)
    names = Names(user, item, time, rating, time_format)
    return read_raw(format, [Path(path) for path in given], names=names, items=described)
