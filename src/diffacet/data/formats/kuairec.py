"""KuaiRec: `big_matrix.csv` or `small_matrix.csv`; the rating is the watch ratio; `item_categories.csv` for the items.

Times are those of the column `timestamp` (seconds with a fraction). `small_matrix.csv` has rows without a time: they
are dropped and counted.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from diffacet.data.formats.delimited import with_header
from diffacet.data.formats.items import read_items
from diffacet.data.formats.raw import bare, listing
from diffacet.data.formats.source import Names, Source
from diffacet.errors import BadLog

LOGS = ("big_matrix.csv", "small_matrix.csv")


def source(paths: Sequence[Path]) -> Source:
    """The watched videos; of a directory the big matrix when it is there, else the small one."""
    files, notes = listing(paths), []
    if any(path.is_dir() for path in paths):
        named = {bare(f): f for f in files}
        files = [named[name] for name in LOGS if name in named][:1]
        if not files:
            raise BadLog(f"{paths[0]} holds neither {' nor '.join(LOGS)}; pass the directory that does")
        if set(LOGS) <= set(named):
            notes.append("big_matrix.csv read, small_matrix.csv left out; pass the file to read the other")
    items = files[0].with_name("item_categories.csv")
    return Source(
        tuple(with_header(f) for f in files),
        Names("user_id", "video_id", "timestamp", "watch_ratio"),
        items=partial(read_items, items) if items.is_file() else None,
        notes=tuple(notes),
        drop_timeless=True,
    )
