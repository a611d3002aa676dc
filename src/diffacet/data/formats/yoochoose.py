"""YooChoose (RecSys Challenge 2015): `yoochoose-clicks.dat` or `yoochoose-buys.dat`, without a header.

A click is `session,2014-04-07T10:51:09.277Z,item,category`, a purchase `session,time,item,price,quantity`; the category
of a click is where it happened, not what the item is, and is not read.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from diffacet.data.formats.delimited import Delimited, shorten
from diffacet.data.formats.raw import bare, first_line, listing
from diffacet.data.formats.source import Names, Source, Table
from diffacet.errors import BadLog

EVENT = re.compile(r"\d+,\d{4}-\d\d-\d\dT[\d:.]+Z,\d+,[^,]*(,[^,]*)?")


def source(paths: Sequence[Path]) -> Source:
    """One kind of event: of a directory the clicks when there are clicks; sessions are the users."""
    files = listing(paths)
    if any(path.is_dir() for path in paths):
        clicks, buys = ([f for f in files if name in bare(f)] for name in ("yoochoose-clicks", "yoochoose-buys"))
        files = clicks or buys
        if not files:
            raise BadLog(f"{paths[0]} holds no yoochoose-clicks.dat or yoochoose-buys.dat; pass the file itself")
    return Source(tuple(_table(f) for f in files), Names("session_id", "item_id", "timestamp", "none"))


def _table(path: Path) -> Table:
    line = first_line(path).decode("utf-8", "replace")
    names: tuple[str, ...] = ("session_id", "timestamp", "item_id")
    if line.count(",") == 3:
        names += ("category",)
    elif line.count(",") == 4:
        names += ("price", "quantity")
    else:
        raise BadLog(
            f"{path}, row 1: {shorten(line)} is no YooChoose event (session,time,item,category); "
            "pass --format csv if the file has a header"
        )
    return Delimited(path, names, ",", header=False, quotes=False)
