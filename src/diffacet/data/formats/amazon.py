"""Amazon reviews: the JSON lines and rating tables of 2014 and 2018, their metadata.

Reviews are lines such as `{"reviewerID": "A1", "asin": "B0", "overall": 5.0, "unixReviewTime": 1252800000}`; tables
have no header: user, item, rating, time in 2014, item before user in 2018. Metadata of 2014 are Python literals.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from diffacet.data.formats.delimited import Delimited
from diffacet.data.formats.items import read_items
from diffacet.data.formats.jsonlines import with_keys
from diffacet.data.formats.raw import bare, first_line, kind, listing
from diffacet.data.formats.source import Source, Table
from diffacet.errors import BadLog

_ASIN = r"[0-9A-Z]{10}"
_USER = r"A[0-9A-Z]{8,}"
_NUMBERS = r"[0-9.]+,-?[0-9]+"
USER_FIRST = re.compile(rf"{_USER},{_ASIN},{_NUMBERS}")
ITEM_FIRST = re.compile(rf"{_ASIN},{_USER},{_NUMBERS}")


def source(paths: Sequence[Path]) -> Source:
    """Reviews or rating tables; a directory may also hold the `meta_*` file of its reviews."""
    files = [f for f in listing(paths) if kind(f) in ("jsonl", "csv")]
    logs = [f for f in files if not bare(f).startswith("meta_")]
    meta = [f for f in files if bare(f).startswith("meta_")]
    if not logs:
        raise BadLog(f"{paths[0]} holds no Amazon reviews; expected reviews_*.json(.gz) or ratings_*.csv")
    items = partial(read_items, meta[0]) if len(meta) == 1 else None
    return Source(tuple(_table(f) for f in logs), items=items)


def _table(path: Path) -> Table:
    line = first_line(path)
    if line.lstrip().startswith(b"{"):
        return with_keys(path)
    text = line.decode("utf-8", "replace")
    if USER_FIRST.fullmatch(text):
        names = ("user_id", "item_id", "rating", "timestamp")
    elif ITEM_FIRST.fullmatch(text):
        names = ("item_id", "user_id", "rating", "timestamp")
    elif text.count(",") == 3:
        names = ("user_id", "item_id", "rating", "timestamp")
    else:
        raise BadLog(
            f"{path}, row 1: {text[:60]!r} is no Amazon rating (user,item,rating,time) and no JSON line; "
            "pass --format csv if the file has a header"
        )
    return Delimited(path, names, ",", header=False)
